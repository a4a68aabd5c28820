//! The drafts of functions, read from the registry when they are tested. What is live is not read here, but watched.

use chatfn_domain::{name::FunctionName, settings::FunctionSettings};
use chatfn_proto::{
    convert::to_settings,
    registry::v1::{GetFunctionRequest, function_service_client::FunctionServiceClient},
};
use chatfn_rpc::{CallContext, Client, MAX_MESSAGE_BYTES, RequestExt as _};
use tonic::{Code, Request, Status};

use crate::error::InvokerError;

/// Reads drafts.
pub(crate) struct Drafts(FunctionServiceClient<Client>);

/// A draft: what a deploy would make live.
pub(crate) struct Draft {
    pub(crate) source: String,
    pub(crate) settings: FunctionSettings,
}

impl Drafts {
    pub(crate) fn new(registry: Client) -> Self {
        let client = FunctionServiceClient::new(registry)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        Self(client)
    }

    /// The draft of a function, as it is now. Cancel safe.
    ///
    /// # Errors
    /// There is no such function, the registry does not answer, or its answer is of a later release.
    pub(crate) async fn get(
        &self,
        name: &FunctionName,
        context: &CallContext,
    ) -> Result<Draft, InvokerError> {
        let request = Request::new(GetFunctionRequest { name: name.to_string() }).with_context(context);
        let failed = |status: Status| match status.code() {
            Code::NotFound => InvokerError::FunctionNotFound(name.clone()),
            Code::DeadlineExceeded => InvokerError::RegistryTimedOut,
            _ => InvokerError::RegistryUnavailable(status),
        };
        let response = self.0.clone().get_function(request).await.map_err(failed)?.into_inner();
        let unreadable = || InvokerError::DraftUnreadable(name.clone());
        let function = response.function.ok_or_else(unreadable)?;
        let settings = to_settings("settings", &function.settings.unwrap_or_default());
        Ok(Draft { source: function.source, settings: settings.map_err(|_| unreadable())? })
    }
}
