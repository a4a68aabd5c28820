//! A token bucket that may be overdrawn.

use std::time::Duration;

use tokio::time::Instant;

/// What is left of one quota. Holds at most one second's worth; below zero it is overdrawn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    level: f64,
    at: Instant,
}

impl Bucket {
    pub(super) fn full(per_second: f64, now: Instant) -> Self {
        Self { level: per_second, at: now }
    }

    fn refill(&mut self, per_second: f64, now: Instant) {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.level = (self.level + since * per_second).min(per_second);
        self.at = now;
    }

    /// How long until something is left; `None` if there is.
    pub(super) fn wait(&mut self, per_second: f64, now: Instant) -> Option<Duration> {
        self.refill(per_second, now);
        // Rounded up to the millisecond, in which retries are told: one that is on time must not be too early.
        let millis = (-self.level / per_second * 1000.0).ceil() + 1.0;
        (self.level <= 0.0).then(|| Duration::try_from_secs_f64(millis / 1000.0).unwrap_or(Duration::MAX))
    }

    pub(super) fn is_full(&mut self, per_second: f64, now: Instant) -> bool {
        self.refill(per_second, now);
        self.level >= per_second
    }

    #[expect(clippy::cast_precision_loss, reason = "counts and sizes of calls are small")]
    pub(super) fn take(&mut self, amount: usize) {
        self.level -= amount as f64;
    }
}
