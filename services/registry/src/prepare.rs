//! Asks an invoker whether a source can be deployed. The registry never runs code of a function itself.

use chatfn_domain::{name::FunctionName, settings::FunctionSettings};
use chatfn_proto::{
    convert::from_language,
    invoker::v1::{PrepareRequest, invoker_service_client::InvokerServiceClient, prepare_response::Outcome},
};
use chatfn_rpc::{CallContext, Client, ErrorReport, MAX_MESSAGE_BYTES, RequestExt as _, reasons};
use tonic::{Code, Request, Status};

use crate::{build_error::BuildError, error::RegistryError};

/// An invoker, wherever it is.
#[derive(Debug, Clone)]
pub(crate) struct Invoker(InvokerServiceClient<Client>);

impl Invoker {
    pub(crate) fn new(client: Client) -> Self {
        let client = InvokerServiceClient::new(client)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        Self(client)
    }

    /// Says whether the source can be deployed as the function, with warnings for its author: `Ok(Err(…))` is an invoker's
    /// answer that it cannot.
    pub(crate) async fn prepare(
        &self,
        function: &FunctionName,
        source: &str,
        settings: &FunctionSettings,
        context: &CallContext,
    ) -> Result<Result<Vec<String>, BuildError>, RegistryError> {
        let request = PrepareRequest {
            source: source.to_owned(),
            memory_mib: settings.memory_mib,
            language: from_language(settings.language).into(),
            function: function.to_string(),
        };
        let request = Request::new(request).with_context(context);
        let unavailable = |status: Status| match status.code() {
            Code::DeadlineExceeded => RegistryError::PrepareTimedOut,
            Code::ResourceExhausted => RegistryError::PreparationsBusy {
                account: function.account.clone(),
                is_its_share: ErrorReport::from_status(&status).reason.as_deref()
                    == Some(reasons::ACCOUNT_BUSY.name()),
            },
            // Whatever else it is, the admin can do nothing about it but try again, and the log has it.
            _ => RegistryError::InvokerUnavailable(status),
        };
        match self.0.clone().prepare(request).await.map_err(unavailable)?.into_inner().outcome {
            Some(Outcome::Prepared(prepared)) => Ok(Ok(prepared.warnings)),
            Some(Outcome::BuildError(error)) => Ok(Err(error.into())),
            None => Err(RegistryError::InvokerUnavailable(Status::internal(
                "the answer to Prepare has no outcome that this release knows",
            ))),
        }
    }
}
