//! What follows from an attempt.

use std::time::Duration;

use chatfn_domain::{
    reasons::{Reason, events},
    retry::{AfterLastAttempt, FailureClass, RetryPolicy},
};
use chatfn_proto::invoker::v1::{FailureKind, LambdaFailure, RunReport, run_report};

use crate::failpoint;

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum AttemptEnd {
    /// The lambda returned or failed, and the invoker tells how.
    Reported(RunReport),
    /// It may have run, and nobody can tell.
    Unknown {
        /// A stable reason, such as `INGEST_DIED`.
        reason: Reason,
        /// For people.
        message: String,
    },
}

impl AttemptEnd {
    /// Found started and never ended by an earlier owner of the lane.
    pub(crate) fn died() -> Self {
        Self::Unknown {
            reason: events::INGEST_DIED,
            message: "event-ingest ended, or lost the lane, before the result of this attempt was recorded"
                .to_owned(),
        }
    }
}

/// What becomes of the event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    /// The lambda returned.
    Succeeded,
    /// Another attempt after this pause.
    Retry {
        pause: Duration,
        /// Whether the retry budget pays for it: what the lambda calls may be down. It is not asked for failures of the
        /// platform.
        is_charged: bool,
    },
    /// No attempt is left, and the conversation goes on.
    DeadLettered(Why),
    /// No attempt is left, and the conversation waits.
    Halted(Why),
    /// The time is up before the next attempt could start.
    Expired(Why),
}

/// Why an event is in its state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Why {
    /// A stable reason; `None` when there is nothing to say.
    pub(crate) reason: Option<Reason>,
    /// For people.
    pub(crate) message: String,
}

/// What bounds when an event's attempts may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TimeLimit {
    /// The event's own `deliver_by`.
    DeliverBy,
    /// Its function's `max_age`.
    MaxAge,
}

impl TimeLimit {
    /// Why an event is EXPIRED. `is_planned`: it is certain already that the next attempt comes too late.
    pub(crate) fn expired(self, is_planned: bool) -> Why {
        let (reason, name) = match self {
            Self::DeliverBy => (events::DELIVER_BY_PASSED, "deliver_by"),
            Self::MaxAge => (events::MAX_AGE_PASSED, "the function's settings.retry.max_age"),
        };
        let message = if is_planned {
            format!("{name} comes before the next attempt could start")
        } else {
            format!("{name} passed before a run could start")
        };
        Why { reason: Some(reason), message }
    }
}

/// What follows from the attempt that is the event's `number`-th (from 1) since it was published or an operator took it
/// up again, with so much time left until the limit, if there is any. `jitter` is random, from 0 to 1.
pub(crate) fn after_attempt(
    number: u32,
    end: &AttemptEnd,
    policy: &RetryPolicy,
    time_left: Option<(Duration, TimeLimit)>,
    jitter: f64,
) -> Next {
    let (reason, message, class) = match end {
        AttemptEnd::Reported(report) => match &report.outcome {
            Some(run_report::Outcome::Failure(failure)) => {
                (events::LAMBDA_FAILED, describe(failure), class(failure.kind()))
            }
            _ if failpoint::mutant("success_as_failure") => {
                (events::LAMBDA_FAILED, String::new(), FailureClass::Thrown)
            }
            _ => return Next::Succeeded,
        },
        AttemptEnd::Unknown { reason, message } => (*reason, message.clone(), FailureClass::Platform),
    };
    let may_retry = policy.retry_on.contains(class);
    match (policy.backoff(number, jitter).filter(|_| may_retry), time_left) {
        (Some(pause), Some((left, limit))) if left <= pause => Next::Expired(limit.expired(true)),
        (Some(pause), _) => Next::Retry { pause, is_charged: class != FailureClass::Platform },
        (None, _) => {
            let why = if may_retry {
                "was the last, and it"
            } else {
                "is not retried (settings.retry.retry_on), and it"
            };
            let why =
                Why { reason: Some(reason), message: format!("attempt {number} {why} failed: {message}") };
            match policy.after_last_attempt {
                AfterLastAttempt::Skip => Next::DeadLettered(why),
                AfterLastAttempt::Halt => Next::Halted(why),
            }
        }
    }
}

/// Whose doing a failure is, by which a function's policy says whether it is tried again.
fn class(kind: FailureKind) -> FailureClass {
    match kind {
        FailureKind::Thrown
        | FailureKind::OutOfMemory
        | FailureKind::NeverSettles
        | FailureKind::ResultTooLarge
        | FailureKind::ResultNotJson => FailureClass::Thrown,
        FailureKind::Timeout => FailureClass::Timeout,
        FailureKind::Crashed | FailureKind::NotLoadable | FailureKind::Unspecified => FailureClass::Platform,
    }
}

