//! Runs do not see each other.

use std::sync::Arc;

use chatfn_engine::{Engine, EngineConfig, NoHost, RunError};
use serde_json::json;

use crate::support::{LIMITS, PATIENCE, call, call_of, engine, returned};

#[tokio::test]
async fn nothing_of_a_run_is_left_for_the_next() {
    let source = "let runs = 0; const cache = new Map();
      async function lambda() {
        runs += 1; cache.set(runs, 1); globalThis.leak = (globalThis.leak ?? 0) + 1;
        const polluted = ({}).polluted; Object.prototype.polluted = true; Array.prototype.map = () => 'hijacked';
        process.env.LEAK = (process.env.LEAK ?? '') + 'x';
        return [runs, cache.size, globalThis.leak, polluted === undefined, process.env.LEAK];
      }";
    let prepared = engine().prepare(source, LIMITS).await.unwrap();
    for _ in 0..3 {
        let report = engine().run(&prepared, call("1")).await.unwrap();
        assert_eq!(returned(&report), json!([1, 1, 1, true, "x"]));
    }
}

#[tokio::test]
async fn random_numbers_and_times_are_fresh() {
    let source = "async function lambda() { return [Math.random(), crypto.randomUUID(), Date.now()] }";
    let prepared = engine().prepare(source, LIMITS).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..20 {
        seen.push(returned(&engine().run(&prepared, call("1")).await.unwrap()));
    }
    for (index, one) in seen.iter().enumerate() {
        assert!(one[2].as_f64().unwrap() > 1.7e12, "{one}");
        for other in &seen[index + 1..] {
            assert!(one[0] != other[0] && one[1] != other[1], "{one} {other}");
        }
    }
}

#[tokio::test]
async fn many_runs_share_the_process() {
    let source = "async function lambda(n) { let sum = 0; for (let i = 0; i < 1000; i++) sum += n; await new Promise((r) => setTimeout(r, 1)); return sum }";
    let prepared = engine().prepare(source, LIMITS).await.unwrap();
    let runs = (0..200).map(|n| {
        let prepared = prepared.clone();
        tokio::spawn(async move { returned(&engine().run(&prepared, call(&n.to_string())).await.unwrap()) })
    });
    for (n, run) in runs.collect::<Vec<_>>().into_iter().enumerate() {
        assert_eq!(run.await.unwrap(), json!(n * 1000));
    }
}

#[tokio::test]
async fn a_full_engine_refuses_by_the_deadline() {
    let small = Engine::new(EngineConfig { max_sandboxes: 1, ..EngineConfig::default() }).unwrap();
    let prepared = small
        .prepare("async function lambda() { await new Promise((r) => setTimeout(r, 1e9)) }", LIMITS)
        .await
        .unwrap();
    let (busy, function) = (small.clone(), prepared.clone());
    let running = tokio::spawn(async move { busy.run(&function, call("1")).await });
    while small.free_slots() > 0 {
        tokio::task::yield_now().await;
    }
    let waits = call_of("1", std::time::Duration::from_millis(50), Arc::new(NoHost));
    assert!(matches!(small.run(&prepared, waits).await, Err(RunError::NoCapacity)));
    running.abort();
    let _ = running.await;
    assert_eq!(small.free_slots(), 1, "the slot is free again");

    let foreign = engine().run(&prepared, call_of("1", PATIENCE, Arc::new(NoHost))).await;
    assert!(matches!(foreign, Err(RunError::InvalidCall(_))), "a function belongs to its engine");
}
