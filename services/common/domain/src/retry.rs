//! Whether and when a failed run is tried again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A function's retry policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RetryPolicy {
    /// Runs in all, the first included: 1 to 20.
    pub max_attempts: u32,
    /// Pause before the second attempt: 10 ms to 10 min.
    pub initial_backoff: Duration,
    /// Longest pause between attempts: 10 ms to 1 h.
    pub max_backoff: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            initial_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(60),
        }
    }
}

impl RetryPolicy {
    /// Whether every field lies within its limits.
    ///
    /// # Errors
    /// What to change.
    pub fn check(&self) -> Result<(), &'static str> {
        let least = Duration::from_millis(10);
        if !(1..=20).contains(&self.max_attempts) {
            return Err("max_attempts must be from 1 to 20");
        }
        if !(least..=Duration::from_secs(600)).contains(&self.initial_backoff) {
            return Err("initial_backoff must be from 0.01s to 600s");
        }
        if !(least..=Duration::from_secs(3600)).contains(&self.max_backoff) {
            return Err("max_backoff must be from 0.01s to 3600s");
        }
        if self.max_backoff < self.initial_backoff {
            return Err("max_backoff must not be shorter than initial_backoff");
        }
        Ok(())
    }

    /// The pause after `attempts` failed attempts (from 1); `None` when there is no other attempt.
    ///
    /// It doubles from attempt to attempt up to the longest. `jitter`, from 0 to 1, takes away up to half of it, so that
    /// events that failed together do not come back together.
    pub fn backoff(&self, attempts: u32, jitter: f64) -> Option<Duration> {
        if attempts >= self.max_attempts {
            return None;
        }
        let doublings = attempts.saturating_sub(1).min(31);
        let full = self.initial_backoff.saturating_mul(1 << doublings).min(self.max_backoff);
        Some(full.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_pause_doubles_and_ends_with_the_last_attempt() {
        let policy = RetryPolicy {
            max_attempts: 4,
            initial_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(3),
        };
        let pauses: Vec<_> =
            (1..=4).map(|attempts| policy.backoff(attempts, 0.0).map(|pause| pause.as_secs())).collect();
        assert_eq!(pauses, [Some(1), Some(2), Some(3), None]);
    }

    proptest! {
        #[test]
        fn a_pause_is_never_longer_than_the_longest_nor_shorter_than_half_the_first(attempts in 1u32..2000, jitter in 0.0..1.0) {
            let policy = RetryPolicy { max_attempts: u32::MAX, ..RetryPolicy::default() };
            let pause = policy.backoff(attempts, jitter).unwrap();
            prop_assert!(pause <= policy.max_backoff);
            prop_assert!(pause >= policy.initial_backoff / 2);
        }
    }
}
