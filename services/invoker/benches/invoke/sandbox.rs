//! What a single run costs in process.

use std::time::Instant;

use chatfn_engine::Engine;
use serde_json::{Value, json};

use crate::measure::{SEED, input, latencies, median, milliseconds, prepare, quantile, run, throughput};

const RUNS: usize = 2_000;
/// Functions that are run for the first time, per round.
const NEVER_RUN: usize = 50;
const TRIVIAL: &str = "async function lambda() {}";

/// See the table on the front page. Also gives `fresh_p50_us` by itself.
pub(crate) async fn measure(engine: &Engine, cores: usize, rounds: usize) -> (Value, f64) {
    let input = input();
    let (seed, trivial) = (prepare(engine, SEED).await, prepare(engine, TRIVIAL).await);
    let bundle = prepare(engine, &bundle()).await;

    let (mut p50s, mut p99s, mut trivials, mut bundles) = (vec![], vec![], vec![], vec![]);
    let (mut throughputs, mut prepares, mut ratios) = (vec![], vec![], vec![]);
    for round in 1..=rounds {
        let seeds = latencies(RUNS, |_| run(engine, &seed, &input)).await;
        p50s.push(quantile(&seeds, 0.50));
        p99s.push(quantile(&seeds, 0.99));
        trivials.push(quantile(&latencies(RUNS, |_| run(engine, &trivial, &input)).await, 0.50));
        bundles.push(quantile(&latencies(RUNS / 4, |_| run(engine, &bundle, &input)).await, 0.50));
        throughputs.push(
            throughput(cores, RUNS, || {
                let (engine, seed, input) = (engine.clone(), seed.clone(), input.clone());
                async move { run(&engine, &seed, &input).await }
            })
            .await,
        );

        let mut never_run = Vec::with_capacity(NEVER_RUN);
        for number in 0..NEVER_RUN {
            let begun = Instant::now();
            never_run.push(prepare(engine, &format!("const number = {round}_{number};{SEED}")).await);
            prepares.push(milliseconds(begun.elapsed()));
        }
        let first = latencies(NEVER_RUN, |turn| run(engine, &never_run[turn], &input)).await;
        let later = latencies(NEVER_RUN, |turn| run(engine, &never_run[turn], &input)).await;
        ratios.push(quantile(&first, 0.50) / quantile(&later, 0.50));
        eprintln!(
            "sandbox, round {round}: fresh p50 {:.0} us, {:.0} runs/s",
            p50s[round - 1],
            throughputs[round - 1]
        );
    }
    let fresh_p50 = median(p50s);
    let figures = json!({
        "fresh_p50_us": fresh_p50,
        "fresh_p99_us": median(p99s),
        "trivial_p50_us": median(trivials),
        "bundle_500k_p50_us": median(bundles),
        "per_second_per_core": (median(throughputs) / cores as f64).round(),
        "prepare_ms": median(prepares),
        "cold_to_warm_ratio": median(ratios),
        "function_bytes": seed.size_bytes(),
        "bundle_bytes": bundle.size_bytes(),
        "image_bytes": engine.image_bytes(),
    });
    (figures, fresh_p50)
}

/// Half a megabyte of source: a lambda that has a whole library bundled into it, and uses a little of it.
fn bundle() -> String {
    let library = concat!(env!("CARGO_MANIFEST_DIR"), "/guest/node_modules/lodash/lodash.js");
    let library = std::fs::read_to_string(library).expect("`make setup` has installed the npm packages");
    format!(
        "{library}\nconst bundled = module.exports;\nmodule.exports = {{}};\n\
         async function lambda(input) {{\n\
         return {{ keys: bundled.sortBy(bundled.keys(input.payload)), wait: bundled.get(input, 'payload.ttr.newTtr.value') }};\n}}"
    )
}
