//! What the engine sees of the world outside: what one run may ask for. The half about other functions is in
//! `children.rs`.

use std::{future::ready, sync::Arc};

use chatfn_domain::name::{FunctionName, SecretName};
use chatfn_engine::{
    FunctionRequest, Host, HostOp, OpError, OpResult, SecretRequest, SecretText, ServiceLocation,
};
use chatfn_rpc::{Deadline, TraceParent};
use futures_util::future::BoxFuture;
use secrecy::ExposeSecret as _;

use crate::{
    background::own_task,
    children::Family,
    egress::{EgressError, RunEgress},
    event::Event,
    run::Runner,
    secrets::SecretError,
    service_url::LocateError,
};

/// Carries out the operations of one run.
pub(crate) struct RunHost {
    pub(crate) runner: Arc<Runner>,
    pub(crate) egress: Arc<RunEgress>,
    /// The run that was asked for and the runs inside of it.
    pub(crate) family: Family,
    /// What runs. Its account is the one whose secrets and functions the run may use, never the guest's word.
    pub(crate) function: FunctionName,
    pub(crate) event: Arc<Event>,
    pub(crate) trace: Option<TraceParent>,
    pub(crate) deadline: Deadline,
}

type Answer = BoxFuture<'static, Result<OpResult, OpError>>;

impl Host for RunHost {
    fn start(&self, op: HostOp) -> Answer {
        match op {
            HostOp::Fetch(request) => {
                let method = request.method.clone();
                let call = self.egress.fetch(request);
                Box::pin(async move {
                    call.await.map(OpResult::Fetch).map_err(|error| fetch_error(&method, &error))
                })
            }
            HostOp::ReadSecret(request) => self.read_secret(request),
            HostOp::InvokeFunction(request) => self.invoke_function(request),
            HostOp::LocateService(service) => Box::pin(ready(self.locate(&service))),
        }
    }
}

impl RunHost {
    fn read_secret(&self, SecretRequest { key, use_cache, timeout }: SecretRequest) -> Answer {
        let (runner, family) = (Arc::clone(&self.runner), self.family.clone());
        let account = self.function.account.clone();
        Box::pin(async move {
            let read = async {
                let name = SecretName { account, key: key.parse()? };
                family.secrets.ask(&name)?;
                let asked = name.clone();
                // Others wait for the same question, and it has a place that others may need, while this lambda may compute without
                // coming to what it waits for.
                let reading = own_task(async move { runner.secrets.read(&asked, use_cache).await });
                let value = tokio::time::timeout(timeout, reading)
                    .await
                    .map_err(|_| SecretError::TimedOut(timeout))??;
                family.secrets.add(&name, &value)?;
                Ok(OpResult::Secret(SecretText(value.expose_secret().to_owned())))
            };
            read.await.map_err(|error: SecretError| OpError {
                code: Some(error.reason().name().to_owned()),
                message: error.to_string(),
                ..OpError::default()
            })
        })
    }

    fn invoke_function(&self, request: FunctionRequest) -> Answer {
        let child = self.child(request);
        Box::pin(async move { Ok(OpResult::Function(child.await)) })
    }

    fn locate(&self, service: &str) -> Result<OpResult, OpError> {
        let located = match &self.runner.services {
            Some(services) => services.locate(service, &self.function.account),
            None => Err(LocateError::NotSet),
        };
        match located {
            Ok(url) => {
                Ok(OpResult::Service(ServiceLocation { url, account: self.function.account.to_string() }))
            }
            Err(error) => Err(OpError {
                code: Some(error.reason().name().to_owned()),
                message: error.to_string(),
                ..OpError::default()
            }),
        }
    }
}

/// The error as JavaScript sees it. Its code is the stable reason.
fn fetch_error(method: &str, error: &EgressError) -> OpError {
    let name = match error {
        EgressError::Deadline(_) => Some("TimeoutError".to_owned()),
        EgressError::Aborted => Some("AbortError".to_owned()),
        _ => None,
    };
    OpError { name, code: Some(error.reason().to_owned()), message: format!("fetch ({method}): {error}") }
}
