//! Requests that are no messages.

use http::Response;
use tonic::{Code, Status, body::Body};

use super::ApiError;
use crate::{MAX_MESSAGE_BYTES, reasons};

/// How tonic's decoders begin to say that bytes are no message, and that a message is too long.
const NO_MESSAGE: &str = "failed to decode Protobuf message";
const TOO_LONG: &str = "Error, decoded message length too large";

/// The status of a call whose request tonic could not decode, with its reason and the code of a caller's mistake; tonic says
/// INTERNAL. Any other status is as it was.
///
/// For what handlers read from a stream. Answers of other calls pass through [`explained`].
#[must_use]
pub fn unreadable(status: Status) -> Status {
    explain(&status).map_or(status, Status::from)
}

/// The same for the answer to a call.
pub(crate) fn explained(response: Response<Body>) -> Response<Body> {
    let headers = response.headers();
    let is_suspect = headers.get(Status::GRPC_STATUS).is_some_and(|code| code == "11" || code == "13");
    let status = if is_suspect { Status::from_header_map(headers) } else { None };
    match status.as_ref().and_then(explain) {
        Some(error) => Status::from(error).into_http(),
        None => response,
    }
}

fn explain(status: &Status) -> Option<ApiError> {
    if !status.details().is_empty() {
        // One of ours.
        return None;
    }
    match status.code() {
        Code::Internal if status.message().starts_with(NO_MESSAGE) => {
            // What comes before is the path of fields, which may be of a hundred.
            let cause = status.message().rsplit(": ").next().unwrap_or_default();
            let message = format!(
                "the request is not a message of this method: {cause}. Is it of this release's contract? A payload that is nested \
                 deeper than 32 levels must be sent as JSON text"
            );
            Some(ApiError::invalid_argument(reasons::MESSAGE_UNREADABLE, message))
        }
        Code::OutOfRange if status.message().starts_with(TOO_LONG) => {
            let message = format!("a message may have {MAX_MESSAGE_BYTES} bytes at most; send less at once");
            Some(ApiError::out_of_range(reasons::MESSAGE_TOO_LARGE, message))
        }
        _ => None,
    }
}
