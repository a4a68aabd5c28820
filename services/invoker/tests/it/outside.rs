//! The lambdas' outbound HTTP by itself, with a resolver that the test scripts.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use chatfn_deployments::Deployment;
use chatfn_domain::settings::FunctionSettings;
use chatfn_engine::FetchRequest;
use chatfn_invoker::egress::{
    Egress, EgressConfig, EgressError, Resolve, ResolveError, RunEgress, RunScope, SystemResolver,
};
use futures_util::future::BoxFuture;
use tokio::time::Instant;
use uuid::Uuid;

use crate::{FUNCTION, PATIENCE, dns::NameServer};

/// The name servers: for each name its answers in order, of which the last stays.
#[derive(Default)]
pub(crate) struct Names {
    answers: Mutex<HashMap<String, VecDeque<Vec<IpAddr>>>>,
    asked: Mutex<Vec<String>>,
}

impl Names {
    /// The next answer for `name`, after those that it has.
    pub(crate) fn add(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.answers.lock().unwrap().entry(name.to_owned()).or_default().push_back(addresses);
    }

    /// Every name that was asked for, in order.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// A name whose servers never answer.
pub(crate) const SILENT: &str = "silent.example";

impl Resolve for Names {
    fn resolve(&self, name: &str) -> BoxFuture<'_, Result<Vec<IpAddr>, ResolveError>> {
        if name == SILENT {
            return Box::pin(std::future::pending());
        }
        self.asked.lock().unwrap().push(name.to_owned());
        let mut answers = self.answers.lock().unwrap();
        let answer = answers.get_mut(name).map(|queue| match queue.len() {
            1 => queue[0].clone(),
            _ => queue.pop_front().unwrap(),
        });
        Box::pin(std::future::ready(answer.ok_or(ResolveError::NotFound)))
    }
}

/// The outbound HTTP of a process.
pub(crate) struct Outside {
    pub(crate) names: Arc<Names>,
    egress: Arc<Egress>,
}

impl Outside {
    pub(crate) fn new(config: EgressConfig) -> Self {
        let names = Arc::new(Names::default());
        let resolver = Arc::clone(&names) as Arc<dyn Resolve>;
        Self { names, egress: Arc::new(Egress::new(&config, resolver).unwrap()) }
    }

    /// With 127.0.0.1 allowed, and names as the product resolves them.
    pub(crate) fn resolving(config: EgressConfig, server: &NameServer) -> Self {
        let config = EgressConfig { allow: vec!["127.0.0.1/32".parse().unwrap()], ..config };
        let resolver = Arc::new(SystemResolver::with_name_servers(&[server.address]).unwrap());
        Self { names: Arc::default(), egress: Arc::new(Egress::new(&config, resolver).unwrap()) }
    }

    /// With 127.0.0.1 allowed, where the name `crm.example` is.
    pub(crate) fn local(config: EgressConfig) -> Self {
        let outside = Self::new(EgressConfig { allow: vec!["127.0.0.1/32".parse().unwrap()], ..config });
        outside.names.add("crm.example", &["127.0.0.1"]);
        outside
    }

    /// A run of a function that may call `hosts`.
    pub(crate) fn run(&self, hosts: &[impl AsRef<str>]) -> Arc<RunEgress> {
        self.run_until(hosts, PATIENCE)
    }

    /// The same with less time.
    pub(crate) fn run_until(&self, hosts: &[impl AsRef<str>], timeout: Duration) -> Arc<RunEgress> {
        self.run_of(FUNCTION, hosts, timeout)
    }

    /// The same for another function.
    pub(crate) fn run_of(
        &self,
        function: &str,
        hosts: &[impl AsRef<str>],
        timeout: Duration,
    ) -> Arc<RunEgress> {
        let allowed_hosts = hosts.iter().map(|host| host.as_ref().parse().unwrap()).collect();
        let deployment = Deployment {
            function: function.parse().unwrap(),
            version: "1".parse().unwrap(),
            digest: String::new(),
            settings: FunctionSettings { allowed_hosts, ..FunctionSettings::default() },
            source: "".into(),
        };
        self.egress.run(RunScope {
            deployment: Arc::new(deployment),
            event_key: Uuid::from_u128(7),
            traces: chatfn_telemetry::Traces::off(),
            trace: Some(TRACE.parse().unwrap()),
            deadline: Instant::now() + timeout,
        })
    }
}

/// The trace that all runs here belong to.
pub(crate) const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

pub(crate) fn request(method: &str, url: impl Into<String>) -> FetchRequest {
    FetchRequest {
        method: method.to_owned(),
        url: url.into(),
        headers: Vec::new(),
        redirect: Default::default(),
        body: None,
    }
}

pub(crate) fn get(url: impl Into<String>) -> FetchRequest {
    request("GET", url)
}

/// A request with a body.
pub(crate) fn post(url: impl Into<String>, body: &'static str) -> FetchRequest {
    FetchRequest { body: Some(Bytes::from_static(body.as_bytes())), ..request("POST", url) }
}

pub(crate) fn with_headers(mut request: FetchRequest, headers: &[(&str, &str)]) -> FetchRequest {
    request.headers.extend(headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    request
}

/// Makes a call: its status, or the reason why it has none.
pub(crate) async fn call(run: &Arc<RunEgress>, request: FetchRequest) -> Result<u16, &'static str> {
    run.fetch(request).await.map(|response| response.status).map_err(|error| error.reason())
}

/// Makes a call in a run of its own, of a function that may call `hosts`. What came of it is on the run's record, which
/// this makes sure of.
pub(crate) async fn call_once(
    outside: &Outside,
    hosts: &[impl AsRef<str>],
    request: FetchRequest,
) -> Result<u16, &'static str> {
    let run = outside.run(hosts);
    let outcome = call(&run, request).await;
    let (calls, truncated) = run.calls();
    let [recorded] = &calls[..] else { panic!("one call: {calls:?}") };
    let reason = recorded.error.as_ref().map(EgressError::reason);
    assert_eq!((recorded.status, reason, truncated), (outcome.ok(), outcome.err(), false));
    outcome
}
