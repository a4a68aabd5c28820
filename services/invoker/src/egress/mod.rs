//! A lambda's outbound HTTP.
//!
//! Promises: no connection is made to a host that the function's settings do not name, nor to an address that is not
//! public unless the operator allows it, on any hop of a redirect chain; the address that was checked is the address
//! that is connected to. Every call is bounded in time (the run's deadline), size and rate, ends when its future is
//! dropped, and is on the run's record, refused ones included.
//!
//! Start reading at [`RunEgress::fetch`]; `call.rs` checks host and rate before each hop, `connect.rs` then the addresses,
//! of which `address.rs` has the ranges.

mod address;
mod body;
mod call;
mod config;
mod connect;
mod error;
mod exchange;
mod headers;
mod record;
mod redirect;
mod resolve;
mod target;
mod tls;

use std::sync::{Arc, atomic::AtomicU32};

use chatfn_deployments::Deployment;
use chatfn_domain::name::FunctionName;
use chatfn_rpc::TraceParent;
use chatfn_telemetry::Traces;
use tokio::{sync::Semaphore, time::Instant};
use uuid::Uuid;

pub use address::{AddressPolicy, Denied};
pub use config::EgressConfig;
pub use error::EgressError;
pub use record::OutboundCall;
pub(crate) use record::Record;
pub use redirect::MAX_REDIRECTS;
pub use resolve::{Resolve, ResolveError, SystemResolver};
pub use tls::TlsSetupError;

use crate::{metrics::InvokerMetrics, places::Places, rate::RateLimits};

use self::{body::Buffers, connect::Connector, record::Records};

/// Checks the file of certificate authorities, if there is one.
///
/// # Errors
/// It cannot be used.
pub fn check_ca_file(config: &EgressConfig) -> Result<(), TlsSetupError> {
    match &config.ca_file {
        Some(file) => tls::client_config(Some(file)).map(drop),
        None => Ok(()),
    }
}

/// Calls of one run that are under way at once; the others wait.
const MAX_CONCURRENT_PER_RUN: usize = 16;

/// What all runs of the process share.
pub struct Egress {
    connector: Connector,
    rates: RateLimits<FunctionName>,
    buffers: Buffers,
    connections: Arc<Places>,
    max_request_bytes: usize,
    metrics: Option<InvokerMetrics>,
}

impl Egress {
    /// Sets up the outbound HTTP of all runs.
    ///
    /// # Errors
    /// The certificate authorities cannot be loaded.
    pub fn new(config: &EgressConfig, resolver: Arc<dyn Resolve>) -> Result<Self, TlsSetupError> {
        Ok(Self {
            connector: Connector {
                resolver,
                policy: AddressPolicy::new(config.allow.clone(), config.deny.clone()),
                tls: tls::client_config(config.ca_file.as_ref())?,
                dns_timeout: config.dns_timeout,
                connect_timeout: config.connect_timeout,
            },
            rates: RateLimits::new(config.rate),
            buffers: Buffers::new(config.buffer_bytes, config.body_bytes),
            connections: connect::places(),
            max_request_bytes: config.body_bytes,
            metrics: None,
        })
    }

    /// Counts what becomes of requests.
    pub(crate) fn counted(self, metrics: InvokerMetrics) -> Self {
        Self { metrics: Some(metrics), ..self }
    }

    /// The outbound HTTP of one run.
    pub fn run(self: &Arc<Self>, scope: RunScope) -> Arc<RunEgress> {
        Arc::new(RunEgress {
            egress: Arc::clone(self),
            scope,
            writes: AtomicU32::new(0),
            slots: Semaphore::new(MAX_CONCURRENT_PER_RUN),
            records: Arc::new(Records::new(self.metrics.clone())),
        })
    }
}

/// On whose behalf calls are made.
#[derive(Debug, Clone)]
pub struct RunScope {
    /// The version that runs: its function's rate, its settings' hosts.
    pub deployment: Arc<Deployment>,
    /// Idempotency key of the event.
    pub event_key: Uuid,
    /// Where the calls are recorded.
    pub traces: Traces,
    /// Trace that the calls belong to.
    pub trace: Option<TraceParent>,
    /// When the run must be over.
    pub deadline: Instant,
}

/// The outbound HTTP of one run.
pub struct RunEgress {
    egress: Arc<Egress>,
    scope: RunScope,
    /// Calls so far that change something at the other side.
    writes: AtomicU32,
    slots: Semaphore,
    records: Arc<Records>,
}

impl RunEgress {
    /// Lists that another function is invoked, until it ends as given up.
    pub(crate) fn record_function(&self, name: String) -> Record {
        self.records.start_function(name, self.scope.deadline)
    }

    /// The calls so far in the order of their start, and whether there were more than are listed. A call under way is
    /// listed as given up.
    pub fn calls(&self) -> (Vec<OutboundCall>, bool) {
        self.records.list()
    }
}
