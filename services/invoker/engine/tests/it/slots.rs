//! Sandboxes at once: they share a process and nothing else.

use std::{sync::Arc, time::Duration};

use chatfn_engine::{Engine, EngineConfig, NoHost, RunError};
use serde_json::json;

use crate::support::{LIMITS, PATIENCE, call, call_of, config, engine, returned};

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
    let small = Engine::new(EngineConfig { max_sandboxes: 1, ..config() }).unwrap();
    let prepared = small
        .prepare("async function lambda() { await new Promise((r) => setTimeout(r, 1e9)) }", LIMITS)
        .await
        .unwrap();
    let (busy, function) = (small.clone(), prepared.clone());
    let running = tokio::spawn(async move { busy.run(&function, call("1")).await });
    while small.free_slots() > 0 {
        tokio::task::yield_now().await;
    }
    let waits = call_of("1", Duration::from_millis(50), Arc::new(NoHost));
    assert!(matches!(small.run(&prepared, waits).await, Err(RunError::NoCapacity)));
    running.abort();
    let _ = running.await;
    assert_eq!(small.free_slots(), 1, "the slot is free again");

    let foreign = engine().run(&prepared, call_of("1", PATIENCE, Arc::new(NoHost))).await;
    assert!(matches!(foreign, Err(RunError::InvalidCall(_))), "a function belongs to its engine");
}

#[tokio::test]
async fn a_call_cannot_ask_for_more_than_the_engine_has() {
    let prepared = engine().prepare("async function lambda() {}", LIMITS).await.unwrap();
    let greedy = chatfn_engine::Call { memory_bytes: usize::MAX, ..call("1") };
    assert!(matches!(engine().run(&prepared, greedy).await, Err(RunError::InvalidCall(_))));
}

#[tokio::test]
async fn functions_of_all_sizes_take_turns_in_the_same_slots() {
    let one = Engine::new(EngineConfig { max_sandboxes: 1, ..config() }).unwrap();
    // The second has much more in its memory than there is room for in the image, the third makes that much.
    let sources = [
        "let runs = 0; async function lambda() { return [++runs, 1] }",
        "let runs = 0; const all = Array.from({ length: 60000 }, (_, i) => ({ i })); async function lambda() { all[7].i++; return [++runs, all[7].i, all.length] }",
        "let runs = 0; async function lambda() { const all = Array.from({ length: 60000 }, (_, i) => ({ i })); return [++runs, all.length] }",
    ];
    let mut functions = Vec::new();
    for source in sources {
        functions.push(one.prepare(source, LIMITS).await.unwrap());
    }
    for _ in 0..3 {
        for (function, expected) in
            functions.iter().zip([json!([1, 1]), json!([1, 8, 60_000]), json!([1, 60_000])])
        {
            let report = one.run(function, call("1")).await.unwrap();
            assert_eq!(returned(&report), expected);
        }
    }
    assert_eq!(one.free_slots(), 1);
}
