//! Whether a failed call may be made again.

use tonic::{Code, Status};

use crate::{ErrorReport, reasons};

/// What a failed call means for making it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryClass {
    /// The callee did nothing: any call may be made again, as far as the budget allows.
    Safe,
    /// The callee may have done it: only idempotent calls may be made again.
    Unknown,
    /// The same call would fail again.
    Never,
}

/// With these the call may have had effects.
const IN_PROGRESS: [&str; 2] = [reasons::CONNECTION_LOST.name(), reasons::SERVER_DRAINING.name()];

/// Classifies a failure of a call made through a [`Client`](crate::Client).
///
/// `UNAVAILABLE` and `RESOURCE_EXHAUSTED` are safe when a chatfn service gave them with a reason, since
/// services refuse with them before doing anything; except where the call was already in progress
/// (`CONNECTION_LOST`, `SERVER_DRAINING`).
pub fn classify(status: &Status) -> RetryClass {
    let reason = || ErrorReport::from_status(status).reason;
    match status.code() {
        Code::Unavailable | Code::ResourceExhausted => match reason().as_deref() {
            Some(reason) if !IN_PROGRESS.contains(&reason) => RetryClass::Safe,
            _ => RetryClass::Unknown,
        },
        Code::DeadlineExceeded if reason().as_deref() == Some(reasons::BUDGET_TOO_SMALL.name()) => {
            RetryClass::Safe
        }
        Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::Internal => RetryClass::Unknown,
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::DataLoss
        | Code::Unauthenticated => RetryClass::Never,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ApiError;

    #[test]
    fn classes() {
        let busy = ApiError::resource_exhausted(reasons::SERVER_BUSY, "busy", Duration::from_millis(1));
        let lost = ApiError::unavailable(reasons::CONNECTION_LOST, "lost");
        let no_invoker = ApiError::unavailable(reasons::INVOKER_UNAVAILABLE, "no invoker is reachable");
        let doomed = ApiError::deadline_exceeded(reasons::BUDGET_TOO_SMALL, "too small");
        for (status, expected) in [
            (busy.into(), RetryClass::Safe),
            (no_invoker.into(), RetryClass::Safe),
            (doomed.into(), RetryClass::Safe),
            (lost.into(), RetryClass::Unknown),
            (Status::unavailable("a proxy's"), RetryClass::Unknown),
            (Status::deadline_exceeded("x"), RetryClass::Unknown),
            (Status::cancelled("x"), RetryClass::Unknown),
            (Status::invalid_argument("x"), RetryClass::Never),
            (Status::aborted("x"), RetryClass::Never),
        ] {
            assert_eq!(classify(&status), expected, "{status:?}");
        }
    }
}
