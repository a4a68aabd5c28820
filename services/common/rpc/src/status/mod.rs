//! Errors on the wire: always a stable reason, typed details, and bounded in size.

mod bounds;
mod report;
pub(crate) mod unreadable;

use std::{error::Error, time::Duration};

use chatfn_domain::reasons::{self, Reason};
use tonic::{Code, Status, metadata::MetadataValue};
use tonic_types::{ErrorDetails, StatusExt};
use uuid::Uuid;

pub use report::{ErrorReport, FieldViolation, Precondition, Resource};
pub use unreadable::unreadable;

/// The `ErrorInfo` domain of every chatfn error.
pub(crate) const DOMAIN: &str = "chatfn";

/// Tells well-behaved gRPC clients when to retry; understood by gRPC's own retry policies.
const RETRY_PUSHBACK: &str = "grpc-retry-pushback-ms";

/// An error for a caller: a code, a stable [`Reason`], a text that says what to do next,
/// and `google.rpc` details. Converts into a [`Status`] whose headers stay below 6 KiB, whatever is put in:
/// texts are cut and surplus violations are counted instead of listed.
#[derive(Clone, Debug)]
pub struct ApiError(Box<Inner>);

/// Boxed, so that a `Result` with it stays small.
#[derive(Clone, Debug)]
struct Inner {
    code: Code,
    reason: Reason,
    message: String,
    metadata: Vec<(&'static str, String)>,
    fields: Vec<FieldViolation>,
    preconditions: Vec<Precondition>,
    resource: Option<Resource>,
    retry_after: Option<Duration>,
}

impl ApiError {
    /// Any code; prefer the named constructors.
    pub fn new(code: Code, reason: Reason, message: impl Into<String>) -> Self {
        debug_assert_eq!(code_name(code), reason.of(), "{reason} is of another code");
        Self(Box::new(Inner {
            code,
            reason,
            message: message.into(),
            metadata: Vec::new(),
            fields: Vec::new(),
            preconditions: Vec::new(),
            resource: None,
            retry_after: None,
        }))
    }

    /// `INVALID_ARGUMENT`: the request is wrong whatever the state of the system. Name the fields with
    /// [`ApiError::field`].
    pub fn invalid_argument(reason: Reason, message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, reason, message)
    }

    /// `NOT_FOUND`, with `ResourceInfo`.
    pub fn not_found(reason: Reason, resource_type: &str, name: &str) -> Self {
        Self::about(Code::NotFound, reason, resource_type, name, "was not found")
    }

    /// `ALREADY_EXISTS`, with `ResourceInfo`.
    pub fn already_exists(reason: Reason, resource_type: &str, name: &str) -> Self {
        Self::about(Code::AlreadyExists, reason, resource_type, name, "already exists")
    }

    fn about(code: Code, reason: Reason, resource_type: &str, name: &str, what: &str) -> Self {
        Self::new(code, reason, reason.message(resource_type, name, what)).resource(resource_type, name)
    }

    /// `FAILED_PRECONDITION`: not until someone changes the state of the system.
    pub fn failed_precondition(reason: Reason, message: impl Into<String>) -> Self {
        Self::new(Code::FailedPrecondition, reason, message)
    }

    /// `ABORTED`: a conflict; read again and redo the whole change (a stale etag).
    pub fn aborted(reason: Reason, message: impl Into<String>) -> Self {
        Self::new(Code::Aborted, reason, message)
    }

    /// `OUT_OF_RANGE`: beyond what can be served now (an event too old to be deduplicated).
    pub fn out_of_range(reason: Reason, message: impl Into<String>) -> Self {
        Self::new(Code::OutOfRange, reason, message)
    }

    /// `PERMISSION_DENIED`: a known caller may not do this.
    pub fn permission_denied(reason: Reason, message: impl Into<String>) -> Self {
        Self::new(Code::PermissionDenied, reason, message)
    }

    /// `UNAVAILABLE`: nothing was done; the same call may succeed later.
    pub fn unavailable(reason: Reason, message: impl Into<String>) -> Self {
        Self::new(Code::Unavailable, reason, message)
    }

    /// `RESOURCE_EXHAUSTED`: refused before any work; retry after the given time.
    pub fn resource_exhausted(reason: Reason, message: impl Into<String>, retry_after: Duration) -> Self {
        Self::new(Code::ResourceExhausted, reason, message).retry_after(retry_after)
    }

    /// `DEADLINE_EXCEEDED`: the budget is spent (a statement timeout of ours counts, too).
    pub fn deadline_exceeded(reason: Reason, message: impl Into<String>) -> Self {
        Self::new(Code::DeadlineExceeded, reason, message)
    }

