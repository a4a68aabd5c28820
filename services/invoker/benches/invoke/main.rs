//! Measures one run of a lambda: in process, and through gRPC beside a no-op call on the same server.
//!
//! `make bench-invoke`. Progress goes to standard error; the last line on standard output is one JSON
//! object. Figures are medians over [`ROUNDS`] rounds, in which the subjects take turns, so that noise of
//! the machine meets all of them; a figure called worst is the worst of all rounds.
//!
//! | figure | meaning | goal |
//! |---|---|---|
//! | `fresh_p50_us`, `fresh_p99_us` | fresh sandbox, seed lambda, drop; one at a time | 100, 500 |
//! | `trivial_p50_us` | the same with a lambda that does nothing: the pure overhead | |
//! | `per_second_per_core` | seed lambda, one task per core, per core | 10,000 |
//! | `bundle_500k_p50_us` | a lambda with a bundle of 500 KB of source | 250 |
//! | `prepare_ms` | from the seed lambda's source to the prepared function | 50 |
//! | `cold_to_warm_ratio` | a function's first run to its second, preparation not counted | 3 |
//! | `function_bytes`, `bundle_bytes`, `image_bytes` | what a prepared function keeps; what all share | |
//! | `deadline_overshoot_ms_worst`, `…_p50` | by how much endless lambdas of ten kinds outlive 50 ms | 6 |
//! | `in_flight_per_gib` | lambdas awaiting an answer per GiB of resident memory | 3,000 |
//! | `p50_ratio_10k_to_10` | p50 over 10,000 functions of 50 accounts to p50 over 10 | 1.2 |
//! | `grpc_p50_us`, `noop_p50_us` | `Invoke` of the seed lambda, and health `Check`, one at a time | |
//! | `grpc_added_p50_us` | `grpc_p50_us` without `fresh_p50_us`: what the service adds to a run | |
//! | `grpc_ratio_to_noop` | calls per second of `Invoke` over those of `Check`, 32 at a time | |

mod deadline;
mod measure;
mod sandbox;
mod scale;
mod service;

use chatfn_engine::{Engine, EngineConfig};
use serde_json::{Map, Value, json};

// As the services have it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 7;

fn main() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let figures = runtime.block_on(async {
        let engine = Engine::new(EngineConfig::default()).expect("the engine starts");
        let reset = engine.reset_path().as_str();
        eprintln!("reset path {reset}, {cores} cores, {ROUNDS} rounds");
        let (sandbox, fresh_p50) = sandbox::measure(&engine, cores, ROUNDS).await;
        let parts = [
            sandbox,
            deadline::measure(&engine, ROUNDS).await,
            scale::measure(&engine, ROUNDS).await,
            service::measure(ROUNDS, fresh_p50).await,
            json!({ "reset_path": reset, "cores": cores }),
        ];
        parts.into_iter().flat_map(fields).collect::<Map<_, _>>()
    });
    println!("{}", Value::Object(figures));
}

fn fields(part: Value) -> Map<String, Value> {
    match part {
        Value::Object(fields) => fields,
        _ => unreachable!("every part is an object"),
    }
}
