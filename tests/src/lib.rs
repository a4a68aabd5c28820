//! What the black-box tests share: a cluster of real processes that can be hurt, and a witness that
//! sees what lambdas do outside.
//!
//! The tests themselves are in `it/`, a file per concern. They know the services only by their binaries
//! and their gRPC contract. Run them with `make test`, which builds the binaries and brings a Postgres.

pub mod api;
pub mod cluster;
pub mod collector;
pub mod fleet;
pub mod identities;
pub mod prometheus;
pub mod scrape;
pub mod witness;

use std::time::{Duration, Instant};

/// How long a condition may take to become true. Generous: a slow machine is no failure.
pub const PATIENCE: Duration = Duration::from_secs(100);

/// Waits until `condition` gives a value. For what nobody tells of, so this looks again and again; the sleep only lets others
/// work in between.
///
/// # Panics
/// When it gives none within [`PATIENCE`].
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "{what}: not so after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
