//! Why a call fails, and what its caller is told.

use std::time::Duration;

use chatfn_domain::{
    caller::Role,
    name::{AccountId, FunctionName, SecretName, TemplateName, VersionName},
};
use chatfn_pg::Failure;
use chatfn_proto::validate::Violations;
use chatfn_rpc::{ApiError, reasons};
use sqlx::{Postgres, Transaction};
use tonic::Status;
use uuid::Uuid;

use crate::{build_error::BuildError, secrets::MAX_SECRETS};

/// When a caller is told to try again after the store failed: about what a restart of Postgres takes.
const STORE_RETRY: Duration = Duration::from_millis(500);

/// When a caller is told to try again after no invoker answered.
const INVOKER_RETRY: Duration = Duration::from_secs(1);

/// Why a call of the registry fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistryError {
    /// The request is malformed.
    #[error(transparent)]
    Invalid(#[from] Violations),
    /// The page token is not one that this list gave out.
    #[error("page_token is not one of this list and filter")]
    InvalidPageToken,
    /// The caller has used the id for another request.
    #[error("the request_id {0} was used for another request")]
    RequestIdReused(Uuid),
    /// There is no such template.
    #[error("template {0} does not exist")]
    TemplateNotFound(TemplateName),
    /// There is no such function.
    #[error("{0} does not exist")]
    FunctionNotFound(FunctionName),
    /// There is no such version.
    #[error("{0} does not exist")]
    VersionNotFound(VersionName),
    /// The account has a function for this template.
    #[error("{0} exists")]
    FunctionExists(FunctionName),
    /// The caller may change other fields of the function, but not this one.
    #[error("{field} of {function} needs the role {role}")]
    FieldForbidden { function: FunctionName, field: &'static str, role: Role },
    /// The version may call a host that neither the draft nor the live version may.
    #[error("a version of {function} that may call {host} needs the role admin")]
    HostForbidden { function: FunctionName, host: String },
    /// The function is live.
    #[error("{0} is deployed")]
    FunctionDeployed(FunctionName),
    /// The function is not what the caller read.
    #[error("{function} has changed")]
    EtagMismatch { function: FunctionName, current: String },
    /// The draft changed while an invoker prepared it.
    #[error("the draft of {function} changed while it was prepared")]
    DraftChanged { function: FunctionName, current: String },
    /// The source does not build.
    #[error("{function} does not build")]
    BuildFailed { function: FunctionName, error: Box<BuildError> },
    /// No invoker could be asked to prepare the source.
    #[error("no invoker could be asked")]
    InvokerUnavailable(#[source] Status),
    /// The invoker prepares as much as it may: of all, or of the account.
    #[error("an invoker prepares as many sources as it may")]
    PreparationsBusy { account: AccountId, is_its_share: bool },
    /// The invoker did not answer within the call's deadline.
    #[error("the deadline passed while an invoker prepared the source")]
    PrepareTimedOut,
    /// There is no such secret.
    #[error("{0} does not exist")]
    SecretNotFound(SecretName),
    /// The secret is not what the caller read.
    #[error("{secret} has changed")]
    SecretChanged { secret: SecretName, current: String },
    /// The account has as many secrets as it may have.
    #[error("accounts/{0} has {MAX_SECRETS} secrets")]
    SecretLimitReached(AccountId),
    /// There are no keys to encrypt secrets with.
    #[error("no keys for secrets are configured")]
    SecretsDisabled,
    /// The key that the secret is encrypted with is not configured.
    #[error("{secret} needs the key {key_id}, which is not configured")]
    SecretKeyMissing { secret: SecretName, key_id: String },
    /// What is stored of the secret is not what was encrypted for it.
    #[error("what is stored of {secret} does not decrypt with the key {key_id}; set it again")]
    SecretDamaged { secret: SecretName, key_id: String },
    /// A watcher did not keep up.
    #[error("the watcher fell too far behind")]
    WatcherTooSlow,
    /// The revision of the deployments went back, so that no watcher can go on from where it is.
    #[error("the revision of the deployments went back")]
    RevisionWentBack,
    /// The connection to Postgres was lost during a commit.
    #[error("the connection to the store was lost during a commit")]
    OutcomeUnknown(#[source] sqlx::Error),
    /// Postgres failed, and nothing was changed.
    #[error("the store failed")]
    Store(#[from] sqlx::Error),
}

impl RegistryError {
    /// Whether the registry or its database failed, rather than the request.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(
            self,
            Self::OutcomeUnknown(_)
                | Self::Store(_)
                | Self::SecretsDisabled
                | Self::SecretKeyMissing { .. }
                | Self::SecretDamaged { .. }
        )
    }
}

/// Commits, and tells a commit that may have taken effect from one that has not.
pub(crate) async fn commit(transaction: Transaction<'_, Postgres>) -> Result<(), RegistryError> {
    transaction.commit().await.map_err(|error| match chatfn_pg::classify(&error) {
        Failure::ConnectionLost => RegistryError::OutcomeUnknown(error),
        _ => RegistryError::Store(error),
    })
}

impl From<RegistryError> for Status {
    fn from(error: RegistryError) -> Self {
        ApiError::from(error).into()
    }
}

impl From<RegistryError> for ApiError {
    fn from(error: RegistryError) -> Self {
        use RegistryError as E;
        match error {
            E::Invalid(violations) => violations
                .iter()
                .fold(Self::invalid_argument(reasons::INVALID_REQUEST, violations.to_string()), |error, it| {
                    error.violation(&it.field, it.reason, &it.description)
                }),
            E::InvalidPageToken => Self::invalid_argument(
                reasons::INVALID_PAGE_TOKEN,
                "page_token is not one of this list and filter; leave it empty to start from the first page",
            )
            .field("page_token", "must be the next_page_token of the page before, with the same filter"),
            E::RequestIdReused(id) => Self::invalid_argument(
                reasons::REQUEST_ID_REUSED,
                format!("request_id {id} was used for another request; make up a new one for every change"),
            )
            .field("request_id", "was used for another request"),
            E::TemplateNotFound(template) => {
                Self::not_found(reasons::TEMPLATE_NOT_FOUND, "template", &format!("templates/{template}"))
            }
            E::FunctionNotFound(function) => {
                Self::not_found(reasons::FUNCTION_NOT_FOUND, "function", &function.to_string())
            }
            E::VersionNotFound(version) => {
                Self::not_found(reasons::VERSION_NOT_FOUND, "version", &version.to_string())
            }
            E::FunctionExists(function) => Self::new(
                tonic::Code::AlreadyExists,
                reasons::FUNCTION_EXISTS,
                format!(
                    "{function} exists, and an account has at most one function per template; update it, or put \
                     both behaviours into the same lambda"
                ),
            )
            .resource("function", function.to_string()),
            E::FieldForbidden { function, field, role } => Self::permission_denied(
                reasons::ROLE_REQUIRED,
                format!(
                    "changing {field} needs the role {role}, which the token does not have; leave it as it is, or have \
                     someone with that role change it by UpdateFunction, with update_mask {field:?}"
                ),
            )
            .resource("function", function.to_string())
            .metadata("roles", role.as_str())
            .metadata("field", field),
            E::HostForbidden { function, host } => Self::permission_denied(
                reasons::ROLE_REQUIRED,
                format!(
                    "the version may call {host}, which neither the draft nor the live version may; have an admin add it to \
                     the draft's settings.allowed_hosts, or deploy with a token of both roles, admin and developer"
                ),
            )
            .resource("function", function.to_string())
            .metadata("roles", Role::Admin.as_str())
            .metadata("field", "settings.allowed_hosts"),
            E::FunctionDeployed(function) => Self::failed_precondition(
                reasons::FUNCTION_DEPLOYED,
                format!("{function} is deployed; call UndeployFunction, then delete it"),
            )
            .precondition("DEPLOYED", function.to_string(), "call UndeployFunction first"),
            E::EtagMismatch { function, current } => Self::aborted(
                reasons::ETAG_MISMATCH,
                format!("{function} has changed since it was read; read it again and redo the change"),
            )
            .resource("function", function.to_string())
            .metadata("current_etag", current),
            E::DraftChanged { function, current } => Self::aborted(
                reasons::ETAG_MISMATCH,
                format!("the draft of {function} changed while it was prepared; nothing was deployed, deploy again"),
            )
            .resource("function", function.to_string())
            .metadata("current_etag", current),
            E::BuildFailed { function, error } => build_failed(&function, &error),
            E::InvokerUnavailable(status) => {
                tracing::warn!(
                    code = chatfn_rpc::code_name(status.code()),
                    error = status.message(),
                    "no invoker could be asked to prepare a source"
                );
                Self::unavailable(
                    reasons::INVOKER_UNAVAILABLE,
                    "no invoker could be asked to prepare the source; nothing changed, try again",
                )
                .retry_after(INVOKER_RETRY)
            }
            E::PreparationsBusy { account, is_its_share: true } => Self::resource_exhausted(
                reasons::ACCOUNT_BUSY,
                format!(
                    "as many sources of account {account} are being prepared as it may have while others deploy, too; nothing \
                     changed, deploy fewer at once"
                ),
                INVOKER_RETRY,
            )
            .metadata("account", account.to_string()),
            E::PreparationsBusy { .. } => Self::resource_exhausted(
                reasons::OVERLOADED,
                "the invoker that was asked prepares as many sources as it may; nothing changed, try again",
                INVOKER_RETRY,
            ),
            E::PrepareTimedOut => Self::deadline_exceeded(
                reasons::DEADLINE_EXCEEDED,
                "the deadline passed while an invoker prepared the source; nothing changed",
            ),
            E::SecretNotFound(secret) => Self::not_found(reasons::SECRET_NOT_FOUND, "secret", &secret.to_string()),
            E::SecretChanged { secret, current } => Self::aborted(
                reasons::ETAG_MISMATCH,
                format!("{secret} has changed since it was read; read it again and redo the change"),
            )
            .resource("secret", secret.to_string())
            .metadata("current_etag", current),
            E::SecretLimitReached(account) => Self::new(
                tonic::Code::ResourceExhausted,
                reasons::SECRET_LIMIT_REACHED,
                format!("accounts/{account} has {MAX_SECRETS} secrets, the most that are allowed; delete one first"),
            )
            .resource("account", format!("accounts/{account}")),
            E::SecretsDisabled => Self::failed_precondition(
                reasons::SECRETS_DISABLED,
                "the registry has no keys to encrypt secrets with; start it with --secret-keys-file \
                 (CHATFN_REGISTRY_SECRET_KEYS_FILE)",
            ),
            E::SecretKeyMissing { secret, key_id } => {
                tracing::error!(%secret, key_id, "a secret needs a key that is not configured");
                Self::failed_precondition(
                    reasons::SECRET_KEY_MISSING,
                    format!(
                        "{secret} is encrypted with the key {key_id}, which the registry does not have; add it again \
                         to the file of --secret-keys-file, or set the secret anew"
                    ),
                )
                .resource("secret", secret.to_string())
                .metadata("key_id", key_id)
            }
            error @ E::SecretDamaged { .. } => Self::internal(error),
            E::WatcherTooSlow => Self::resource_exhausted(
                reasons::WATCHER_TOO_SLOW,
                "the watcher fell too far behind the changes, or read nothing for too long; watch again",
                Duration::ZERO,
            ),
            E::RevisionWentBack => Self::unavailable(
                reasons::REVISION_WENT_BACK,
                "the store was replaced by an older one; watch again",
            ),
            E::OutcomeUnknown(error) => {
                tracing::warn!(error = chatfn_pg::error::describe(&error), "a commit's outcome is unknown");
                Self::new(
                    tonic::Code::Unknown,
                    reasons::OUTCOME_UNKNOWN,
                    "the connection to the database was lost while the change was committed; repeat \
                     it with the same request_id, or read before repeating it",
                )
            }
            E::Store(error) => store_failed(error),
        }
    }
}

fn build_failed(function: &FunctionName, error: &BuildError) -> ApiError {
    ApiError::failed_precondition(
        reasons::BUILD_FAILED,
        format!("{function} was not deployed, its source does not build: {}", error.message()),
    )
    .resource("function", function.to_string())
    .metadata("kind", error.kind())
    .metadata("line", error.line().to_string())
    .metadata("column", error.column().to_string())
}

fn store_failed(error: sqlx::Error) -> ApiError {
    match chatfn_pg::classify(&error) {
        Failure::StatementCanceled => ApiError::deadline_exceeded(
            reasons::DEADLINE_EXCEEDED,
            "the database did not answer within the call's time (or, if that is longer, --database-statement-timeout); \
             nothing was changed",
        ),
        failure if failure.is_transient() => {
            tracing::warn!(error = chatfn_pg::error::describe(&error), "the store is unavailable");
            ApiError::unavailable(
                reasons::STORE_UNAVAILABLE,
                "the database is unavailable or busy; nothing was changed, try again",
            )
            .retry_after(STORE_RETRY)
        }
        _ => ApiError::internal(error),
    }
}

#[cfg(test)]
mod tests {
    use chatfn_domain::reasons::Reason;
    use tonic::Code;

    use super::*;

    fn told(error: RegistryError) -> (Code, Reason) {
        let error = ApiError::from(error);
        (error.code(), error.reason())
    }

    #[test]
    fn a_failing_store_is_no_internal_error() {
        let lost = || sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        assert_eq!(told(lost().into()), (Code::Unavailable, reasons::STORE_UNAVAILABLE));
        assert_eq!(told(sqlx::Error::PoolTimedOut.into()), (Code::Unavailable, reasons::STORE_UNAVAILABLE));
        assert_eq!(told(sqlx::Error::RowNotFound.into()).0, Code::Internal);
    }
}
