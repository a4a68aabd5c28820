//! What servers and clients count.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock, PoisonError, RwLock},
    time::{Duration, Instant},
};

use chatfn_telemetry::{
    Count, CountFamily, Counts, Gauge, GaugeFamily, Histogram, HistogramFamily, InProgress, Label,
    LabelValue as _, Metric, Metrics, buckets, declare, label_values,
};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tokio::sync::Semaphore;
use tonic::{Code, Status};

use crate::{RetryClass, classify, code_name};

label_values! {
    /// Why a server refused a call before any work.
    pub(crate) enum RefusedCall: "reason" {
        /// No permit was left.
        Busy = "server_busy",
        /// The account has its share of them.
        AccountBusy = "account_busy",
        /// Too little time was left.
        BudgetTooSmall = "budget_too_small",
        /// The deadline could not be read.
        Malformed = "grpc_timeout_malformed",
        /// Nobody knows who calls.
        Unauthenticated = "unauthenticated",
        /// The caller may not.
        PermissionDenied = "permission_denied",
    }
}

label_values! {
    /// Why a connection came to nothing.
    pub(crate) enum RefusedConnection: "reason" {
        /// There were too many.
        TooMany = "too_many",
        /// The TLS handshake failed.
        HandshakeFailed = "handshake_failed",
        /// There was none in time.
        HandshakeLate = "handshake_late",
        /// No HTTP/2 came.
        Silent = "no_preface",
    }
}

label_values! {
    /// Whether a failed call may be made again ([`RetryClass`]).
    enum FailureClass: "retry" {
        Safe = "safe",
        Unknown = "unknown",
        Never = "never",
    }
}

const METHOD: Label = Label::of(
    "method",
    "`Service/Method` of the contract, health and reflection; `other` for what is none of them",
);
const CODE: Label = Label::of("code", "a gRPC code by name, such as `OK`");
const CALLEE: Label = Label::of("callee", "the service that is called");
const PERMITS: Label = Label::among("of", &["calls", "reserve", "open_streams"]);

declare! {
    /// The metrics of gRPC, of servers and of clients.
    pub METRICS = {
        SERVED: Metric::counter("chatfn_rpc_server_calls_total").by(&[METHOD, CODE])
            .means("Calls that ended, refused ones included, by what they were answered. CANCELLED: the caller left.")
            .when_off("UNAVAILABLE, INTERNAL, UNKNOWN or DEADLINE_EXCEEDED grow: the log has the calls, with their trace."),
        DURATION: Metric::histogram("chatfn_rpc_server_duration_seconds", buckets::SECONDS).by(&[METHOD])
            .means("From a call's headers to the end of its answer; a stream's whole life.")
            .when_off("Slower than usual: see the pool's connections, the runs in progress, and the processors."),
        IN_PROGRESS: Metric::gauge("chatfn_rpc_server_calls_in_progress").by(&[METHOD])
            .means("Calls that have not ended."),
        PERMITS_USED: Metric::gauge("chatfn_rpc_server_permits_in_use").by(&[PERMITS])
            .means("Permits that calls hold: of all calls, of those kept for operators and watchers, of streams that anyone may open.")
            .when_off("At chatfn_rpc_server_permits: calls are refused. Add replicas, or find out who calls so often."),
        PERMITS_ALL: Metric::gauge("chatfn_rpc_server_permits").by(&[PERMITS])
            .means("Permits that there are (`--rpc-max-calls`)."),
        REFUSED: Metric::counter("chatfn_rpc_server_refused_total").by(&[RefusedCall::LABEL])
            .means("Calls that were refused before any work.")
            .when_off("server_busy: add replicas. account_busy: a token of some account makes very many calls at once. budget_too_small: callers give too little time. unauthenticated and permission_denied: a token or certificate is wrong, expired, or somebody tries."),
        CONNECTIONS: Metric::gauge("chatfn_rpc_server_connections")
            .means("Open connections.")
            .when_off("Near `--rpc-max-connections`: clients make too many, or do not close them."),
        CONNECTIONS_REFUSED: Metric::counter("chatfn_rpc_server_connections_refused_total")
            .by(&[RefusedConnection::LABEL])
            .means("Connections that came to nothing, by why.")
            .when_off("handshake_failed: certificates do not fit (`--tls-ca`), or a client speaks plain text; the log names peers. too_many: see connections."),
        CALLED: Metric::counter("chatfn_rpc_client_calls_total").by(&[CALLEE, METHOD, CODE])
            .means("Calls that this service made, by how they ended here. CANCELLED: it gave them up itself.")
            .when_off("UNAVAILABLE: the callee is down or cannot be reached; DEADLINE_EXCEEDED: it is slow; UNAUTHENTICATED or PERMISSION_DENIED: certificates."),
        CALL_DURATION: Metric::histogram("chatfn_rpc_client_duration_seconds", buckets::SECONDS).by(&[CALLEE, METHOD])
            .means("From the start of such a call to the end of its answer, connecting included.")
            .when_off("Much longer than the callee's own chatfn_rpc_server_duration_seconds: the network, or this service's processors."),
        CALLS_FAILED: Metric::counter("chatfn_rpc_client_failures_total").by(&[CALLEE, FailureClass::LABEL])
            .means("Such calls that failed, by whether they may be made again: `safe` ones did nothing and are repeated, `unknown` ones only where that is idempotent, `never` ones not."),
    }
}

