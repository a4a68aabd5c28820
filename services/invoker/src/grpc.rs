//! `chatfn.invoker.v1.InvokerService`.

use std::sync::Arc;

use chatfn_domain::name::FunctionName;
use chatfn_proto::{
    invoker::v1::{
        InvokeRequest, InvokeResponse, PrepareRequest, PrepareResponse, TestInvokeRequest,
        TestInvokeResponse, invoker_service_server::InvokerService,
    },
    validate::{Refused, validated},
};
use chatfn_rpc::RequestExt as _;
use tonic::{Request, Response, Status};

use crate::{error::InvokerError, invoke::Invoker, prepare::Preparer, test_invoke::Tester};

/// The handlers: they check the message and hand it on.
pub(crate) struct Handlers {
    pub(crate) invoker: Arc<Invoker>,
    pub(crate) preparer: Arc<Preparer>,
    pub(crate) tester: Tester,
}

#[tonic::async_trait]
impl InvokerService for Handlers {
    async fn invoke(&self, request: Request<InvokeRequest>) -> Result<Response<InvokeResponse>, Status> {
        let context = request.context();
        // To its caller, a function of another account is one that is not there.
        let request = validated(request).map_err(|refused| missing(refused, InvokerError::NotDeployed))?;
        let report = self.invoker.invoke(request, &context).await?;
        Ok(Response::new(InvokeResponse { report: Some(report) }))
    }

    async fn test_invoke(
        &self,
        request: Request<TestInvokeRequest>,
    ) -> Result<Response<TestInvokeResponse>, Status> {
        let context = request.context();
        let request =
            validated(request).map_err(|refused| missing(refused, InvokerError::FunctionNotFound))?;
        let response = self.tester.test(request, &context).await?;
        Ok(Response::new(response))
    }

    async fn prepare(&self, request: Request<PrepareRequest>) -> Result<Response<PrepareResponse>, Status> {
        let outcome = self.preparer.prepare(validated(request)?).await?;
        Ok(Response::new(PrepareResponse { outcome: Some(outcome) }))
    }
}

/// The answer for a function that is not there for its caller: the one that the method has for those that are not there at
/// all.
fn missing(refused: Refused, of: impl Fn(FunctionName) -> InvokerError) -> Status {
    match refused {
        Refused::NotFound(not_found) => match not_found.name.parse() {
            Ok(function) => of(function).into(),
            Err(_) => not_found.into(),
        },
        Refused::Invalid(violations) => violations.into(),
    }
}
