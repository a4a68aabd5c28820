//! An empty, migrated database for each test.
//!
//! [`TestDatabase::create`] copies a template database, which the first test that meets a new set of
//! migrations makes; a copy costs some tens of milliseconds. The server is the one that
//! `CHATFN_TEST_DATABASE_URL` names, which `chatfn-db private -- …` starts and sets.
//!
//! A [`Proxy`] in between can cut connections, or let them die without a word.

mod proxy;

use std::time::{Duration, Instant};

use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};
use uuid::Uuid;

pub use self::proxy::Proxy;
use crate::error::describe;
use crate::migrate::{self, MIGRATIONS, RunOptions};
use crate::pool::DatabaseUrl;
use crate::quote_identifier;

/// Names the test server: a superuser's URL, of which the database part serves administration only.
pub const SERVER_VARIABLE: &str = "CHATFN_TEST_DATABASE_URL";

/// Serialises the making of templates among test processes. The bytes of "chtest".
const TEMPLATE_LOCK: i64 = 0x6368_7465_7374;

/// Longest wait for another process to make a template; a migration that takes longer is a mistake.
const TEMPLATE_WAIT: Duration = Duration::from_secs(120);

/// A database of one test's own, dropped with this value (open connections notwithstanding).
#[derive(Debug)]
pub struct TestDatabase {
    name: String,
    url: DatabaseUrl,
    server: PgConnectOptions,
    pool: PgPool,
}

impl TestDatabase {
    /// A new database with chatfn's migrations applied.
    ///
    /// # Panics
    /// If there is no test server, saying how to get one, or if a migration fails.
    pub async fn create() -> Self {
        Self::create_with(&MIGRATIONS).await
    }

    /// A new database with another history applied.
    ///
    /// # Panics
    /// As [`TestDatabase::create`].
    pub async fn create_with(migrator: &Migrator) -> Self {
        let server = server_url();
        let mut admin = connect(&server).await;
        let template = ensure_template(&server, &mut admin, migrator).await;
        Self::copy(server, admin, &template).await
    }

    /// A new database without anything in it, not even the record of migrations.
    ///
    /// # Panics
    /// If there is no test server, saying how to get one.
    pub async fn create_empty() -> Self {
        let server = server_url();
        let admin = connect(&server).await;
        Self::copy(server, admin, "template1").await
    }

    async fn copy(server: DatabaseUrl, mut admin: PgConnection, template: &str) -> Self {
        let name = format!("chatfn_test_{}", Uuid::new_v4().simple());
        execute(
            &mut admin,
            format!("CREATE DATABASE {} TEMPLATE {}", quote_identifier(&name), quote_identifier(template)),
        )
        .await;
        let _ = admin.close().await;
        let url = server.with_database(&name).expect("the server's URL was good a moment ago");
        let options = |url: &DatabaseUrl| url.connect_options().expect("the URL was good a moment ago");
        #[expect(clippy::disallowed_methods, reason = "a slow machine must not fail a test: no timeouts")]
        let pool = PgPoolOptions::new();
        let pool = pool
            .max_connections(10)
            .acquire_timeout(Duration::from_secs(30))
            .connect_lazy_with(options(&url).application_name("chatfn-test"));
        Self { name, server: options(&server), url, pool }
    }

    /// A pool of at most 10 connections, without the services' timeouts.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Where the database is, for code under test that opens its own pool.
    #[must_use]
    pub fn url(&self) -> &DatabaseUrl {
        &self.url
    }
}

impl Drop for TestDatabase {
    /// Best effort: what cannot be dropped goes when the throw-away server goes.
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        // A thread with its own runtime: the test's runtime may be the one that is dropping us.
        let dropper = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
            runtime.block_on(async {
                tokio::time::timeout(Duration::from_secs(10), drop_database(&server, &name)).await.ok()?.ok()
            })
        });
        let _ = dropper.join();
    }
}