/// What a server counts. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ServerMetrics(Arc<Server>);

#[derive(Debug)]
struct Server {
    /// By path.
    methods: HashMap<String, Arc<Method>>,
    other: Arc<Method>,
    calls: CountFamily,
    duration: HistogramFamily,
    in_progress: GaugeFamily,
    refused: Counts<RefusedCall>,
    connections: Gauge,
    connections_refused: Counts<RefusedConnection>,
}

/// What is counted of one method, from its first call on.
#[derive(Debug)]
struct Method {
    name: String,
    codes: [OnceLock<Count>; CODES],
    duration: OnceLock<Histogram>,
    in_progress: OnceLock<Gauge>,
}

/// Codes of gRPC.
const CODES: usize = 17;

impl Method {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            codes: [const { OnceLock::new() }; CODES],
            duration: OnceLock::new(),
            in_progress: OnceLock::new(),
        }
    }
}

/// A call that a server answers, until [`ServedCall::end`].
#[derive(Debug)]
pub(crate) struct ServedCall {
    server: Arc<Server>,
    method: Arc<Method>,
    _in_progress: InProgress,
}

impl ServerMetrics {
    /// For a server that has the services of these descriptors.
    pub(crate) fn new(metrics: &Metrics, services: &[&str], descriptors: &[&[u8]]) -> Self {
        let methods = methods(services, descriptors);
        Self(Arc::new(Server {
            methods: methods
                .into_iter()
                .map(|path| (format!("/{path}"), Arc::new(Method::new(short(&path)))))
                .collect(),
            other: Arc::new(Method::new("other")),
            calls: metrics.count_family(&SERVED),
            duration: metrics.histogram_family(&DURATION),
            in_progress: metrics.gauge_family(&IN_PROGRESS),
            refused: metrics.counts(&REFUSED),
            connections: metrics.gauge(&CONNECTIONS),
            connections_refused: metrics.counts(&CONNECTIONS_REFUSED),
        }))
    }

    /// Tells how many of these permits are held, in the order of the label's values.
    pub(crate) fn watch_permits(metrics: &Metrics, permits: [(Arc<Semaphore>, usize); 3]) {
        let limits = permits.each_ref().map(|(_, limit)| *limit);
        let used = move |(semaphore, limit): &(Arc<Semaphore>, usize)| {
            limit.saturating_sub(semaphore.available_permits()) as f64
        };
        let series = |values: [f64; 3]| PERMITS.values.iter().map(|of| vec![*of]).zip(values).collect();
        metrics.observe_each(&PERMITS_USED, move || series(permits.each_ref().map(used)));
        metrics.observe_each(&PERMITS_ALL, move || series(limits.map(|limit| limit as f64)));
    }

