//! What callers are told when something goes wrong; the reasons are part of the contract.

use std::time::Duration;

use chatfn_domain::{
    event::{MAX_PAYLOAD_BYTES, MAX_PAYLOAD_DEPTH, PayloadError},
    name::{AccountId, DeliveryName, ReplayName, TemplateName},
};
use chatfn_pg::Failure;
use chatfn_rpc::{ApiError, reasons};

use crate::quota::Exceeded;

/// When a caller should try again after an overload, which passes in the time of a few commits.
const OVERLOAD_PAUSE: Duration = Duration::from_millis(100);
/// When a caller should try again after an outage.
const OUTAGE_PAUSE: Duration = Duration::from_secs(1);

/// No snapshot of what is live was ever complete.
pub(crate) fn no_snapshot() -> ApiError {
    ApiError::unavailable(
        reasons::NO_SNAPSHOT,
        "event-ingest has just started and does not know the templates yet",
    )
    .retry_after(OUTAGE_PAUSE)
}

/// A queue on the way to the store is full.
pub(crate) fn overloaded() -> ApiError {
    ApiError::resource_exhausted(
        reasons::OVERLOADED,
        "more events arrive than can be recorded; nothing was recorded, publish it again",
        OVERLOAD_PAUSE,
    )
}

/// An account has as many calls in progress as it may have while others call, too.
pub(crate) fn account_busy(account: &AccountId) -> ApiError {
    ApiError::resource_exhausted(
        reasons::ACCOUNT_BUSY,
        format!(
            "accounts/{account} has too many calls in progress; nothing was recorded: publish it again, with many events \
             in each call, or over a stream"
        ),
        OVERLOAD_PAUSE,
    )
}

/// A caller has as many streams open that have brought no event yet as it may have while others call, too.
pub(crate) fn caller_busy(subject: &str) -> ApiError {
    ApiError::resource_exhausted(
        reasons::CALLER_BUSY,
        format!(
            "{subject} has too many streams open over which no event of an account has come; end some, or open each when \
             there is an event to send"
        ),
        OVERLOAD_PAUSE,
    )
}

/// An account has published as much as it may.
pub(crate) fn quota_exceeded(account: &AccountId, Exceeded { what, rate, pause }: Exceeded) -> ApiError {
    ApiError::resource_exhausted(
        reasons::QUOTA_EXCEEDED,
        format!(
            "accounts/{account} may publish {rate} {what} per second here; nothing was recorded: publish it again after the \
             pause, or ask the operator for more (--account-quotas-file)"
        ),
        pause,
    )
    .metadata("account", account.as_str())
    .metadata("quota", what)
}

/// The process shuts down.
pub(crate) fn draining() -> ApiError {
    ApiError::unavailable(
        reasons::DRAINING,
        "this replica shuts down; publish the event again, to another one",
    )
    .retry_after(OVERLOAD_PAUSE)
}

/// The process has ended while the event was being recorded.
pub(crate) fn ended_while_recording() -> ApiError {
    ApiError::unavailable(
        reasons::SERVER_DRAINING,
        "this replica was ended while it recorded the event, which may have been recorded; publish it again, to another one",
    )
    .retry_after(OVERLOAD_PAUSE)
}

/// A stream has lasted long enough.
pub(crate) fn stream_aged() -> ApiError {
    ApiError::unavailable(
        reasons::STREAM_AGED,
        "streams are ended after some time, so that they spread over the replicas; open another one and send what was \
         not answered again",
    )
}

/// Nothing came over a stream for a long time.
pub(crate) fn stream_idle() -> ApiError {
    ApiError::unavailable(
        reasons::STREAM_IDLE,
        "no event came for a long time; open another stream when there is one",
    )
}

/// A stream whose requests are not in order.
pub(crate) fn stream_order() -> ApiError {
    ApiError::invalid_argument(reasons::INVALID_REQUEST, "client_sequence must rise from request to request").field(
        "client_sequence",
        "must be greater than that of the request before, and at least 1; open another stream and send what was not \
         answered again",
    )
}

/// The call's deadline passed before the event's turn came.
pub(crate) fn expired_in_queue() -> ApiError {
    ApiError::deadline_exceeded(
        reasons::DEADLINE_EXCEEDED,
        "the deadline passed before the event was recorded",
    )
}

/// There is no template of this name.
pub(crate) fn template_not_found(template: &TemplateName) -> ApiError {
    ApiError::not_found(reasons::TEMPLATE_NOT_FOUND, "template", &format!("templates/{template}"))
}

/// An event that is not found, and happened so long ago that nobody knows whether it was recorded.
pub(crate) fn too_old(age: Duration) -> ApiError {
    let message = format!(
        "the event happened {} hours ago; there is none with its id, but events are not kept for so long: it may have been recorded",
        hours(age)
    );
    occur_time(message, "is too long ago: leave it out to have the event run even if it has run before")
}

/// An event that is to happen yet.
pub(crate) fn not_yet(ahead: Duration, most: Duration) -> ApiError {
    let (ahead, most) = (hours(ahead), hours(most));
    let message = format!("the event will happen in {ahead} hours; clocks may be {most} hours ahead at most");
    occur_time(message, "is in the future: set the publisher's clock, or leave it out")
}

fn occur_time(message: String, description: &str) -> ApiError {
    ApiError::new(tonic::Code::OutOfRange, reasons::OCCUR_TIME_OUT_OF_RANGE, message)
        .field("event.occur_time", description)
}

fn hours(duration: Duration) -> u64 {
    duration.as_secs().div_ceil(3600)
}