    /// `INTERNAL`: our bug or a broken dependency. Logs the chain of causes, here and only here, under a
    /// fresh id; the caller gets nothing but that id.
    pub fn internal(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let error = error.into();
        let id = Uuid::now_v7();
        tracing::error!(error.id = %id, error.chain = %chain(&*error), "internal error {id}");
        Self::opaque(id)
    }

    /// The answer for an internal error that is logged under `id` already.
    pub(crate) fn opaque(id: Uuid) -> Self {
        Self::new(
            Code::Internal,
            reasons::INTERNAL,
            format!("internal error {id}; the server's log has the cause under this id"),
        )
        .metadata("error_id", id.to_string())
    }

    /// Adds to `BadRequest`: `field` is the path of a request field (`event.payload`), `description` says
    /// what it should be.
    #[must_use]
    pub fn field(self, field: impl Into<String>, description: impl Into<String>) -> Self {
        self.violation(field, "", description)
    }

    /// As [`ApiError::field`], with a stable `SCREAMING_SNAKE` name of the rule that is broken, such as
    /// `OUT_OF_RANGE`.
    #[must_use]
    pub fn violation(
        mut self,
        field: impl Into<String>,
        reason: &'static str,
        description: impl Into<String>,
    ) -> Self {
        let (field, description, reason) = (field.into(), description.into(), reason.to_owned());
        self.0.fields.push(FieldViolation { field, description, reason });
        self
    }

    /// Adds to `PreconditionFailure`: `kind` is a stable `SCREAMING_SNAKE` name, `subject` what it is about.
    #[must_use]
    pub fn precondition(
        mut self,
        kind: impl Into<String>,
        subject: impl Into<String>,
        description: impl Into<String>,
    ) -> Self {
        self.0.preconditions.push(Precondition {
            kind: kind.into(),
            subject: subject.into(),
            description: description.into(),
        });
        self
    }

    /// Sets `ResourceInfo`.
    #[must_use]
    pub fn resource(mut self, resource_type: impl Into<String>, name: impl Into<String>) -> Self {
        self.0.resource = Some(Resource { resource_type: resource_type.into(), name: name.into() });
        self
    }

    /// Adds to the metadata of `ErrorInfo`: values that a program may want, never secrets or payloads.
    #[must_use]
    pub fn metadata(mut self, key: &'static str, value: impl Into<String>) -> Self {
        debug_assert!(self.0.reason.metadata().contains(&key), "{} is not said to have {key}", self.0.reason);
        self.0.metadata.push((key, value.into()));
        self
    }

    /// Sets `RetryInfo` (and `grpc-retry-pushback-ms`, which gRPC's own retry policies read).
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.0.retry_after = Some(delay);
        self
    }

    /// The code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The stable reason.
    pub fn reason(&self) -> Reason {
        self.0.reason
    }

    /// The text.
    pub fn message(&self) -> &str {
        &self.0.message
    }
}

impl Inner {
    fn details(&self) -> ErrorDetails {
        let mut details = ErrorDetails::with_error_info(
            self.reason.name(),
            DOMAIN,
            self.metadata
                .iter()
                .take(bounds::MAX_METADATA)
                .map(|(key, value)| ((*key).to_owned(), bounds::text(value)))
                .collect::<std::collections::HashMap<_, _>>(),
        );
        if let Some(resource) = &self.resource {
            let (kind, name) = (bounds::name(&resource.resource_type), bounds::name(&resource.name));
            details.set_resource_info(kind, name, "", "");
        }
        if let Some(delay) = self.retry_after {
            details.set_retry_info(Some(delay));
        }
        if !self.fields.is_empty() {
            details.set_bad_request(bounds::fields(&self.fields));
        }
        for p in self.preconditions.iter().take(bounds::MAX_PRECONDITIONS) {
            details.add_precondition_failure_violation(
                bounds::name(&p.kind),
                bounds::name(&p.subject),
                bounds::text(&p.description),
            );
        }
        details
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}): {}", code_name(self.code()), self.reason(), self.message())
    }
}

impl Error for ApiError {}

impl From<ApiError> for Status {
    fn from(ApiError(error): ApiError) -> Self {
        let mut status =
            Status::with_error_details(error.code, bounds::message(&error.message), error.details());
        if let Some(delay) = error.retry_after {
            let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
            status.metadata_mut().insert(RETRY_PUSHBACK, MetadataValue::from(millis));
        }
        status
    }
}

/// The chain of causes, outermost first, on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// The code's name as the gRPC specification spells it, for logs and metric labels.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests;