    /// A call has come.
    pub(crate) fn begin(&self, path: &str) -> ServedCall {
        let method = Arc::clone(self.0.methods.get(path).unwrap_or(&self.0.other));
        let gauge = method.in_progress.get_or_init(|| self.0.in_progress.with([method.name.clone()]));
        let in_progress = InProgress::new(gauge);
        ServedCall { server: Arc::clone(&self.0), method, _in_progress: in_progress }
    }

    /// A call was refused before any work.
    pub(crate) fn refused(&self, reason: RefusedCall) {
        self.0.refused.of(reason).inc();
    }

    /// A connection has come; it is open until what is given is dropped.
    pub(crate) fn connected(&self) -> InProgress {
        InProgress::new(&self.0.connections)
    }

    /// A connection came to nothing.
    pub(crate) fn connection_refused(&self, reason: RefusedConnection) {
        self.0.connections_refused.of(reason).inc();
    }
}

impl ServedCall {
    /// It ended like this, after so long.
    pub(crate) fn end(&self, code: Code, duration: Duration) {
        let method = &self.method;
        let labels = || [method.name.clone(), code_name(code).to_owned()];
        method.codes[index(code)].get_or_init(|| self.server.calls.with(labels())).inc();
        method.duration.get_or_init(|| self.server.duration.with([method.name.clone()])).took(duration);
    }
}

fn index(code: Code) -> usize {
    usize::try_from(i32::from(code)).unwrap_or_default().min(CODES - 1)
}

/// The methods, as `package.Service/Method`, that these services have.
fn methods(services: &[&str], descriptors: &[&[u8]]) -> Vec<String> {
    let sets = descriptors.iter().filter_map(|set| FileDescriptorSet::decode(*set).ok());
    let files = sets.flat_map(|set| set.file);
    files
        .flat_map(|file| {
            let package = file.package().to_owned();
            file.service.into_iter().map(move |service| (format!("{package}.{}", service.name()), service))
        })
        .filter(|(name, _)| services.contains(&name.as_str()))
        .flat_map(|(name, service)| {
            service.method.into_iter().map(move |method| format!("{name}/{}", method.name()))
        })
        .collect()
}

/// `Service/Method`, without the package.
fn short(path: &str) -> &str {
    let path = path.trim_start_matches('/');
    let service = path.split_once('/').map_or(path, |(service, _)| service);
    service.rfind('.').map_or(path, |dot| &path[dot + 1..])
}

/// What the clients of a service count together; give each client [`ClientMetrics::of`]. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ClientMetrics {
    calls: CountFamily,
    duration: HistogramFamily,
    failures: CountFamily,
}

impl ClientMetrics {
    /// Adds what clients count.
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            calls: metrics.count_family(&CALLED),
            duration: metrics.histogram_family(&CALL_DURATION),
            failures: metrics.count_family(&CALLS_FAILED),
        }
    }

    /// Those of the clients of one service.
    pub fn of(&self, callee: &'static str) -> CalleeMetrics {
        CalleeMetrics(Arc::new(Callee { metrics: self.clone(), callee, methods: RwLock::default() }))
    }
}

/// What clients of one service count. Cheap to clone.
#[derive(Clone, Debug)]
pub struct CalleeMetrics(Arc<Callee>);

#[derive(Debug)]
struct Callee {
    metrics: ClientMetrics,
    callee: &'static str,
    /// By path. Which methods there are, the program's own code says.
    methods: RwLock<HashMap<String, Arc<Method>>>,
}