fn describe(failure: &LambdaFailure) -> String {
    let text = if failure.error_name.is_empty() {
        failure.message.clone()
    } else {
        format!("{}: {}", failure.error_name, failure.message)
    };
    text.chars().take(500).collect()
}

#[cfg(test)]
mod tests {
    use chatfn_domain::retry::RetryOn;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::cases;

    fn failed(kind: FailureKind) -> AttemptEnd {
        let failure = LambdaFailure {
            kind: kind.into(),
            error_name: "TypeError".to_owned(),
            message: "x is undefined".to_owned(),
            ..LambdaFailure::default()
        };
        let outcome = Some(run_report::Outcome::Failure(failure));
        AttemptEnd::Reported(RunReport { outcome, ..RunReport::default() })
    }

    fn thrown() -> AttemptEnd {
        failed(FailureKind::Thrown)
    }

    fn end() -> impl Strategy<Value = (AttemptEnd, FailureClass)> {
        prop_oneof![
            Just((AttemptEnd::died(), FailureClass::Platform)),
            Just((thrown(), FailureClass::Thrown)),
            Just((failed(FailureKind::OutOfMemory), FailureClass::Thrown)),
            Just((failed(FailureKind::Timeout), FailureClass::Timeout)),
            Just((failed(FailureKind::Crashed), FailureClass::Platform)),
        ]
    }

    proptest! {
        #![proptest_config(cases())]

        #[test]
        fn exactly_max_attempts_and_then_what_the_policy_says(
            max_attempts in 1u32..21,
            ends in prop::collection::vec(end(), 20),
            (thrown, timeout, platform) in any::<(bool, bool, bool)>(),
            halts in any::<bool>(),
            jitter in 0.0..1.0,
        ) {
            let retry_on = RetryOn { thrown, timeout, platform };
            let after_last_attempt = if halts { AfterLastAttempt::Halt } else { AfterLastAttempt::Skip };
            let policy = RetryPolicy { max_attempts, retry_on, after_last_attempt, ..RetryPolicy::default() };
            let mut attempts = 0;
            for (end, class) in ends {
                attempts += 1;
                match after_attempt(attempts, &end, &policy, None, jitter) {
                    Next::Retry { pause, is_charged } => {
                        prop_assert!(attempts < max_attempts && retry_on.contains(class));
                        prop_assert!(pause <= policy.max_backoff);
                        prop_assert_eq!(is_charged, class != FailureClass::Platform);
                    }
                    next @ (Next::DeadLettered(_) | Next::Halted(_)) => {
                        prop_assert!(attempts == max_attempts || !retry_on.contains(class));
                        prop_assert_eq!(matches!(next, Next::Halted(_)), halts);
                        return Ok(());
                    }
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            prop_assert!(false, "it is tried for ever");
        }

        #[test]
        fn no_attempt_is_planned_after_the_time_is_up(left in 0u64..200_000, number in 1u32..20, jitter in 0.0..1.0) {
            let policy = RetryPolicy { max_attempts: 20, ..RetryPolicy::default() };
            let left = Duration::from_millis(left);
            match after_attempt(number, &thrown(), &policy, Some((left, TimeLimit::MaxAge)), jitter) {
                Next::Retry { pause, .. } => prop_assert!(pause < left),
                Next::Expired(why) => prop_assert_eq!(why.reason, Some(events::MAX_AGE_PASSED)),
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }

    #[test]
    fn the_last_attempts_failure_says_more_than_the_time() {
        let policy = RetryPolicy::default();
        let second = Some((Duration::from_secs(1), TimeLimit::DeliverBy));
        assert!(matches!(after_attempt(1, &thrown(), &policy, second, 0.0), Next::Expired(_)));
        assert!(matches!(after_attempt(1, &thrown(), &policy, second, 1.0), Next::Retry { .. }));
        assert!(matches!(after_attempt(3, &thrown(), &policy, second, 0.0), Next::DeadLettered(_)));
    }

    #[test]
    fn a_dead_letter_tells_what_failed_and_why_it_is_not_retried() {
        let policy = RetryPolicy { max_attempts: 1, ..RetryPolicy::default() };
        let Next::DeadLettered(why) = after_attempt(1, &thrown(), &policy, None, 0.0) else {
            panic!("another attempt");
        };
        assert_eq!(why.message, "attempt 1 was the last, and it failed: TypeError: x is undefined");
        let retry_on = RetryOn { thrown: false, ..RetryOn::default() };
        let policy = RetryPolicy { retry_on, ..RetryPolicy::default() };
        let Next::DeadLettered(why) = after_attempt(1, &thrown(), &policy, None, 0.0) else {
            panic!("another attempt");
        };
        assert!(why.message.contains("settings.retry.retry_on"), "{}", why.message);
    }
}