/// An id is used for two different events.
pub(crate) fn event_id_reused(delivery: &DeliveryName) -> ApiError {
    let what =
        "names another event that was published before: choose a new id, or publish that event unchanged";
    let message = format!("the event_id of {delivery} {what}");
    ApiError::new(tonic::Code::AlreadyExists, reasons::EVENT_ID_REUSED, message)
        .resource("delivery", delivery.to_string())
        .field("event.event_id", what)
}

/// There is no event of this id.
pub(crate) fn delivery_not_found(delivery: &DeliveryName) -> ApiError {
    ApiError::not_found(reasons::DELIVERY_NOT_FOUND, "delivery", &delivery.to_string())
}

/// There is no replay of this id.
pub(crate) fn replay_not_found(replay: &ReplayName) -> ApiError {
    ApiError::not_found(reasons::REPLAY_NOT_FOUND, "replay", &replay.to_string())
}

/// A conversation, or an event of it, at which an operator may act only while it is halted there.
pub(crate) fn not_halted(subject: &str, at: Option<&DeliveryName>) -> ApiError {
    let (message, description) = match at {
        Some(at) => (
            format!("{subject} is not halted, but {at} is"),
            format!("the conversation is halted at {at}: look at that one, and resume or skip it"),
        ),
        None => (
            format!("{subject} is not halted: there is nothing to do"),
            "only what is halted can be resumed or skipped; to run an event again that has its outcome, replay it".to_owned(),
        ),
    };
    ApiError::failed_precondition(reasons::NOT_HALTED, message).precondition(
        "NOT_HALTED",
        subject,
        description,
    )
}

/// Another operator was faster, with something else.
pub(crate) fn intervention_pending(delivery: &DeliveryName) -> ApiError {
    ApiError::aborted(
        reasons::INTERVENTION_PENDING,
        format!(
            "something else is asked for {delivery} already, and not done yet; look at it again in a second"
        ),
    )
    .retry_after(OUTAGE_PAUSE)
}

/// A request id was used for another replay.
pub(crate) fn request_id_reused() -> ApiError {
    ApiError::invalid_argument(
        reasons::REQUEST_ID_REUSED,
        "the request_id was used for another replay of this account; make up a new one for each",
    )
    .field("request_id", "must be new, or the request the same as the first time")
}

/// An account has enough replays in progress.
pub(crate) fn too_many_replays(most: i64) -> ApiError {
    ApiError::resource_exhausted(
        reasons::TOO_MANY_REPLAYS,
        format!("{most} replays of the account are running; wait until one is done, or cancel one"),
        Duration::from_secs(60),
    )
}

/// An account has its share of the streams of deliveries of this replica.
pub(crate) fn too_many_tails(account: &AccountId) -> ApiError {
    ApiError::resource_exhausted(
        reasons::TOO_MANY_TAILS,
        format!(
            "this replica serves as many streams of deliveries of accounts/{account} as it can while others want some, too; \
             end one, or list deliveries instead"
        ),
        Duration::from_secs(10),
    )
}

/// The reader of a stream of deliveries does not read.
pub(crate) fn tail_too_slow() -> ApiError {
    ApiError::new(
        tonic::Code::ResourceExhausted,
        reasons::TAIL_TOO_SLOW,
        "nothing was read for 10 s; call again with the resume_token of the last response that was read",
    )
}

/// A page token that this list did not give.
pub(crate) fn invalid_page_token() -> ApiError {
    ApiError::invalid_argument(
        reasons::INVALID_PAGE_TOKEN,
        "page_token is not one of this list and filter; leave it empty to start from the first page",
    )
    .field("page_token", "must be the next_page_token of the page before, with the same filter")
}

/// A token that no stream of these deliveries gave.
pub(crate) fn invalid_resume_token() -> ApiError {
    ApiError::invalid_argument(
        reasons::INVALID_PAGE_TOKEN,
        "resume_token is not one of this account's deliveries and filter; leave it empty to begin with what happens now",
    )
    .field("resume_token", "must be the resume_token of a response, with the same filter")
}

/// A payload that no template could accept. `field` is where it stands in the request.
pub(crate) fn payload(field: &str, error: &PayloadError) -> ApiError {
    let (reason, description) = match error {
        PayloadError::TooLarge(_) => {
            (reasons::INVALID_REQUEST, format!("must have at most {MAX_PAYLOAD_BYTES} bytes as JSON"))
        }
        PayloadError::TooDeep => {
            (reasons::PAYLOAD_TOO_DEEP, format!("must be nested at most {MAX_PAYLOAD_DEPTH} levels deep"))
        }
        PayloadError::NotJson(_) | PayloadError::NotAnObject => {
            (reasons::PAYLOAD_NOT_JSON, "must be the text of a JSON object".to_owned())
        }
    };
    ApiError::invalid_argument(reason, error.to_string()).field(field, description)
}

/// The store could not do its part.
pub(crate) fn store(error: sqlx::Error) -> ApiError {
    match chatfn_pg::classify(&error) {
        Failure::StatementCanceled => ApiError::deadline_exceeded(
            reasons::DEADLINE_EXCEEDED,
            "the store did not answer within the call's time (or, if that is longer, --database-statement-timeout); ask for \
             less, or give it more time",
        ),
        failure if failure.is_transient() => store_unavailable(),
        _ => ApiError::internal(error),
    }
}

/// The store cannot be reached, or what came of a commit is not known.
pub(crate) fn store_unavailable() -> ApiError {
    ApiError::unavailable(
        reasons::STORE_UNAVAILABLE,
        "the store cannot be reached; try again, which is safe: an event is recorded once",
    )
    .retry_after(OUTAGE_PAUSE)
}
