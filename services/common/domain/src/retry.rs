//! Whether and when a failed run is tried again, and what follows when it is not.

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
    // What came later is not written out at its default, so that older versions keep their digests.
    /// By what the pause grows from attempt to attempt.
    #[serde(skip_serializing_if = "is_default")]
    pub backoff_multiplier: Multiplier,
    /// Which failures are tried again; any other one is the last.
    #[serde(skip_serializing_if = "is_default")]
    pub retry_on: RetryOn,
    /// Longest time from an event's acceptance to the start of an attempt: 1 s to 7 days; `None`: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Duration>,
    /// What becomes of the conversation after the last attempt.
    #[serde(skip_serializing_if = "is_default")]
    pub after_last_attempt: AfterLastAttempt,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            initial_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(60),
            backoff_multiplier: Multiplier::default(),
            retry_on: RetryOn::default(),
            max_age: None,
            after_last_attempt: AfterLastAttempt::default(),
        }
    }
}

/// A factor from 1 to 10 with two decimals, kept in hundredths, so that equal ones compare equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Multiplier(u16);

/// A factor outside its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be from 1 to 10, with at most two decimals")]
pub struct MultiplierError;

impl Multiplier {
    /// The factor that is so many hundredths.
    ///
    /// # Errors
    /// It is not from 1 to 10.
    pub fn from_hundredths(hundredths: u16) -> Result<Self, MultiplierError> {
        if (100..=1000).contains(&hundredths) { Ok(Self(hundredths)) } else { Err(MultiplierError) }
    }

    /// The factor.
    ///
    /// # Errors
    /// It is not from 1 to 10, or has more than two decimals.
    pub fn from_factor(factor: f64) -> Result<Self, MultiplierError> {
        let hundredths = (factor * 100.0).round();
        if (factor * 100.0 - hundredths).abs() > 1e-6 || !(100.0..=1000.0).contains(&hundredths) {
            return Err(MultiplierError);
        }
        // In range, so nothing is cut off.
        Self::from_hundredths(hundredths as u16)
    }

    /// The factor as a number.
    pub fn factor(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

impl Default for Multiplier {
    /// Doubles.
    fn default() -> Self {
        Self(200)
    }
}

impl TryFrom<u16> for Multiplier {
    type Error = MultiplierError;

    fn try_from(hundredths: u16) -> Result<Self, MultiplierError> {
        Self::from_hundredths(hundredths)
    }
}

impl From<Multiplier> for u16 {
    fn from(multiplier: Multiplier) -> Self {
        multiplier.0
    }
}

/// Whose doing a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureClass {
    /// The lambda's own: it threw, never settled, used too much memory, or returned what cannot be recorded.
    Thrown,
    /// It ran into its timeout.
    Timeout,
    /// The platform's: the sandbox broke down, or the result of the run was lost.
    Platform,
}

/// Which failures are tried again. By default all: a lambda that throws does so, more often than not, because what it
/// calls is down, and what fails for good costs no more than the attempts that its author allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryOn {
    /// Failures of the lambda's own doing.
    pub thrown: bool,
    /// Timeouts.
    pub timeout: bool,
    /// Failures of the platform.
    pub platform: bool,
}

impl Default for RetryOn {
    fn default() -> Self {
        Self { thrown: true, timeout: true, platform: true }
    }
}

impl RetryOn {
    /// Whether a failure of this class is tried again.
    pub fn contains(self, class: FailureClass) -> bool {
        match class {
            FailureClass::Thrown => self.thrown,
            FailureClass::Timeout => self.timeout,
            FailureClass::Platform => self.platform,
        }
    }
}

/// What becomes of a conversation when the last attempt of one of its events has failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AfterLastAttempt {
    /// The event is dead-lettered, and the conversation goes on.
    #[default]
    Skip,
    /// The event is halted, and later events of its conversation wait until an operator acts.
    Halt,
}

