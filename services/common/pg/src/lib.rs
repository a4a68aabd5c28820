//! Postgres for chatfn: pools, migrations, error classification, and private servers.
//!
//! What it promises:
//!
//! * [`pool`]: every connection carries the timeouts that keep one slow statement or one forgotten
//!   transaction from stalling the service, and no password reaches a log.
//! * [`migrate`]: one history of plain SQL files, applied by one process at a time, never edited once
//!   applied; services check the schema at start and never change it.
//! * [`budget`]: a call whose time is over leaves no statement behind that goes on.
//! * [`background`]: what no call waits for gives up by itself when its connection has died without a word.
//! * [`error`]: one place that knows SQLSTATEs and constraint names, so that services match on an enum.
//! * [`private`]: a Postgres of one's own for laptops and tests, that needs no installation beyond the
//!   Postgres package and does not outlive its owner.
//! * [`testing`]: an empty, migrated database for each test, and a relay that cuts its connections.
//!
//! A service starts reading at [`PoolConfig`] and [`migrate::require_current`]; the author of a
//! migration at `migrations/README.md`. This crate holds no query of any service and uses no `query!`
//! macro: its binary `chatfn-db` makes the databases that those macros are checked against.

pub mod background;
pub mod budget;
pub mod error;
pub mod metrics;
pub mod migrate;
pub mod pool;
pub mod private;
pub mod testing;

pub use background::Background;
pub use error::{Failure, classify};
pub use pool::{ConnectError, DatabaseUrl, PoolConfig, connect};

/// `name` as a quoted SQL identifier, for the few statements (`CREATE DATABASE`) that take no parameters.
pub(crate) fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
