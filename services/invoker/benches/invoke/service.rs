//! What the service adds to a run: `Invoke` beside a no-op call on the same server.

use std::time::Duration;

use chatfn_deployments::{Deployment, Deployments};
use chatfn_domain::{name::FunctionName, settings::FunctionSettings};
use chatfn_proto::invoker::v1::{
    InvocationEvent, InvokeRequest, invoker_service_client::InvokerServiceClient, run_report,
};
use chatfn_rpc::{Client, ClientConfig, Shutdown, connect};
use clap::Parser as _;
use serde_json::{Value, json};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::measure::{PAYLOAD, SEED, latencies, median, quantile, rounded, throughput};

const CALLS: usize = 2_000;
const CONCURRENCY: usize = 32;

/// See the table on the front page.
pub(crate) async fn measure(rounds: usize, fresh_p50: f64) -> Value {
    let (client, shutdown) = serve().await;
    let invoker = InvokerServiceClient::new(client.clone());
    let health = HealthClient::new(client);
    let invoke = || {
        let mut invoker = invoker.clone();
        async move {
            let report = invoker.invoke(request()).await.expect("a report").into_inner().report;
            assert!(matches!(report.and_then(|it| it.outcome), Some(run_report::Outcome::ResultJson(_))));
        }
    };
    let noop = || {
        let mut health = health.clone();
        async move {
            health.check(HealthCheckRequest::default()).await.expect("an answer");
        }
    };

    let (mut invokes, mut noops, mut ratios) = (vec![], vec![], vec![]);
    for round in 1..=rounds {
        noops.push(quantile(&latencies(CALLS, |_| noop()).await, 0.50));
        invokes.push(quantile(&latencies(CALLS, |_| invoke()).await, 0.50));
        let per_task = CALLS / CONCURRENCY;
        let of_noop = throughput(CONCURRENCY, per_task, noop).await;
        let of_invoke = throughput(CONCURRENCY, per_task, invoke).await;
        ratios.push(of_invoke / of_noop);
        eprintln!("service, round {round}: {of_invoke:.0} Invoke/s, {of_noop:.0} no-op calls/s");
    }
    shutdown.begin();
    let (invoke_p50, noop_p50) = (median(invokes), median(noops));
    json!({
        "grpc_p50_us": invoke_p50,
        "noop_p50_us": noop_p50,
        "grpc_added_p50_us": rounded(invoke_p50 - fresh_p50),
        "grpc_ratio_to_noop": median(ratios),
    })
}

/// The invoker with the seed lambda live, on a loopback port.
async fn serve() -> (Client, Shutdown) {
    let function: FunctionName = "accounts/bench/functions/chat.in_queue".parse().expect("a name");
    let settings = FunctionSettings::default();
    let deployment = Deployment {
        function,
        version: "1".parse().expect("a number"),
        digest: chatfn_domain::function::version_digest(SEED, &settings),
        settings,
        source: SEED.into(),
    };
    let config = chatfn_invoker::Config::parse_from(["chatfn-invoker", "--telemetry-listen=off"]);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let uri = format!("http://{}", listener.local_addr().expect("an address"));
    let shutdown = Shutdown::new();
    let deployments = Deployments::fixed([deployment], []);
    tokio::spawn(chatfn_invoker::run_with(config, deployments, listener, shutdown.clone()));
    let client = connect(ClientConfig::new(uri.parse().expect("a URI"))).expect("a client");
    while InvokerServiceClient::new(client.clone()).invoke(request()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    (client, shutdown)
}

fn request() -> InvokeRequest {
    let event = InvocationEvent {
        event_id: "e-1".into(),
        conversation_id: "c-1".into(),
        attempt: 1,
        payload_json: PAYLOAD.into(),
        ..InvocationEvent::default()
    };
    InvokeRequest { function: "accounts/bench/functions/chat.in_queue".into(), event: Some(event) }
}
