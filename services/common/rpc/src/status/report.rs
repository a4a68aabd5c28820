//! Reading an error that came over the wire.

use std::{collections::BTreeMap, time::Duration};

use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::DOMAIN;

/// A wrong field of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldViolation {
    /// Path of the field, such as `event.payload`.
    pub field: String,
    /// What it should be.
    pub description: String,
    /// A stable `SCREAMING_SNAKE` name of the rule that it breaks, such as `OUT_OF_RANGE`; empty if it has none.
    pub reason: String,
}

/// A condition that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Precondition {
    /// A stable `SCREAMING_SNAKE` name.
    pub kind: String,
    /// What it is about.
    pub subject: String,
    /// How to make it hold.
    pub description: String,
}

/// What an error is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Kind of the resource.
    pub resource_type: String,
    /// Its name.
    pub name: String,
}

/// An error of a chatfn service, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorReport {
    /// The code.
    pub code: Code,
    /// The text.
    pub message: String,
    /// The stable reason; `None` if the error does not come from chatfn.
    pub reason: Option<String>,
    /// Metadata of `ErrorInfo`.
    pub metadata: BTreeMap<String, String>,
    /// `BadRequest`.
    pub fields: Vec<FieldViolation>,
    /// `PreconditionFailure`.
    pub preconditions: Vec<Precondition>,
    /// `ResourceInfo`.
    pub resource: Option<Resource>,
    /// `RetryInfo`.
    pub retry_after: Option<Duration>,
}

impl ErrorReport {
    /// Takes `status` apart. Details that cannot be decoded count as absent.
    pub fn from_status(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == DOMAIN);
        Self {
            code: status.code(),
            message: status.message().to_owned(),
            reason: info.map(|info| info.reason.clone()),
            metadata: info.map(|info| info.metadata.clone().into_iter().collect()).unwrap_or_default(),
            fields: details
                .bad_request()
                .into_iter()
                .flat_map(|bad| &bad.field_violations)
                .map(|v| FieldViolation {
                    field: v.field.clone(),
                    description: v.description.clone(),
                    reason: v.reason.clone(),
                })
                .collect(),
            preconditions: details
                .precondition_failure()
                .into_iter()
                .flat_map(|failure| &failure.violations)
                .map(|v| Precondition {
                    kind: v.r#type.clone(),
                    subject: v.subject.clone(),
                    description: v.description.clone(),
                })
                .collect(),
            resource: details.resource_info().map(|info| Resource {
                resource_type: info.resource_type.clone(),
                name: info.resource_name.clone(),
            }),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
        }
    }
}
