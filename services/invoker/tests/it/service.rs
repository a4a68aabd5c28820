//! The whole service on a loopback port.

use std::{net::SocketAddr, path::Path, time::Duration};

use chatfn_deployments::{Deployment, Deployments, Template};
use chatfn_domain::{function::version_digest, settings::FunctionSettings};
use chatfn_invoker::{Config, run, run_with};
use chatfn_proto::invoker::v1::{
    FailureKind, InvocationEvent, InvokeRequest, LambdaFailure, PrepareRequest, RunReport, TestInvokeRequest,
    TestInvokeResponse, invoker_service_client::InvokerServiceClient, prepare_response, run_report,
};
use chatfn_rpc::{Client, ClientConfig, ErrorReport, RequestExt as _, Shutdown, connect};
use chatfn_telemetry::testing::print_warnings;
use clap::Parser as _;
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};
use tonic::Request;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{FUNCTION, PATIENCE};

/// An invoker, until the test ends.
pub(crate) struct Service {
    client: Client,
    pub(crate) shutdown: Shutdown,
    pub(crate) running: JoinHandle<anyhow::Result<()>>,
}

/// Lets lambdas reach the servers of the tests.
pub(crate) const LOCAL: &str = "--egress-allow-cidr=127.0.0.1/32";

impl Service {
    /// With these versions live, the template of the tests' function, and nothing ever changing.
    pub(crate) async fn start(live: impl IntoIterator<Item = Deployment>, flags: &[&str]) -> Self {
        let template = Template {
            name: "chat.start".parse().unwrap(),
            payload_schema_json: r#"{"properties": {"text": {"type": "string"}}, "required": ["text"]}"#
                .into(),
            sample_payload_json: r#"{"text": "a sample"}"#.into(),
            fires_once: true,
        };
        Self::start_with(Deployments::fixed(live, [template]), flags).await
    }

    /// With what is live given.
    pub(crate) async fn start_with(deployments: Deployments, flags: &[&str]) -> Self {
        Self::spawn(flags, |config, listener, shutdown| {
            tokio::spawn(run_with(config, deployments, listener, shutdown))
        })
        .await
    }

    /// With what a registry says.
    pub(crate) async fn watching(registry: &str, flags: &[&str]) -> Self {
        let registry = format!("--registry={registry}");
        let flags: Vec<_> = flags.iter().copied().chain([&*registry]).collect();
        Self::spawn(&flags, |config, listener, shutdown| tokio::spawn(run(config, listener, shutdown))).await
    }

    async fn spawn(
        flags: &[&str],
        start: impl FnOnce(Config, TcpListener, Shutdown) -> JoinHandle<anyhow::Result<()>>,
    ) -> Self {
        print_warnings();
        // The engine is compiled once for all test processes.
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("engine-cache");
        let cache = format!("--cache-dir={}", cache.display());
        let is_told = flags.iter().any(|flag| flag.starts_with("--telemetry-listen="));
        let quiet = if is_told { vec![] } else { vec!["--telemetry-listen=off"] };
        let mut config = Config::parse_from(["chatfn-invoker", &cache].iter().chain(flags).chain(&quiet));
        // Every sandbox reserves address space, and tests run side by side.
        config.max_runs = config.max_runs.min(32);
        config.max_children = config.max_children.min(44);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::new();
        let running = start(config, listener, shutdown.clone());
        let service = Self { shutdown, running, ..Self::at(address) };
        service.until_answering().await;
        service
    }

    /// One that someone else has started, and ends.
    pub(crate) fn at(address: SocketAddr) -> Self {
        let uri = format!("http://{address}").parse().unwrap();
        let client =
            ClientConfig { default_timeout: PATIENCE, min_budget: Duration::ZERO, ..ClientConfig::new(uri) };
        Self {
            client: connect(client).unwrap(),
            shutdown: Shutdown::new(),
            running: tokio::spawn(async { Ok(()) }),
        }
    }

    /// Waits for the engine.
    async fn until_answering(&self) {
        let answering = async { while self.serving().await.is_none() {} };
        timeout(4 * PATIENCE, answering).await.expect("the service starts");
    }

    /// Whether the service says that it serves; `None` when it says nothing.
    pub(crate) async fn serving(&self) -> Option<bool> {
        let answer = HealthClient::new(self.client.clone()).check(HealthCheckRequest::default()).await;
        answer.ok().map(|answer| answer.into_inner().status() == ServingStatus::Serving)
    }

    /// Runs the tests' function for an event.
    pub(crate) async fn invoke(&self, event_id: &str) -> Result<RunReport, ErrorReport> {
        self.call(Request::new(request(event_id))).await
    }

