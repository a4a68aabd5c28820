//! A connection that one task keeps.

use std::{io, time::Duration};

use chatfn_pg::PoolConfig;
use sqlx::{Connection as _, PgConnection, PgPool, Postgres, pool::PoolConnection};
use tokio::time::{Instant, timeout};

use super::{Time, millis};

/// A connection that was not used for this long is looked at before it is used again.
const FRESH: Duration = Duration::from_secs(1);
/// Longest wait for the answer to that.
const LOOK: Duration = Duration::from_secs(1);
/// Longest wait until the server has ended a connection.
const END: Duration = Duration::from_secs(1);
/// A connection is kept for so long: the plans that it keeps were made for tables of another size.
const KEPT: Duration = Duration::from_secs(600);

/// What sessions are opened on.
#[derive(Debug, Clone)]
pub(crate) struct Sessions {
    pool: PgPool,
    limit: Duration,
}

impl Sessions {
    /// On a pool of `config`.
    pub(crate) fn new(pool: PgPool, config: &PoolConfig) -> Self {
        // Longer than the server's own limits together, which are meant to end a transaction of two statements; this one is
        // for a server that has fallen silent.
        let limit = config.acquire_timeout + config.statement_timeout * 2 + LOOK;
        Self { pool, limit }
    }

    /// Connects when the session is first used.
    pub(crate) fn open(&self) -> Session {
        let pool = self.pool.clone();
        Session { pool, limit: self.limit, is_in_order: false, kept: None, taken: None }
    }

    /// The same with transactions that follow one another: the server ends a connection that was not given back before the
    /// next one is used. What is still on its way to it would else be done later, after what was meant to come after it.
    ///
    /// Not for what is acknowledged: to end a transaction that waits for a standby makes it visible before it is there.
    pub(crate) fn open_in_order(&self) -> Session {
        Session { is_in_order: true, ..self.open() }
    }

    pub(crate) fn pool(&self) -> &PgPool {
        &self.pool
    }
}

/// A connection of a pool that is kept from one transaction to the next, as long as they succeed. Taking one from the pool and giving
/// it back each ask the server whether it is there, which takes longer than most transactions.
///
/// What is not kept is closed, not given back: the pool would wait without end for the answer of a connection that has died
/// without a word, and count it meanwhile. Closing takes some seconds then, so a pool needs twice as many connections as there are
/// sessions ([`Session::CONNECTIONS`]).
#[derive(Debug)]
pub(crate) struct Session {
    pool: PgPool,
    limit: Duration,
    is_in_order: bool,
    kept: Option<Kept>,
    /// What was taken and not given back.
    taken: Option<Backend>,
}

#[derive(Debug)]
struct Kept {
    connection: PoolConnection<Postgres>,
    backend: Backend,
    used: Instant,
}

/// The server's process of a connection.
#[derive(Debug)]
struct Backend {
    pid: i32,
    /// Other processes get its number later.
    start: Time,
    opened: Instant,
}

impl Backend {
    /// The one of this connection.
    async fn of(connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let opened = Instant::now();
        let row = sqlx::query!(
            r#"SELECT pid AS "pid!", backend_start AS "start!: Time" FROM pg_stat_activity WHERE pid = pg_backend_pid()"#,
        )
        .fetch_one(connection)
        .await?;
        Ok(Self { pid: row.pid, start: row.start, opened })
    }

    /// Returns once it has ended.
    async fn end(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let has_ended = sqlx::query_scalar!(
            r#"
            SELECT coalesce(bool_and(pg_terminate_backend(pid, $3::float8::bigint)), true) AS "has_ended!"
            FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2::timestamptz
            "#,
            self.pid,
            self.start as _,
            millis(END),
        )
        .fetch_one(connection)
        .await?;
        if has_ended {
            return Ok(());
        }
        let message = "the database does not end a connection that was lost";
        Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, message)))
    }
}

impl Session {
    /// Connections that its pool needs for it.
    pub(crate) const CONNECTIONS: usize = 2;

    /// How long a transaction may take in all.
    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }

    /// The connection, for one transaction. If it is not given back by [`Session::keep`], because the transaction failed or its
    /// future was dropped, it is closed.
    pub(super) async fn take(&mut self) -> Result<PoolConnection<Postgres>, sqlx::Error> {
        if let Some(Kept { mut connection, backend, used }) = self.kept.take()
            && backend.opened.elapsed() < KEPT
            && (used.elapsed() < FRESH || matches!(timeout(LOOK, connection.ping()).await, Ok(Ok(()))))
        {
            self.taken = Some(backend);
            return Ok(connection);
        }
        let mut connection = self.pool.acquire().await?;
        connection.close_on_drop();
        let backend = Backend::of(&mut connection).await?;
        if let Some(lost) = self.taken.as_ref().filter(|_| self.is_in_order) {
            lost.end(&mut connection).await?;
        }
        self.taken = Some(backend);
        Ok(connection)
    }

    /// Gives the connection back: its transaction is over.
    pub(super) fn keep(&mut self, connection: PoolConnection<Postgres>) {
        let used = Instant::now();
        self.kept = self.taken.take().map(|backend| Kept { connection, backend, used });
    }
}

#[cfg(test)]
mod tests {
    use chatfn_pg::testing::TestDatabase;

    use super::*;

    async fn backend(session: &mut Session) -> i32 {
        let mut connection = session.take().await.unwrap();
        let backend =
            sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *connection).await.unwrap();
        session.keep(connection);
        backend
    }

    #[tokio::test]
    async fn a_connection_is_kept_but_not_for_ever() {
        let database = TestDatabase::create().await;
        let mut session =
            Sessions::new(database.pool().clone(), &PoolConfig::new(database.url().clone())).open();
        let first = backend(&mut session).await;
        assert_eq!(backend(&mut session).await, first);
        tokio::time::pause();
        tokio::time::advance(KEPT).await;
        tokio::time::resume();
        assert_ne!(backend(&mut session).await, first);
    }

    /// A transaction whose end is not known may be on its way still, and hold what it has locked.
    #[tokio::test]
    async fn in_order_what_is_not_given_back_is_ended_before_the_next_is_used() {
        let database = TestDatabase::create().await;
        let pool = database.pool();
        sqlx::query("CREATE TABLE public.things (name text)").execute(pool).await.unwrap();
        let sessions = Sessions::new(pool.clone(), &PoolConfig::new(database.url().clone()));
        let mut session = sessions.open_in_order();
        let first = backend(&mut session).await;
        let mut connection = session.take().await.unwrap();
        let held = "BEGIN; LOCK TABLE public.things";
        sqlx::raw_sql(held).execute(&mut *connection).await.unwrap();
        // As if it had died without a word: nobody closes it.
        std::mem::forget(connection);

        let mut connection = session.take().await.unwrap();
        let is_there = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)";
        let is_there: bool =
            sqlx::query_scalar(is_there).bind(first).fetch_one(&mut *connection).await.unwrap();
        assert!(!is_there);
        let locked = "LOCK TABLE public.things NOWAIT";
        let mut transaction = connection.begin().await.unwrap();
        sqlx::query(locked).execute(&mut *transaction).await.unwrap();
        transaction.commit().await.unwrap();
        session.keep(connection);
        // And what was given back is not ended.
        assert_eq!(backend(&mut session).await, backend(&mut session).await);
    }
}
