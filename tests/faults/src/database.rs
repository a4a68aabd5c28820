//! A Postgres that is killed, halted, stopped and filled up.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};
use chatfn_pg::{
    DatabaseUrl,
    migrate::{self, MIGRATIONS, RunOptions},
    private::{PrivateOptions, PrivatePostgres},
};
use nix::{
    sys::{
        signal::{Signal, kill},
        statvfs::statvfs,
    },
    unistd::Pid,
};
use sqlx::{Connection as _, PgConnection};

use crate::process::children;

/// Counts what an owner writes whose lane has another epoch: before the keys are looked at, since a key that exists hides
/// a write that should not have come so far.
const TRIGGER: &str = r"
    CREATE SCHEMA faults;
    CREATE TABLE faults.stale (lane smallint, sequence bigint, epoch bigint);
    CREATE FUNCTION faults.note() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.epoch <> 0 AND NEW.epoch <> (SELECT epoch FROM ingest.lanes WHERE lane = NEW.lane) THEN
            INSERT INTO faults.stale VALUES (NEW.lane, NEW.sequence, NEW.epoch);
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER note BEFORE INSERT ON ingest.attempts FOR EACH ROW EXECUTE FUNCTION faults.note();
    CREATE TRIGGER note BEFORE INSERT ON ingest.outcomes FOR EACH ROW EXECUTE FUNCTION faults.note();";

/// As if it had been there for 25 days, each opened at its beginning, so that whoever takes an event of the first days looks for it in all of
/// them. What is published again lies in today's.
const DAYS: &str = "
    UPDATE ingest.days SET day = day - 25, open_time = open_time - interval '25 days' WHERE suffix = 'before';
    SELECT ingest.prepare_day((now() AT TIME ZONE 'UTC')::date - n) FROM generate_series(1, 25) n;
    UPDATE ingest.days SET open_time = day::timestamp AT TIME ZONE 'UTC'
        WHERE day < (now() AT TIME ZONE 'UTC')::date AND suffix <> 'before';";

/// The server.
pub struct Database {
    server: Option<PrivatePostgres>,
    dir: PathBuf,
    port: u16,
    url: DatabaseUrl,
    /// A file system of its own, which can be made full.
    pub has_own_disk: bool,
}

impl Database {
    /// A migrated database in `dir`.
    ///
    /// # Errors
    /// It cannot be made.
    pub async fn create(dir: &Path, has_own_disk: bool) -> anyhow::Result<Self> {
        let options = PrivateOptions { dir: Some(dir.to_owned()), ..PrivateOptions::default() };
        let server = PrivatePostgres::start(options).await?;
        server.ensure_database("chatfn").await?;
        let (url, port) = (server.url("chatfn"), server.port());
        migrate::run(&url, &MIGRATIONS, RunOptions::default()).await?;
        let database = Self { server: Some(server), dir: dir.to_owned(), port, url, has_own_disk };
        let mut connection = database.connect().await?;
        for statements in [TRIGGER, DAYS] {
            sqlx::raw_sql(statements).execute(&mut connection).await?;
        }
        Ok(database)
    }

    /// The URL, by way of another address.
    pub fn url_by(&self, address: SocketAddr) -> String {
        self.url.expose().replace(&format!(":{}/", self.port), &format!(":{}/", address.port()))
    }

    /// The address of the server.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    async fn connect(&self) -> anyhow::Result<PgConnection> {
        Ok(PgConnection::connect_with(&self.url.connect_options()?).await?)
    }

    /// Writes of former owners so far.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub async fn stale_writes(&self) -> anyhow::Result<u64> {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM faults.stale")
            .fetch_one(&mut self.connect().await?)
            .await?;
        Ok(count.unsigned_abs())
    }

    /// Connections that are open.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub async fn connections(&self) -> anyhow::Result<i64> {
        let query = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'chatfn'";
        Ok(sqlx::query_scalar(query).fetch_one(&mut self.connect().await?).await?)
    }

    /// Whether the lanes are shared by two replicas that live, and by nobody else.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub async fn are_lanes_shared(&self) -> anyhow::Result<bool> {
        let query = "SELECT count(DISTINCT owner) = 2 AND bool_and(owner IN (
                SELECT replica FROM ingest.replicas WHERE alive_until > now()))
                AND (SELECT count(*) FROM ingest.replicas WHERE alive_until > now()) = 2
            FROM ingest.lanes";
        let shared: Option<bool> = sqlx::query_scalar(query).fetch_one(&mut self.connect().await?).await?;
        Ok(shared == Some(true))
    }

    fn processes(&self) -> Vec<u32> {
        let Some(server) = &self.server else { return Vec::new() };
        [server.pid()].into_iter().chain(children(server.pid())).collect()
    }

    fn signal(&self, signal: Signal) {
        for pid in self.processes() {
            // Sessions end at any time.
            let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
        }
    }

    /// All its processes end at once.
    pub async fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        if let Some(server) = self.server.take() {
            let _ = server.stop().await;
        }
    }

    /// It ends in order.
    ///
    /// # Errors
    /// What it leaves cannot be removed.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        if let Some(server) = self.server.take() {
            server.stop().await?;
        }
        Ok(())
    }

    /// It is there again, after a [`Database::kill`] or a [`Database::stop`].
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        let options = PrivateOptions {
            dir: Some(self.dir.clone()),
            port: Some(self.port),
            ..PrivateOptions::default()
        };
        self.server = Some(PrivatePostgres::start(options).await?);
        Ok(())
    }

    /// It falls silent.
    pub fn halt(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// It goes on.
    pub fn go_on(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Its disk has no room left, or has room again.
    ///
    /// # Errors
    /// It has no disk of its own, or that cannot be changed.
    pub fn fill(&self, is_full: bool) -> anyhow::Result<()> {
        ensure!(self.has_own_disk, "Postgres has no disk of its own");
        if !is_full {
            return mount(&["-o", &format!("remount,size={OWN_DISK}"), "tmpfs"], &self.dir);
        }
        let mut tries = 10;
        loop {
            let status = statvfs(&self.dir)?;
            let used = (status.blocks() - status.blocks_free()) * status.fragment_size();
            let full = mount(&["-o", &format!("remount,size={}", used + ROOM), "tmpfs"], &self.dir);
            tries -= 1;
            // It may have taken more meanwhile than it is to have.
            if full.is_ok() || tries == 0 {
                return full;
            }
        }
    }
}

/// Size of the database's own disk.
const OWN_DISK: u64 = 2 << 30;
/// Room that a full disk has left: gone with the next events.
const ROOM: u64 = 64 * 1024;

/// Gives `dir` a disk of its own, in memory. Only in a mount namespace of one's own, with which it goes.
///
/// # Errors
/// This process may not.
pub fn mount_own_disk(dir: &Path) -> anyhow::Result<()> {
    mount(&["-t", "tmpfs", "-o", &format!("size={OWN_DISK}"), "tmpfs"], dir)
}

/// Takes it away again, with what is on it.
///
/// # Errors
/// Something is open on it.
pub fn unmount(dir: &Path) -> anyhow::Result<()> {
    run("umount", &[], dir)
}

fn mount(arguments: &[&str], dir: &Path) -> anyhow::Result<()> {
    run("mount", arguments, dir)
}

fn run(program: &str, arguments: &[&str], dir: &Path) -> anyhow::Result<()> {
    let output = Command::new(program).args(arguments).arg(dir).output();
    let output = output.with_context(|| format!("{program} cannot be run"))?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