    /// The same when the caller has only so much time.
    pub(crate) async fn invoke_within(
        &self,
        event_id: &str,
        timeout: Duration,
    ) -> Result<RunReport, ErrorReport> {
        self.call(Request::new(request(event_id)).with_timeout(timeout)).await
    }

    pub(crate) async fn call(&self, request: Request<InvokeRequest>) -> Result<RunReport, ErrorReport> {
        let answer = InvokerServiceClient::new(self.client.clone()).invoke(request).await;
        answer
            .map(|answer| answer.into_inner().report.expect("a report"))
            .map_err(|status| ErrorReport::from_status(&status))
    }

    /// The same from a task of its own, which may be aborted.
    pub(crate) fn spawn_invoke(&self, event_id: &str) -> JoinHandle<Result<RunReport, ErrorReport>> {
        let service = Self {
            client: self.client.clone(),
            shutdown: Shutdown::new(),
            running: tokio::spawn(async { Ok(()) }),
        };
        let event_id = event_id.to_owned();
        tokio::spawn(async move { service.invoke(&event_id).await })
    }

    pub(crate) async fn prepare(
        &self,
        source: impl Into<String>,
        memory_mib: u32,
    ) -> Result<prepare_response::Outcome, ErrorReport> {
        self.prepare_as("", source, memory_mib).await
    }

    /// The same for a function.
    pub(crate) async fn prepare_as(
        &self,
        function: &str,
        source: impl Into<String>,
        memory_mib: u32,
    ) -> Result<prepare_response::Outcome, ErrorReport> {
        let function = function.to_owned();
        let request = PrepareRequest { source: source.into(), memory_mib, function, ..Default::default() };
        let answer = InvokerServiceClient::new(self.client.clone()).prepare(request).await;
        answer
            .map(|answer| answer.into_inner().outcome.expect("an outcome"))
            .map_err(|status| ErrorReport::from_status(&status))
    }

    pub(crate) async fn test_invoke(
        &self,
        request: impl tonic::IntoRequest<TestInvokeRequest>,
    ) -> Result<TestInvokeResponse, ErrorReport> {
        let answer = InvokerServiceClient::new(self.client.clone()).test_invoke(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| ErrorReport::from_status(&status))
    }
}

/// A request with a small event.
pub(crate) fn request(event_id: &str) -> InvokeRequest {
    let event = InvocationEvent {
        event_id: event_id.into(),
        conversation_id: "c-1".into(),
        attempt: 1,
        payload_json: r#"{"text": "hello"}"#.into(),
        ..InvocationEvent::default()
    };
    InvokeRequest { function: FUNCTION.into(), event: Some(event) }
}

/// A version of the tests' function that has all the time it may have.
pub(crate) fn version(number: u32, source: &str, hosts: &[impl AsRef<str>]) -> Deployment {
    let settings = FunctionSettings {
        timeout: PATIENCE,
        allowed_hosts: hosts.iter().map(|host| host.as_ref().parse().unwrap()).collect(),
        ..FunctionSettings::default()
    };
    with_settings(number, source, settings)
}

/// A version of the tests' function.
pub(crate) fn with_settings(number: u32, source: &str, settings: FunctionSettings) -> Deployment {
    Deployment {
        function: FUNCTION.parse().unwrap(),
        version: number.to_string().parse().unwrap(),
        digest: version_digest(source, &settings),
        settings,
        source: source.into(),
    }
}

/// The same version of another function.
pub(crate) fn of(function: &str, version: Deployment) -> Deployment {
    Deployment { function: function.parse().unwrap(), ..version }
}

/// A lambda that calls a URL, and returns the status.
pub(crate) fn fetching(url: &str) -> String {
    format!("async function lambda() {{ return (await fetch({url:?})).status; }}")
}

/// What the lambda returned.
#[track_caller]
pub(crate) fn result(report: &RunReport) -> serde_json::Value {
    match report.outcome.as_ref().expect("an outcome") {
        run_report::Outcome::ResultJson(json) => serde_json::from_str(json).expect("a result is JSON"),
        run_report::Outcome::Failure(failure) => panic!("it failed: {failure:?}"),
    }
}

/// How the lambda failed.
#[track_caller]
pub(crate) fn failure(report: &RunReport, kind: FailureKind) -> &LambdaFailure {
    match report.outcome.as_ref().expect("an outcome") {
        run_report::Outcome::Failure(failure) if failure.kind() == kind => failure,
        other => panic!("{other:?} instead of {kind:?}"),
    }
}

/// The messages of a run's log.
pub(crate) fn logged(report: &RunReport) -> Vec<&str> {
    report.logs.iter().map(|entry| entry.message.as_str()).collect()
}

/// The reason of an error.
#[track_caller]
pub(crate) fn reason(outcome: Result<RunReport, ErrorReport>) -> String {
    outcome.expect_err("refused").reason.expect("a reason")
}