async fn drop_database(server: &PgConnectOptions, name: &str) -> Result<(), sqlx::Error> {
    let mut admin = server.connect().await?;
    // `WITH (FORCE)` alone looks for surviving sessions every 100 ms only; they take a few to end.
    let survivors = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = $1";
    while sqlx::query_scalar::<_, i64>(survivors).bind(name).fetch_one(&mut admin).await? > 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quote_identifier(name));
    admin.execute(AssertSqlSafe(statement)).await?;
    admin.close().await
}

fn server_url() -> DatabaseUrl {
    match std::env::var(SERVER_VARIABLE) {
        Ok(url) => DatabaseUrl::from(url),
        Err(_) => panic!(
            "{SERVER_VARIABLE} is not set, so there is no Postgres for this test: run `make test`, or \
             `cargo run -p chatfn-pg --bin chatfn-db -- private -- cargo nextest run -p <crate>`"
        ),
    }
}

async fn connect(url: &DatabaseUrl) -> PgConnection {
    let options = url.connect_options().unwrap_or_else(|error| panic!("{SERVER_VARIABLE}: {error}"));
    options.connect().await.unwrap_or_else(|error| panic!("the test server at {url}: {error}"))
}

async fn execute(connection: &mut PgConnection, statement: String) {
    connection
        .execute(AssertSqlSafe(statement.as_str()))
        .await
        .unwrap_or_else(|error| panic!("`{statement}` failed: {error}"));
}

async fn exists(connection: &mut PgConnection, database: &str) -> bool {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
        .bind(database)
        .fetch_one(connection)
        .await
        .expect("the catalogue can be read")
}

/// The name of the template for `migrator`, which exists, complete, when this returns.
async fn ensure_template(server: &DatabaseUrl, admin: &mut PgConnection, migrator: &Migrator) -> String {
    let template = format!("chatfn_template_{}", digest(migrator));
    if exists(admin, &template).await {
        return template;
    }
    take_template_lock(admin).await;
    if !exists(admin, &template).await {
        // Made under another name and renamed when complete, so that whoever sees the name sees it complete.
        let building = format!("{template}_building");
        let quoted = quote_identifier(&building);
        execute(admin, format!("DROP DATABASE IF EXISTS {quoted} WITH (FORCE)")).await;
        execute(admin, format!("CREATE DATABASE {quoted} TEMPLATE template1")).await;
        let url = server.with_database(&building).expect("the server's URL was good a moment ago");
        migrate::run(&url, migrator, RunOptions::default())
            .await
            .unwrap_or_else(|error| panic!("the test database cannot be migrated: {}", describe(&error)));
        // A template with a session in it cannot be copied: shut everybody out.
        execute(admin, format!("ALTER DATABASE {quoted} ALLOW_CONNECTIONS false")).await;
        execute(admin, format!("ALTER DATABASE {quoted} RENAME TO {}", quote_identifier(&template))).await;
    }
    sqlx::query("SELECT pg_advisory_unlock($1)")
        .bind(TEMPLATE_LOCK)
        .execute(admin)
        .await
        .expect("a lock that is held can be released");
    template
}

async fn take_template_lock(admin: &mut PgConnection) {
    let start = Instant::now();
    loop {
        // Polled for the same reason as in `migrate`: a migration may build an index concurrently.
        let taken: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
            .bind(TEMPLATE_LOCK)
            .fetch_one(&mut *admin)
            .await
            .expect("a lock can be asked for");
        if taken {
            return;
        }
        assert!(
            start.elapsed() < TEMPLATE_WAIT,
            "another process has been making a template for {TEMPLATE_WAIT:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A name for a set of migrations: any added, removed or edited file changes it.
fn digest(migrator: &Migrator) -> String {
    let mut content = Vec::new();
    for migration in migrator.iter() {
        content.extend_from_slice(&migration.version.to_be_bytes());
        content.extend_from_slice(&migration.checksum);
    }
    Uuid::new_v5(&Uuid::NAMESPACE_OID, &content).simple().to_string()
}
