//! What callers are told when something goes wrong; the reasons are part of the contract.

use std::time::Duration;

use chatfn_domain::{
    event::{MAX_PAYLOAD_BYTES, MAX_PAYLOAD_DEPTH, PayloadError},
    name::{DeliveryName, TemplateName},
};
use chatfn_pg::Failure;
use chatfn_rpc::ApiError;

/// When a caller should try again after an overload, which passes in the time of a few commits.
const OVERLOAD_PAUSE: Duration = Duration::from_millis(100);
/// When a caller should try again after an outage.
const OUTAGE_PAUSE: Duration = Duration::from_secs(1);

/// No snapshot of what is live was ever complete.
pub(crate) fn no_snapshot() -> ApiError {
    ApiError::unavailable("NO_SNAPSHOT", "event-ingest has just started and does not know the templates yet")
        .retry_after(OUTAGE_PAUSE)
}

/// A queue on the way to the store is full.
pub(crate) fn overloaded() -> ApiError {
    ApiError::resource_exhausted(
        "OVERLOADED",
        "more events arrive than can be recorded; nothing was recorded, publish it again",
        OVERLOAD_PAUSE,
    )
}

/// The process shuts down.
pub(crate) fn draining() -> ApiError {
    ApiError::unavailable("DRAINING", "this replica shuts down; publish the event again, to another one")
        .retry_after(OVERLOAD_PAUSE)
}

/// The call's deadline passed before the event's turn came.
pub(crate) fn expired_in_queue() -> ApiError {
    ApiError::deadline_exceeded("DEADLINE_EXCEEDED", "the deadline passed before the event was recorded")
}

/// There is no template of this name.
pub(crate) fn template_not_found(template: &TemplateName) -> ApiError {
    ApiError::not_found("TEMPLATE_NOT_FOUND", "template", &format!("templates/{template}"))
}

/// An id is used for two different events.
pub(crate) fn event_id_reused(delivery: &DeliveryName) -> ApiError {
    ApiError::already_exists("EVENT_ID_REUSED", "delivery", &delivery.to_string()).field(
        "event.event_id",
        "names another event that was published before: choose a new id, or publish that event unchanged",
    )
}

/// There is no event of this id.
pub(crate) fn delivery_not_found(delivery: &DeliveryName) -> ApiError {
    ApiError::not_found("DELIVERY_NOT_FOUND", "delivery", &delivery.to_string())
}

/// A page token that this list did not give.
pub(crate) fn invalid_page_token() -> ApiError {
    ApiError::invalid_argument("INVALID_PAGE_TOKEN", "the page token does not belong to this list and filter")
        .field("page_token", "must be the next_page_token of the page before, with the same filter")
}

/// A payload that no template could accept. `field` is where it stands in the request.
pub(crate) fn payload(field: &str, error: &PayloadError) -> ApiError {
    let (reason, description) = match error {
        PayloadError::TooLarge(_) => {
            ("INVALID_REQUEST", format!("must have at most {MAX_PAYLOAD_BYTES} bytes as JSON"))
        }
        PayloadError::TooDeep => {
            ("PAYLOAD_TOO_DEEP", format!("must be nested at most {MAX_PAYLOAD_DEPTH} levels deep"))
        }
        PayloadError::NotJson(_) | PayloadError::NotAnObject => {
            ("PAYLOAD_NOT_JSON", "must be the text of a JSON object".to_owned())
        }
    };
    ApiError::invalid_argument(reason, error.to_string()).field(field, description)
}

/// The store could not do its part.
pub(crate) fn store(error: sqlx::Error) -> ApiError {
    match chatfn_pg::classify(&error) {
        Failure::StatementCanceled => ApiError::deadline_exceeded(
            "DEADLINE_EXCEEDED",
            "the store took too long; ask for less, or later",
        ),
        failure if failure.is_transient() => store_unavailable(),
        _ => ApiError::internal(error),
    }
}

/// The store cannot be reached, or what came of a commit is not known.
pub(crate) fn store_unavailable() -> ApiError {
    ApiError::unavailable(
        "STORE_UNAVAILABLE",
        "the store cannot be reached; try again, which is safe: an event is recorded once",
    )
    .retry_after(OUTAGE_PAUSE)
}