/// A call that is being made; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct MadeCall {
    callee: CalleeMetrics,
    method: Arc<Method>,
    begun: Instant,
    code: OnceLock<Code>,
}

impl CalleeMetrics {
    pub(crate) fn begin(&self, path: &str) -> MadeCall {
        MadeCall {
            callee: self.clone(),
            method: self.method(path),
            begun: Instant::now(),
            code: OnceLock::new(),
        }
    }

    fn method(&self, path: &str) -> Arc<Method> {
        let methods = &self.0.methods;
        if let Some(method) = methods.read().unwrap_or_else(PoisonError::into_inner).get(path) {
            return Arc::clone(method);
        }
        let mut methods = methods.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(methods.entry(path.to_owned()).or_insert_with(|| Arc::new(Method::new(short(path)))))
    }
}

impl MadeCall {
    /// It has ended with this code; only the first counts.
    pub(crate) fn end(&self, code: Code) {
        let _ = self.code.set(code);
    }

    /// It has failed.
    pub(crate) fn fail(&self, status: &Status) {
        if self.code.set(status.code()).is_ok() {
            let class = match classify(status) {
                RetryClass::Safe => FailureClass::Safe,
                RetryClass::Unknown => FailureClass::Unknown,
                RetryClass::Never => FailureClass::Never,
            };
            let Callee { metrics, callee, .. } = &*self.callee.0;
            let class = FailureClass::LABEL.values[class.index()];
            metrics.failures.with([*callee, class]).inc();
        }
    }
}

impl Drop for MadeCall {
    fn drop(&mut self) {
        // Given up before anything came back.
        let code = self.code.get().copied().unwrap_or(Code::Cancelled);
        let Callee { metrics, callee, .. } = &*self.callee.0;
        let method = &self.method;
        let labels = || [(*callee).to_owned(), method.name.clone(), code_name(code).to_owned()];
        method.codes[index(code)].get_or_init(|| metrics.calls.with(labels())).inc();
        let duration = method
            .duration
            .get_or_init(|| metrics.duration.with([(*callee).to_owned(), method.name.clone()]));
        duration.took(self.begun.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_methods_of_the_contract_become_labels() {
        let metrics = Metrics::new();
        let health = tonic_health::pb::FILE_DESCRIPTOR_SET;
        let server = ServerMetrics::new(&metrics, &["grpc.health.v1.Health"], &[health]);
        for path in
            ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/canary", "/canary/canary", "canary"]
        {
            server.begin(path).end(Code::NotFound, Duration::from_millis(2));
        }
        let text = metrics.encode();
        assert!(!text.contains("canary"), "{text}");
        let count = |method: &str, count: u32| {
            format!("chatfn_rpc_server_calls_total{{method=\"{method}\",code=\"NOT_FOUND\"}} {count}")
        };
        for line in [count("Health/Check", 1), count("other", 3)] {
            assert!(text.contains(&line), "{line} is missing in\n{text}");
        }
        assert!(text.contains("chatfn_rpc_server_calls_in_progress{method=\"other\"} 0"), "{text}");
    }

    #[test]
    fn a_call_that_is_given_up_is_cancelled() {
        let metrics = Metrics::new();
        let callee = ClientMetrics::new(&metrics).of("registry");
        drop(callee.begin("/a.v1.B/Get"));
        let failed = callee.begin("/a.v1.B/Get");
        failed.fail(&Status::unavailable("x"));
        failed.end(Code::Ok);
        drop(failed);
        let text = metrics.encode();
        for line in [
            "chatfn_rpc_client_calls_total{callee=\"registry\",method=\"B/Get\",code=\"CANCELLED\"} 1",
            "chatfn_rpc_client_calls_total{callee=\"registry\",method=\"B/Get\",code=\"UNAVAILABLE\"} 1",
            "chatfn_rpc_client_failures_total{callee=\"registry\",retry=\"unknown\"} 1",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
