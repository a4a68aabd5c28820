//! Why there is no report, and what callers are told.

use std::time::Duration;

use chatfn_deployments::SchemaError;
use chatfn_domain::name::{FunctionName, TemplateName};
use chatfn_engine::RunError;
use chatfn_proto::validate::Violations;
use chatfn_rpc::{ApiError, reasons};
use tonic::Status;

use crate::{functions::LoadError, places::NoPlace};

/// When a caller that was refused for want of capacity is told to try again.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// When a caller is told to try again whose function was not loaded in time: about as long as that is not tried again.
const LOAD_RETRY: Duration = Duration::from_secs(1);

/// When a caller is told to try again after the registry did not answer.
const REGISTRY_RETRY: Duration = Duration::from_secs(1);

/// Why there is no report. Failures of a lambda are reports.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvokerError {
    /// The request is malformed.
    #[error(transparent)]
    Invalid(#[from] Violations),
    /// No version of the function is live.
    #[error("{0} is not deployed")]
    NotDeployed(FunctionName),
    /// There is no function whose draft could be tested.
    #[error("{0} does not exist")]
    FunctionNotFound(FunctionName),
    /// There is no such template.
    #[error("template {0} does not exist")]
    TemplateNotFound(TemplateName),
    /// The lambda to test would call a host that only an admin can allow.
    #[error("the lambda to test may not call {0}")]
    HostForbidden(String),
    /// The schema of a template cannot be used.
    #[error(transparent)]
    Schema(SchemaError),
    /// The registry cannot be asked for a draft.
    #[error("the registry could not be asked for the draft; nothing ran, try again")]
    RegistryUnavailable(Status),
    /// The draft has settings that this release does not know.
    #[error("the draft of {0} cannot be read by this invoker; nothing ran")]
    DraftUnreadable(FunctionName),
    /// The registry did not answer within the call's deadline.
    #[error("the deadline passed while the registry was asked for the draft; nothing ran")]
    RegistryTimedOut,
    /// No snapshot yet.
    #[error(transparent)]
    NoSnapshot(#[from] chatfn_deployments::NotReady),
    /// The call's deadline is too near.
    #[error("{left:?} are left, too little to run a lambda and answer in time; nothing ran")]
    BudgetTooSmall {
        /// What is left of the call.
        left: Duration,
    },
    /// As many runs, tests or preparations as allowed, of all or of the account.
    #[error("{0}; nothing ran")]
    NoPlace(#[from] NoPlace),
    /// The version cannot be prepared, and it is not its author's mistake.
    #[error("the function cannot be prepared")]
    Load(LoadError),
    /// The engine cannot run anything.
    #[error(transparent)]
    Run(RunError),
}

impl From<InvokerError> for Status {
    fn from(error: InvokerError) -> Self {
        let message = error.to_string();
        match error {
            InvokerError::Invalid(violations) => return violations.into(),
            InvokerError::NotDeployed(function) => ApiError::new(
                tonic::Code::NotFound,
                reasons::FUNCTION_NOT_DEPLOYED,
                format!("{message}: deploy it at the registry first"),
            )
            .resource("function", function.to_string()),
            InvokerError::FunctionNotFound(function) => ApiError::new(
                tonic::Code::NotFound,
                reasons::FUNCTION_NOT_FOUND,
                format!(
                    "{message}: create it at the registry first, or give the lambda to test in the request"
                ),
            )
            .resource("function", function.to_string()),
            InvokerError::TemplateNotFound(template) => ApiError::new(
                tonic::Code::NotFound,
                reasons::TEMPLATE_NOT_FOUND,
                format!("{message}: TemplateService.ListTemplates at the registry lists those that do"),
            )
            .resource("template", format!("templates/{template}")),
            InvokerError::HostForbidden(_) => ApiError::permission_denied(
                reasons::ROLE_REQUIRED,
                format!(
                    "{message}: the function's live version may not, and to allow more needs the role admin as well; leave \
                     it out of lambda.settings.allowed_hosts, or have an admin add it to the draft and test that"
                ),
            )
            .metadata("roles", "admin")
            .metadata("field", "lambda.settings.allowed_hosts"),
            InvokerError::Schema(error) => ApiError::internal(error),
            InvokerError::RegistryUnavailable(status) => {
                tracing::warn!(
                    code = chatfn_rpc::code_name(status.code()),
                    error = status.message(),
                    "the registry could not be asked for a draft"
                );
                ApiError::unavailable(reasons::REGISTRY_UNAVAILABLE, message).retry_after(REGISTRY_RETRY)
            }
            InvokerError::DraftUnreadable(_) => ApiError::failed_precondition(
                reasons::DRAFT_UNREADABLE,
                format!("{message}: upgrade it to the registry's release"),
            ),
            InvokerError::RegistryTimedOut => {
                ApiError::deadline_exceeded(reasons::DEADLINE_EXCEEDED, message)
            }
            InvokerError::NoSnapshot(_) => {
                ApiError::unavailable(reasons::NO_SNAPSHOT, message).retry_after(RETRY_AFTER)
            }
            InvokerError::BudgetTooSmall { .. } => {
                ApiError::deadline_exceeded(reasons::BUDGET_TOO_SMALL, message)
            }
            InvokerError::NoPlace(NoPlace::Full { .. }) => {
                ApiError::resource_exhausted(reasons::OVERLOADED, message, RETRY_AFTER)
            }
            InvokerError::NoPlace(NoPlace::Busy { account, .. }) => {
                ApiError::resource_exhausted(reasons::ACCOUNT_BUSY, message, RETRY_AFTER)
                    .metadata("account", account.to_string())
            }
            InvokerError::Load(error) => match &*error {
                chatfn_engine::PrepareError::NoCapacity => ApiError::resource_exhausted(
                    reasons::LOADING_TOO_SLOW,
                    "the function could not be loaded in time; nothing ran",
                    LOAD_RETRY,
                ),
                _ => ApiError::internal(error),
            },
            InvokerError::Run(RunError::NoCapacity) => {
                ApiError::resource_exhausted(reasons::OVERLOADED, message, RETRY_AFTER)
            }
            InvokerError::Run(error) => ApiError::internal(error),
        }
        .into()
    }
}

#[cfg(test)]
mod tests {
    use chatfn_rpc::ErrorReport;

    use super::*;

    #[test]
    fn what_is_not_there_is_called_as_everywhere() {
        let function = || "accounts/acme/functions/chat.start".parse().unwrap();
        for (error, kind, name) in [
            (InvokerError::NotDeployed(function()), "function", "accounts/acme/functions/chat.start"),
            (InvokerError::FunctionNotFound(function()), "function", "accounts/acme/functions/chat.start"),
            (
                InvokerError::TemplateNotFound("chat.start".parse().unwrap()),
                "template",
                "templates/chat.start",
            ),
        ] {
            let resource = ErrorReport::from_status(&error.into()).resource.unwrap();
            assert_eq!((&*resource.resource_type, &*resource.name), (kind, name));
        }
    }
}
