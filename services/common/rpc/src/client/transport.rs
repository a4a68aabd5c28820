//! What a failure of the connection means for the call.
//!
//! tonic 0.14 reports the same loss as `UNKNOWN`, `CANCELLED` or `INTERNAL`, depending on when it is noticed.
//! A caller needs one code, and to know whether the call may have had effects.

use std::error::Error;

use hyper_util::client::legacy;
use tonic::Status;

use crate::{ApiError, reasons};

/// The status for an error that came from the connection and not from the server.
pub(super) fn status(error: &(dyn Error + 'static)) -> Status {
    let text = innermost(error);
    if find::<legacy::Error>(error).is_some_and(legacy::Error::is_connect) {
        return not_sent(&format!("cannot connect: {text}"));
    }
    if was_not_taken(error) {
        return not_sent(&format!("the server did not take the call: {text}"));
    }
    lost(&text)
}

/// Whether the server was reached, and has said that it did nothing of the call.
pub(super) fn was_not_taken(error: &(dyn Error + 'static)) -> bool {
    let Some(h2) = find::<h2::Error>(error) else { return false };
    let refused = h2.reason() == Some(h2::Reason::REFUSED_STREAM);
    // A graceful GOAWAY fails only the calls that the server has not begun.
    let not_begun = h2.is_go_away() && h2.is_remote() && h2.reason() == Some(h2::Reason::NO_ERROR);
    refused || not_begun
}

/// The call's time was over before there was a connection for it: the server's host may drop what is sent to it, say.
pub(super) fn not_connected() -> Status {
    not_sent("no connection was ready within the call's time")
}

/// Nothing was done.
fn not_sent(text: &str) -> Status {
    ApiError::unavailable(reasons::CONNECTION_FAILED, text).into()
}

/// The call may have had effects.
pub(super) fn lost(text: &str) -> Status {
    ApiError::unavailable(
        reasons::CONNECTION_LOST,
        format!("the connection was lost during the call: {text}"),
    )
    .into()
}

fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'e (dyn Error + 'static)| (*error).source())
}

fn find<'e, E: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e E> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

/// The outer errors only name the layer that noticed.
fn innermost(error: &(dyn Error + 'static)) -> String {
    causes(error).last().unwrap_or(error).to_string()
}
