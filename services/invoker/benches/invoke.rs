//! Measures one run of a lambda: in process, and through gRPC beside a no-op call on the same server.
//!
//! `make bench-invoke`. Progress goes to standard error; the last line on standard output is one JSON
//! object. Every figure is the median over [`ROUNDS`] rounds, in which the subjects take turns, so that
//! noise of the machine meets all of them.
//!
//! | figure | meaning |
//! |---|---|
//! | `fresh_p50_us`, `fresh_p99_us` | fresh sandbox, seed lambda, drop; one at a time |
//! | `trivial_p50_us` | the same with a lambda that does nothing: the pure overhead |
//! | `per_second_per_core` | seed lambda, one task per core, per core |
//! | `deadline_overshoot_ms` | by how much an endless loop outlives its deadline of 50 ms, worst of the rounds |
//! | `prepare_ms` | from source to prepared function |
//! | `grpc_p50_us`, `noop_p50_us` | `Invoke` of the seed lambda, and health `Check`, one at a time |
//! | `grpc_added_p50_us` | `grpc_p50_us` without `fresh_p50_us`: what the service adds to a run |
//! | `grpc_ratio_to_noop` | calls per second of `Invoke` over those of `Check`, 32 at a time |

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use chatfn_deployments::{Deployment, Deployments};
use chatfn_domain::{name::FunctionName, settings::FunctionSettings};
use chatfn_engine::{Call, Engine, EngineConfig, NoHost, Outcome, PrepareLimits, Prepared};
use chatfn_proto::invoker::v1::{
    InvocationEvent, InvokeRequest, invoker_service_client::InvokerServiceClient, run_report,
};
use chatfn_rpc::{Client, ClientConfig, Shutdown, connect};
use clap::Parser as _;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

const ROUNDS: usize = 7;
const RUNS: usize = 2_000;
const CALLS: usize = 2_000;
const CONCURRENCY: usize = 32;
const LONG: Duration = Duration::from_secs(30);
const DEADLINE: Duration = Duration::from_millis(50);

/// The seed's Chat In-Queue payload.
const PAYLOAD: &str = r#"{"campaignId":"3599735210","chatSessionKey":"H6846170109402085448-9905386f84524a008e929342b052819cK8389409","chatStartPageURL":"http://example.de","engagementId":"3599735310","ipAddress":"212.65.14.245","preChatSurveyStructure":{"header":"1528463744663"},"ttr":{"newTtr":{"value":300}}}"#;

/// Hashes the payload's JSON character by character, so that a known share of the time is interpretation.
const SEED: &str = r"
async function lambda(input) {
  const text = JSON.stringify(input.payload);
  let hash = 0;
  for (let i = 0; i < text.length; i++) hash = (hash * 31 + text.charCodeAt(i)) | 0;
  return { hash, wait: input.payload.ttr.newTtr.value };
}";
const TRIVIAL: &str = "async function lambda() {}";
const ENDLESS: &str = "async function lambda() { while (true) {} }";

fn main() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let figures = runtime.block_on(async {
        let engine = Engine::new(EngineConfig::default()).expect("the engine starts");
        eprintln!("reset path {}, {cores} cores, {ROUNDS} rounds", engine.reset_path().as_str());
        let sandbox = Sandbox::measure(&engine, cores).await;
        let service = Service::measure().await;
        serde_json::json!({
            "fresh_p50_us": sandbox.fresh_p50,
            "fresh_p99_us": sandbox.fresh_p99,
            "trivial_p50_us": sandbox.trivial_p50,
            "per_second_per_core": (sandbox.per_second / cores as f64).round(),
            "deadline_overshoot_ms": sandbox.overshoot_ms,
            "prepare_ms": sandbox.prepare_ms,
            "grpc_p50_us": service.invoke_p50,
            "noop_p50_us": service.noop_p50,
            "grpc_added_p50_us": service.invoke_p50 - sandbox.fresh_p50,
            "grpc_ratio_to_noop": (service.ratio * 1e3).round() / 1e3,
            "reset_path": engine.reset_path().as_str(),
            "cores": cores,
        })
    });
    println!("{figures}");
}

/// What the engine does by itself.
struct Sandbox {
    fresh_p50: f64,
    fresh_p99: f64,
    trivial_p50: f64,
    per_second: f64,
    overshoot_ms: f64,
    prepare_ms: f64,
}

