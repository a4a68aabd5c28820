//! What the engine sees of the world outside: a run's egress.

use std::sync::Arc;

use chatfn_engine::{Host, HostOp, OpError, OpResult};
use futures_util::future::BoxFuture;

use crate::egress::{EgressError, RunEgress};

/// Carries out the operations of one run.
pub(crate) struct RunHost(pub(crate) Arc<RunEgress>);

impl Host for RunHost {
    fn start(&self, op: HostOp) -> BoxFuture<'static, Result<OpResult, OpError>> {
        match op {
            HostOp::Fetch(request) => {
                let method = request.method.clone();
                let call = self.0.fetch(request);
                Box::pin(
                    async move { call.await.map(OpResult::Fetch).map_err(|error| to_js(&method, &error)) },
                )
            }
        }
    }
}

/// The error as JavaScript sees it. Its code is the stable reason.
fn to_js(method: &str, error: &EgressError) -> OpError {
    let name = match error {
        EgressError::Deadline(_) => Some("TimeoutError".to_owned()),
        EgressError::Aborted => Some("AbortError".to_owned()),
        _ => None,
    };
    OpError { name, code: Some(error.reason().to_owned()), message: format!("fetch ({method}): {error}") }
}
