//! A sandbox that breaks: that run fails, and nothing else does.

use std::sync::Arc;

use chatfn_engine::{FailureKind, Host, HostOp, OpError, OpResult};
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;

use crate::support::{LIMITS, PATIENCE, Slot, call, call_of, engine, failure, messages, returned};

/// QuickJS walks this chain by recursion in C without looking at its stack, until it writes below address 0.
const BREAK: &str = "let it = [1].values(); for (let n = 0; n < 1e5; n++) it = it.map((x) => x); [...it]";

#[tokio::test]
async fn a_broken_sandbox_is_that_runs_failure() {
    let slot = Slot::new().await;
    for _ in 0..3 {
        let report = slot.fails(&format!("console.log('before'); {BREAK}"), FailureKind::Crashed).await;
        assert_eq!(messages(&report.logs), ["started", "before"]);
        let message = &failure(&report).message;
        assert!(message.contains("no other run notices") && message.contains("report it"), "{message}");
    }
}

/// Answers once there is a permit.
struct Gate(Arc<Semaphore>);

impl Host for Gate {
    fn start(&self, _: HostOp) -> BoxFuture<'static, Result<OpResult, OpError>> {
        let gate = Arc::clone(&self.0);
        Box::pin(async move {
            gate.acquire().await.expect("never closed").forget();
            Err(OpError { message: "the gate is open".to_owned(), ..OpError::default() })
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neighbours_of_a_broken_sandbox_finish() {
    let waits = "const kept = 'before';
      async function lambda(n) { await fetch('https://gate.example').catch(() => {}); return [kept, n] }";
    let waits = engine().prepare(waits, LIMITS).await.unwrap();
    let breaks = engine().prepare(&format!("async function lambda() {{ {BREAK} }}"), LIMITS).await.unwrap();
    let exhausts = engine()
        .prepare("async function lambda() { while (true) 'x'.repeat(1e6).split('') }", LIMITS)
        .await
        .unwrap();

    let gate = Arc::new(Semaphore::new(0));
    let slots = engine().free_slots();
    let neighbours: Vec<_> = (0..20)
        .map(|n| {
            let (waits, host) = (waits.clone(), Arc::new(Gate(Arc::clone(&gate))));
            tokio::spawn(async move { engine().run(&waits, call_of(&n.to_string(), PATIENCE, host)).await })
        })
        .collect();
    while engine().free_slots() > slots - 20 {
        tokio::task::yield_now().await;
    }
    for _ in 0..10 {
        let report = engine().run(&breaks, call("1")).await.unwrap();
        assert_eq!(failure(&report).kind, FailureKind::Crashed);
        let timeout = std::time::Duration::from_millis(20);
        let report =
            engine().run(&exhausts, call_of("1", timeout, Arc::new(chatfn_engine::NoHost))).await.unwrap();
        assert_eq!(failure(&report).kind, FailureKind::Timeout);
    }
    gate.add_permits(20);
    for (n, neighbour) in neighbours.into_iter().enumerate() {
        let report = neighbour.await.unwrap().unwrap();
        assert_eq!(returned(&report), serde_json::json!(["before", n]));
    }
    assert_eq!(engine().free_slots(), slots, "every slot is free again");
}

/// A host whose operation panics is a bug of the platform. It must not be one of the engine as well.
struct Broken;

impl Host for Broken {
    fn start(&self, _: HostOp) -> BoxFuture<'static, Result<OpResult, OpError>> {
        Box::pin(async { panic!("a bug in a host") })
    }
}

#[tokio::test]
async fn a_panic_of_the_host_leaves_the_slot_clean() {
    let slots = engine().free_slots();
    let prepared =
        engine().prepare("async function lambda() { await fetch('https://a.test') }", LIMITS).await.unwrap();
    let call = call_of("1", PATIENCE, Arc::new(Broken));
    let function = prepared.clone();
    let run = tokio::spawn(async move { engine().run(&function, call).await });
    assert!(run.await.unwrap_err().is_panic());
    assert_eq!(engine().free_slots(), slots);
}
