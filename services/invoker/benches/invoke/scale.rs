//! What many sandboxes and many functions cost.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chatfn_engine::{Call, Engine, EngineConfig, Host, HostOp, OpError, OpResult};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};

use crate::measure::{LONG, SEED, input, latencies, median, prepare, quantile, resident_bytes, run};

const IN_FLIGHT: u32 = 2_000;
const MANY: usize = 10_000;
const FEW: usize = 10;
const ACCOUNTS: usize = 50;
const RUNS: usize = 5_000;

const WAITING: &str = "
async function lambda(input) {
  const response = await fetch('https://crm.example.com/cases', { method: 'POST', body: JSON.stringify(input.payload) });
  return response.status;
}";

/// See the table on the front page.
pub(crate) async fn measure(engine: &Engine, rounds: usize) -> Value {
    let in_flight = in_flight_per_gib().await;
    let (ratio, bytes) = many_to_few(engine, rounds).await;
    json!({
        "in_flight_per_gib": in_flight,
        "p50_ratio_10k_to_10": ratio,
        "bytes_per_function_10k": bytes,
    })
}

/// Answers no request before `open` has permits.
struct Stalled {
    arrived: mpsc::Sender<()>,
    open: Arc<Semaphore>,
}

impl Host for Stalled {
    fn start(&self, _: HostOp) -> BoxFuture<'static, Result<OpResult, OpError>> {
        let (arrived, open) = (self.arrived.clone(), Arc::clone(&self.open));
        Box::pin(async move {
            arrived.send(()).await.expect("the bench waits");
            let _permit = open.acquire().await.expect("never closed");
            Err(OpError { message: "over".to_owned(), ..OpError::default() })
        })
    }
}

/// How many lambdas that await an answer fit into a GiB of resident memory.
async fn in_flight_per_gib() -> f64 {
    let config = EngineConfig { max_sandboxes: IN_FLIGHT, ..EngineConfig::default() };
    let engine = Engine::new(config).expect("the engine starts");
    let waiting = prepare(&engine, WAITING).await;
    let (arrived, mut arrivals) = mpsc::channel(IN_FLIGHT as usize);
    let host = Arc::new(Stalled { arrived, open: Arc::new(Semaphore::new(0)) });
    let before = resident_bytes();
    let runs: Vec<_> = (0..IN_FLIGHT)
        .map(|_| {
            let (engine, waiting, host) = (engine.clone(), waiting.clone(), Arc::clone(&host));
            tokio::spawn(async move {
                let call = Call::new(input(), Instant::now() + 2 * LONG, host);
                engine.run(&waiting, call).await
            })
        })
        .collect();
    for _ in 0..IN_FLIGHT {
        tokio::time::timeout(Duration::from_secs(60), arrivals.recv()).await.expect("all get to wait");
    }
    let each = (resident_bytes() - before) as f64 / f64::from(IN_FLIGHT);
    host.open.add_permits(IN_FLIGHT as usize);
    for run in runs {
        run.await.expect("no panic").expect("a sandbox");
    }
    eprintln!("scale: {:.0} KiB per lambda in flight", each / 1024.0);
    ((1_u64 << 30) as f64 / each).round()
}

/// The p50 of runs spread over many functions to that of runs spread over few, in turns, and what a function takes.
async fn many_to_few(engine: &Engine, rounds: usize) -> (f64, usize) {
    let mut functions = Vec::with_capacity(MANY);
    for number in 0..MANY {
        let source = format!("const account = 'account-{}', number = {number};{SEED}", number % ACCOUNTS);
        functions.push(prepare(engine, &source).await);
    }
    let bytes = functions.iter().map(chatfn_engine::Prepared::size_bytes).sum::<usize>() / MANY;
    let input = input();
    // A stride that visits all before it comes back, and never neighbours.
    let spread = |turn: usize, count: usize| &functions[(turn * 7_919) % count];
    let mut ratios = vec![];
    for round in 1..=rounds {
        let few = latencies(RUNS, |turn| run(engine, spread(turn, FEW), &input)).await;
        let many = latencies(RUNS, |turn| run(engine, spread(turn, MANY), &input)).await;
        ratios.push(quantile(&many, 0.50) / quantile(&few, 0.50));
        eprintln!("scale, round {round}: p50 {:.0} us over {MANY}", quantile(&many, 0.50));
    }
    (median(ratios), bytes)
}
