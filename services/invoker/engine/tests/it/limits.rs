//! What a lambda cannot do to the platform.

use std::{sync::Arc, time::Duration};

use chatfn_engine::{FailureKind, Host, HostOp, LogLimits, NoHost, OpError, OpResult};
use futures_util::future::BoxFuture;

use crate::support::{PATIENCE, call, call_of, engine, fails, failure, messages, returned, run};

const SHORT: Duration = Duration::from_millis(100);

#[tokio::test]
async fn endless_work_ends_at_the_deadline() {
    for body in [
        "while (true) {}",
        "return /^(a+)+$/.test('a'.repeat(60) + '!')",
        "while (true) new Array(1e6).fill(0).join()",
        "let n = 3n; while (true) n = n * n % (2n ** 20000n) + 3n",
        "while (true) 'x'.repeat(1e6).split('')",
        "new Array(1e6).fill(0).map((_, i) => i).sort(() => { while (true) {} })",
        "while (true) JSON.stringify(new Array(1e5).fill({ a: 'b' }))",
        "const p = new Proxy({}, { get: () => p.x }); while (true) { try { p.x } catch {} }",
        "while (true) await null",
        "while (true) await new Promise((resolve) => setTimeout(resolve, 0))",
        "await new Promise((resolve) => setTimeout(resolve, 1e9))",
    ] {
        fails(body, SHORT, FailureKind::Timeout).await;
    }
}

#[tokio::test]
async fn what_can_never_settle_fails_at_once() {
    let report = fails("return new Promise(() => {})", PATIENCE, FailureKind::NeverSettles).await;
    assert!(report.timing.total < PATIENCE / 2, "not at the deadline: {:?}", report.timing.total);
    let report = run("function lambda(input, callback) {}", call("1")).await;
    assert!(failure(&report).message.contains("callback"), "{:?}", failure(&report));
}

#[tokio::test]
async fn memory_is_bounded() {
    for body in [
        "const all = []; while (true) all.push(new Array(1e4).fill(all.length))",
        "const all = []; while (true) all.push(('x'.repeat(1e5) + all.length).split('').join('y'))",
        "const all = []; while (true) all.push(new Uint8Array(1e6).fill(1))",
        "const all = new Map(); for (let n = 0; ; n++) all.set(n, 'value ' + n)",
    ] {
        let report = fails(body, PATIENCE, FailureKind::OutOfMemory).await;
        assert!(report.peak_memory_bytes <= 64 << 20, "{}", report.peak_memory_bytes);
    }
}

#[tokio::test]
async fn recursion_is_an_error_that_can_be_caught() {
    let source = "function deeper(n) { return deeper(n + 1) + 1 }
      async function lambda() { try { return deeper(0) } catch (error) { return error.name } }";
    assert_eq!(returned(&run(source, call("1")).await), "RangeError");
    let source =
        "async function lambda() { return JSON.parse('['.repeat(20000) + ']'.repeat(20000)).length }";
    let report = run(source, call("1")).await;
    assert!(
        !matches!(&report.outcome, chatfn_engine::Outcome::Failed(it) if it.kind == FailureKind::Crashed)
    );
}

#[tokio::test]
async fn results_must_be_json_of_bounded_size() {
    fails("return 'x'.repeat(2e6)", PATIENCE, FailureKind::ResultTooLarge).await;
    fails("const it = {}; it.it = it; return it", PATIENCE, FailureKind::ResultNotJson).await;
    fails("return 10n", PATIENCE, FailureKind::ResultNotJson).await;
    fails("return () => 1", PATIENCE, FailureKind::ResultNotJson).await;
    fails("return { toJSON() { throw new Error('no') } }", PATIENCE, FailureKind::ResultNotJson).await;
}

#[tokio::test]
async fn logs_are_bounded_and_say_so() {
    let report = fails("for (let n = 0; ; n++) console.log('line ' + n)", SHORT, FailureKind::Timeout).await;
    assert!(report.logs_truncated);
    assert_eq!(report.logs.len(), 101, "100 lines and the marker");
    assert_eq!(report.logs[99].message, "line 98");

    let source = "async function lambda() { console.log('ä'.repeat(100)); console.log('after') }";
    let mut limited = call("1");
    limited.log_limits = LogLimits { entries: 100, bytes: 51 };
    let report = run(source, limited).await;
    assert!(report.logs_truncated);
    assert_eq!(messages(&report.logs)[0], "ä".repeat(25), "cut between characters");
}

/// Never answers, and counts how many operations are under way.
struct Silent(Arc<()>);

impl Host for Silent {
    fn start(&self, _: HostOp) -> BoxFuture<'static, Result<OpResult, OpError>> {
        let under_way = Arc::clone(&self.0);
        Box::pin(async move {
            let _under_way = under_way;
            std::future::pending().await
        })
    }
}

#[tokio::test]
async fn operations_are_bounded_and_end_with_the_run() {
    let under_way = Arc::new(());
    let source = "async function lambda() {
      let refused = 0;
      for (let n = 0; n < 100; n++) fetch('https://crm.example.com').catch(() => refused++);
      await null; await null;
      console.log('refused', refused);
      await new Promise((resolve) => setTimeout(resolve, 1e9));
    }";
    let report = run(source, call_of("1", SHORT, Arc::new(Silent(Arc::clone(&under_way))))).await;
    assert_eq!(failure(&report).kind, FailureKind::Timeout);
    assert!(messages(&report.logs).contains(&"refused 36"), "{:?}", messages(&report.logs));
    assert_eq!(Arc::strong_count(&under_way), 1, "nothing is under way any more");
}

#[tokio::test]
async fn dropping_a_run_drops_its_operations() {
    let under_way = Arc::new(());
    let source = "async function lambda() { await fetch('https://crm.example.com') }";
    let prepared = engine().prepare(source, crate::support::LIMITS).await.unwrap();
    let host = Arc::new(Silent(Arc::clone(&under_way)));
    let run = tokio::spawn(async move { engine().run(&prepared, call_of("1", PATIENCE, host)).await });
    // The host itself and its operation hold one each.
    while Arc::strong_count(&under_way) < 3 {
        tokio::task::yield_now().await;
    }
    run.abort();
    assert!(run.await.unwrap_err().is_cancelled());
    assert_eq!(Arc::strong_count(&under_way), 1);
}

#[tokio::test]
async fn timers_are_bounded() {
    let source = "async function lambda() { for (let n = 0; n < 1e6; n++) setTimeout(() => {}, 1e6) }";
    let report = run(source, call_of("1", PATIENCE, Arc::new(NoHost))).await;
    assert_eq!(failure(&report).kind, FailureKind::Thrown, "{:?}", failure(&report));
}