impl RetryPolicy {
    /// Whether every field lies within its limits.
    ///
    /// # Errors
    /// Which field does not (empty: several together), a stable name of its limit, and what to change.
    pub fn check(&self) -> Result<(), (&'static str, &'static str, &'static str)> {
        let least = Duration::from_millis(10);
        let second = Duration::from_secs(1);
        if !(1..=20).contains(&self.max_attempts) {
            return Err(("max_attempts", "OUT_OF_RANGE", "must be from 1 to 20"));
        }
        if !(least..=Duration::from_secs(600)).contains(&self.initial_backoff) {
            return Err(("initial_backoff", "OUT_OF_RANGE", "must be from 0.01s to 600s"));
        }
        if !(least..=Duration::from_secs(3600)).contains(&self.max_backoff) {
            return Err(("max_backoff", "OUT_OF_RANGE", "must be from 0.01s to 3600s"));
        }
        if self.max_backoff < self.initial_backoff {
            return Err(("", "CONTRADICTORY", "max_backoff must not be shorter than initial_backoff"));
        }
        if self.retry_on == (RetryOn { thrown: false, timeout: false, platform: false }) {
            return Err((
                "retry_on",
                "REQUIRED",
                "must name a failure; for no retries at all, set max_attempts to 1",
            ));
        }
        if self.max_age.is_some_and(|age| !(second..=Duration::from_secs(604_800)).contains(&age)) {
            return Err(("max_age", "OUT_OF_RANGE", "must be from 1s to 604800s (7 days)"));
        }
        Ok(())
    }

    /// The pause after `attempts` failed attempts (from 1); `None` when there is no other attempt.
    ///
    /// It grows by the multiplier from attempt to attempt up to the longest. `jitter`, from 0 to 1, takes away up to
    /// half of it, so that events that failed together do not come back together.
    pub fn backoff(&self, attempts: u32, jitter: f64) -> Option<Duration> {
        if attempts >= self.max_attempts {
            return None;
        }
        let growths = i32::try_from(attempts.saturating_sub(1)).unwrap_or(i32::MAX);
        let full = self.initial_backoff.as_secs_f64() * self.backoff_multiplier.factor().powi(growths);
        // What is too long for a duration is longer than the longest pause, too.
        let full =
            Duration::try_from_secs_f64(full).map_or(self.max_backoff, |full| full.min(self.max_backoff));
        Some(full.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0))
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pauses(policy: RetryPolicy) -> Vec<Option<u128>> {
        (1..=policy.max_attempts)
            .map(|attempts| policy.backoff(attempts, 0.0).map(|pause| pause.as_millis()))
            .collect()
    }

    #[test]
    fn the_pause_grows_and_ends_with_the_last_attempt() {
        let policy = RetryPolicy {
            max_attempts: 4,
            initial_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(3),
            ..RetryPolicy::default()
        };
        assert_eq!(pauses(policy), [Some(1000), Some(2000), Some(3000), None]);
        let backoff_multiplier = Multiplier::from_factor(1.5).unwrap();
        assert_eq!(
            pauses(RetryPolicy { backoff_multiplier, ..policy }),
            [Some(1000), Some(1500), Some(2250), None]
        );
        let backoff_multiplier = Multiplier::from_factor(1.0).unwrap();
        assert_eq!(
            pauses(RetryPolicy { backoff_multiplier, ..policy }),
            [Some(1000), Some(1000), Some(1000), None]
        );
    }

    #[test]
    fn a_multiplier_has_two_decimals() {
        for factor in [1.0, 1.1, 1.15, 2.0, 9.99, 10.0] {
            assert_eq!(Multiplier::from_factor(factor).unwrap().factor(), factor);
        }
        for factor in [0.0, 0.99, 1.125, 10.01, -2.0, f64::NAN, f64::INFINITY] {
            assert!(Multiplier::from_factor(factor).is_err(), "{factor}");
        }
    }

    proptest! {
        #[test]
        fn a_pause_is_never_longer_than_the_longest_nor_shorter_than_half_the_first(
            attempts in 1u32..2000, hundredths in 100u16..=1000, jitter in 0.0..1.0
        ) {
            let policy = RetryPolicy {
                max_attempts: u32::MAX,
                backoff_multiplier: Multiplier::from_hundredths(hundredths).unwrap(),
                ..RetryPolicy::default()
            };
            let pause = policy.backoff(attempts, jitter).unwrap();
            prop_assert!(pause <= policy.max_backoff);
            prop_assert!(pause >= policy.initial_backoff / 2);
        }
    }
}
