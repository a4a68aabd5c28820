//! Metrics and liveness over HTTP.

mod args;
mod serve;

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use tokio::task::JoinHandle;

pub use self::args::{EndpointArgs, EndpointError, Listen};
use crate::Metrics;

/// Whether calls should be sent to the service.
type Ready = dyn Fn() -> bool + Send + Sync;

/// What a service tells of itself, and where. It is told until this is dropped: keep it until the very end of the shutdown.
///
/// | path | answer |
/// |---|---|
/// | `/metrics` | all metrics, as OpenMetrics 1.0 |
/// | `/livez` | 200: the process answers, whatever the rest of the world does |
/// | `/readyz` | 200 when gRPC health says SERVING, otherwise 503 |
///
/// Nobody is asked who calls: there is nothing of any account in it, and nothing that can be changed. A connection has one
/// request, and ten seconds; there are 32 at a time, and more are closed at once.
#[derive(Debug)]
pub struct Endpoint {
    metrics: Metrics,
    address: Option<SocketAddr>,
    state: Arc<State>,
    task: Option<JoinHandle<()>>,
}

/// What answers are made of.
struct State {
    metrics: Metrics,
    ready: OnceLock<Box<Ready>>,
}

impl Endpoint {
    /// The service's metrics; to be added to.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Where it listens, if it does.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// What `/readyz` says from now on; until then the service is not ready. Only the first call counts.
    pub fn ready_when(&self, ready: impl Fn() -> bool + Send + Sync + 'static) {
        let _ = self.state.ready.set(Box::new(ready));
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            // Its connections are its own, and end with it.
            task.abort();
        }
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}
