//! A connection that one task keeps.

use std::time::Duration;

use chatfn_pg::PoolConfig;
use sqlx::{Connection as _, PgPool, Postgres, pool::PoolConnection};
use tokio::time::{Instant, timeout};

/// A connection that was not used for this long is looked at before it is used again.
const FRESH: Duration = Duration::from_secs(1);
/// Longest wait for the answer to that.
const LOOK: Duration = Duration::from_secs(1);
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
        Session { pool: self.pool.clone(), limit: self.limit, kept: None, opened: None }
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
    /// And when it was last used.
    kept: Option<(PoolConnection<Postgres>, Instant)>,
    /// When the last one was opened.
    opened: Option<Instant>,
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
        if let Some((mut connection, used)) = self.kept.take()
            && self.opened.is_some_and(|opened| opened.elapsed() < KEPT)
            && (used.elapsed() < FRESH || matches!(timeout(LOOK, connection.ping()).await, Ok(Ok(()))))
        {
            return Ok(connection);
        }
        let mut connection = self.pool.acquire().await?;
        connection.close_on_drop();
        self.opened = Some(Instant::now());
        Ok(connection)
    }

    pub(super) fn keep(&mut self, connection: PoolConnection<Postgres>) {
        self.kept = Some((connection, Instant::now()));
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
}
