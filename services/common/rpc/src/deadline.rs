//! The absolute deadline of a call.

use std::time::Duration;

use tokio::time::Instant;

/// A budget this long is as good as none; keeps the arithmetic with [`Instant`] from overflowing.
const FAR_FUTURE: Duration = Duration::from_secs(86_400 * 365 * 30);

/// The instant at which a call must be over. Absolute and monotonic: it neither moves while the call
/// waits in a queue nor follows the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// The deadline `budget` from now (at most 30 years).
    pub fn after(budget: Duration) -> Self {
        Self::from_start(Instant::now(), budget)
    }

    /// The deadline `budget` after `start` (at most 30 years).
    pub fn from_start(start: Instant, budget: Duration) -> Self {
        Self(start + budget.min(FAR_FUTURE))
    }

    /// The deadline at `instant`.
    pub fn at(instant: Instant) -> Self {
        Self(instant)
    }

    /// The instant itself.
    pub fn instant(self) -> Instant {
        self.0
    }

    /// Time left; zero once expired.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether no time is left.
    pub fn is_expired(self) -> bool {
        self.remaining().is_zero()
    }

    /// An earlier deadline that leaves `margin` for what follows. Never later than `self`; may already be
    /// expired.
    #[must_use]
    pub fn shrink(self, margin: Duration) -> Self {
        Self(self.0.checked_sub(margin).unwrap_or_else(Instant::now).min(self.0))
    }

    /// The earlier of this deadline and `limit` from now.
    #[must_use]
    pub fn capped(self, limit: Duration) -> Self {
        self.min(Self::after(limit))
    }

    /// Completes at the deadline. Cancel safe.
    pub async fn expired(self) {
        tokio::time::sleep_until(self.0).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shrinks_and_never_grows() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let deadline = Deadline::from_start(start, second * 100);
        assert_eq!(deadline.instant(), start + second * 100);
        assert_eq!(deadline.shrink(second * 30).instant(), start + second * 70);
        assert_eq!(deadline.capped(second * 1000), deadline);
        assert!(deadline.capped(second) < deadline);
        assert!(deadline.remaining() <= second * 100);
        assert!(!deadline.is_expired());
    }

    #[tokio::test]
    async fn expires() {
        let deadline = Deadline::after(Duration::from_millis(10));
        deadline.expired().await;
        assert!(deadline.is_expired());
        assert_eq!(deadline.remaining(), Duration::ZERO);
        deadline.expired().await;
    }

    #[test]
    fn absurd_budgets_do_not_overflow() {
        let deadline = Deadline::after(Duration::MAX);
        assert!(deadline.remaining() > Duration::from_secs(86_400 * 365));
        assert!(deadline.shrink(Duration::MAX) <= deadline);
    }
}
