//! What follows from an attempt.

use std::time::Duration;

use chatfn_domain::retry::RetryPolicy;
use chatfn_proto::invoker::v1::{FailureKind, LambdaFailure, RunReport, run_report};

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum AttemptEnd {
    /// The lambda returned or failed, and the invoker tells how.
    Reported(RunReport),
    /// It may have run, and nobody can tell.
    Unknown {
        /// A stable reason, such as `INGEST_DIED`.
        reason: &'static str,
        /// For people.
        message: String,
    },
}

impl AttemptEnd {
    /// Found started and never ended by an earlier owner of the lane.
    pub(crate) fn died() -> Self {
        Self::Unknown {
            reason: "INGEST_DIED",
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
    Retry(Duration),
    /// No attempt is left.
    DeadLettered {
        /// A stable reason.
        reason: &'static str,
        /// For people.
        message: String,
    },
    /// `deliver_by` comes before the next attempt could start.
    Expired,
}

/// What follows from attempt `number` (from 1), which ended with `deliver_within` left until `deliver_by`.
/// `jitter` is random, from 0 to 1.
pub(crate) fn after_attempt(
    number: u32,
    end: &AttemptEnd,
    policy: &RetryPolicy,
    deliver_within: Option<Duration>,
    jitter: f64,
) -> Next {
    let (reason, message, may_retry) = match end {
        AttemptEnd::Reported(report) => match &report.outcome {
            Some(run_report::Outcome::Failure(failure)) => {
                ("LAMBDA_FAILED", describe(failure), is_retried(failure.kind()))
            }
            _ => return Next::Succeeded,
        },
        AttemptEnd::Unknown { reason, message } => (*reason, message.clone(), true),
    };
    match policy.backoff(number, jitter).filter(|_| may_retry) {
        Some(pause) if deliver_within.is_some_and(|left| left <= pause) => Next::Expired,
        Some(pause) => Next::Retry(pause),
        None => Next::DeadLettered {
            reason,
            message: format!("attempt {number} was the last, and it failed: {message}"),
        },
    }
}

/// Which failures are tried again: every kind. A lambda that throws does so, more often than not, because
/// what it calls is down; a time-out or lack of memory may be its neighbour's doing; and what fails
/// for good costs no more than the attempts that its author allowed.
fn is_retried(kind: FailureKind) -> bool {
    match kind {
        FailureKind::Thrown
        | FailureKind::Timeout
        | FailureKind::OutOfMemory
        | FailureKind::NeverSettles
        | FailureKind::ResultTooLarge
        | FailureKind::ResultNotJson
        | FailureKind::Crashed
        | FailureKind::NotLoadable
        | FailureKind::Unspecified => true,
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
    use proptest::prelude::*;

    use super::*;

    fn failed() -> AttemptEnd {
        let failure = LambdaFailure {
            kind: FailureKind::Thrown.into(),
            error_name: "TypeError".to_owned(),
            message: "x is undefined".to_owned(),
            ..LambdaFailure::default()
        };
        let outcome = Some(run_report::Outcome::Failure(failure));
        AttemptEnd::Reported(RunReport { outcome, ..RunReport::default() })
    }

    proptest! {
        #[test]
        fn exactly_max_attempts_and_then_a_dead_letter(max_attempts in 1u32..21, died in any::<bool>()) {
            let policy = RetryPolicy { max_attempts, ..RetryPolicy::default() };
            let end = if died { AttemptEnd::died() } else { failed() };
            let mut attempts = 0;
            loop {
                attempts += 1;
                match after_attempt(attempts, &end, &policy, None, 0.5) {
                    Next::Retry(_) => prop_assert!(attempts < max_attempts),
                    Next::DeadLettered { reason, .. } => {
                        prop_assert_eq!(reason, if died { "INGEST_DIED" } else { "LAMBDA_FAILED" });
                        break;
                    }
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            prop_assert_eq!(attempts, max_attempts);
        }
    }

    #[test]
    fn no_attempt_is_planned_after_deliver_by() {
        let policy = RetryPolicy::default();
        let second = Some(Duration::from_secs(1));
        assert_eq!(after_attempt(1, &failed(), &policy, second, 0.0), Next::Expired);
        assert!(matches!(after_attempt(1, &failed(), &policy, second, 1.0), Next::Retry(_)));
        // The last attempt's failure says more than the time.
        assert!(matches!(after_attempt(3, &failed(), &policy, second, 0.0), Next::DeadLettered { .. }));
    }

    #[test]
    fn a_dead_letter_tells_what_failed() {
        let policy = RetryPolicy { max_attempts: 1, ..RetryPolicy::default() };
        let Next::DeadLettered { message, .. } = after_attempt(1, &failed(), &policy, None, 0.0) else {
            panic!("another attempt");
        };
        assert!(message.contains("TypeError: x is undefined"), "{message}");
    }
}