impl Sandbox {
    async fn measure(engine: &Engine, cores: usize) -> Self {
        let begun = Instant::now();
        let seed = prepare(engine, SEED).await;
        let first_prepare = begun.elapsed();
        let (trivial, endless) = (prepare(engine, TRIVIAL).await, prepare(engine, ENDLESS).await);
        let input = format!(r#"{{"headers":[],"payload":{PAYLOAD}}}"#);

        let (mut p50s, mut p99s, mut trivials) = (Vec::new(), Vec::new(), Vec::new());
        let (mut throughputs, mut overshoots, mut prepares) =
            (Vec::new(), Vec::new(), vec![milliseconds(first_prepare)]);
        for round in 1..=ROUNDS {
            let seeds = latencies(RUNS, || run(engine, &seed, &input, LONG)).await;
            p50s.push(quantile(&seeds, 0.50));
            p99s.push(quantile(&seeds, 0.99));
            trivials.push(quantile(&latencies(RUNS, || run(engine, &trivial, &input, LONG)).await, 0.50));
            throughputs.push(
                throughput(cores, RUNS, || {
                    let (engine, seed, input) = (engine.clone(), seed.clone(), input.clone());
                    async move { run(&engine, &seed, &input, LONG).await }
                })
                .await,
            );
            let begun = Instant::now();
            run(engine, &endless, &input, DEADLINE).await;
            overshoots.push(milliseconds(begun.elapsed().saturating_sub(DEADLINE)));
            let begun = Instant::now();
            prepare(engine, SEED).await;
            prepares.push(milliseconds(begun.elapsed()));
            eprintln!(
                "round {round}: fresh p50 {:.0} us, {:.0} runs/s",
                p50s[round - 1],
                throughputs[round - 1]
            );
        }
        Self {
            fresh_p50: median(p50s),
            fresh_p99: median(p99s),
            trivial_p50: median(trivials),
            per_second: median(throughputs),
            overshoot_ms: overshoots.into_iter().fold(0.0, f64::max),
            prepare_ms: median(prepares),
        }
    }
}

/// What the service adds.
struct Service {
    invoke_p50: f64,
    noop_p50: f64,
    ratio: f64,
}

impl Service {
    async fn measure() -> Self {
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

        let (mut invokes, mut noops, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for round in 1..=ROUNDS {
            noops.push(quantile(&latencies(CALLS, noop).await, 0.50));
            invokes.push(quantile(&latencies(CALLS, invoke).await, 0.50));
            let per_task = CALLS / CONCURRENCY;
            let of_noop = throughput(CONCURRENCY, per_task, noop).await;
            let of_invoke = throughput(CONCURRENCY, per_task, invoke).await;
            ratios.push(of_invoke / of_noop);
            eprintln!("round {round}: {of_invoke:.0} Invoke/s, {of_noop:.0} no-op calls/s");
        }
        shutdown.begin();
        Self { invoke_p50: median(invokes), noop_p50: median(noops), ratio: median(ratios) }
    }
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
    let config = chatfn_invoker::Config::parse_from(["chatfn-invoker"]);
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

async fn prepare(engine: &Engine, source: &str) -> Prepared {
    engine.prepare(source, PrepareLimits::default()).await.expect("the source prepares")
}

/// One run. A lambda that returns nothing right would make every figure worthless.
async fn run(engine: &Engine, prepared: &Prepared, input: &str, timeout: Duration) {
    let call = Call::new(input.to_owned(), Instant::now() + timeout, Arc::new(NoHost));
    let report = engine.run(prepared, call).await.expect("a sandbox");
    assert!(
        timeout == DEADLINE || matches!(report.outcome, Outcome::Returned { .. }),
        "{:?}",
        report.outcome
    );
}

/// Latencies in microseconds, one after another, sorted.
async fn latencies<F: Future<Output = ()>>(count: usize, subject: impl Fn() -> F) -> Vec<f64> {
    let mut latencies = Vec::with_capacity(count);
    for _ in 0..count {
        let begun = Instant::now();
        subject().await;
        latencies.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    latencies.sort_by(f64::total_cmp);
    latencies
}

/// Calls per second of `tasks` tasks together, each with `count` calls one after another.
async fn throughput<F>(tasks: usize, count: usize, subject: impl Fn() -> F) -> f64
where
    F: Future<Output = ()> + Send + 'static,
{
    let begun = Instant::now();
    let chains: Vec<_> = (0..tasks)
        .map(|_| {
            let calls: Vec<_> = (0..count).map(|_| subject()).collect();
            tokio::spawn(async move {
                for call in calls {
                    call.await;
                }
            })
        })
        .collect();
    for chain in chains {
        chain.await.expect("no call fails");
    }
    (tasks * count) as f64 / begun.elapsed().as_secs_f64()
}

fn quantile(sorted: &[f64], share: f64) -> f64 {
    (sorted[((sorted.len() - 1) as f64 * share) as usize] * 10.0).round() / 10.0
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2] * 1e3).round() / 1e3
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
