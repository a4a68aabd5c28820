//! A run ends at its deadline, whatever it does.

use std::time::Duration;

use chatfn_engine::{PrepareError, PrepareLimits};

use crate::support::{LIMITS, SHORT, Slot, engine};

async fn endless(bodies: &[&str]) {
    let slot = Slot::new().await;
    for body in bodies {
        slot.endless(body).await;
    }
}

#[tokio::test]
async fn loops() {
    endless(&[
        "while (true) {}",
        "while (true) { try { null.x } catch { continue } finally { continue } }",
        "const key = Symbol(); for (const it of { [Symbol.iterator]: () => ({ next: () => ({ done: false, key }) }) });",
        "const map = new Map([[1, 1]]); map.forEach((_, key) => { map.delete(key); map.set(key + 1, 1) })",
        "function* all() { while (true) yield 1 } for (const _ of all());",
        "Error.prepareStackTrace = () => { while (true) {} }; return undefined.x",
    ])
    .await;
}

#[tokio::test]
async fn built_in_functions_that_never_return_to_javascript() {
    endless(&[
        "while (true) new Array(1e6).fill(0).join()",
        "while (true) 'x'.repeat(1e6).split('')",
        "const text = 'a'.repeat(1e6); while (true) text.indexOf('a'.repeat(5e5) + 'b')",
        "while (true) JSON.stringify(new Array(1e5).fill({ a: 'b' }))",
        "return [new Array(1e8)].concat(new Array(1e8))",
        "return new Array(2 ** 32 - 1).join('xx')",
        "return Array.prototype.includes.call({ length: 2 ** 53 - 1 }, 1)",
        "const it = []; it.length = 2 ** 32 - 1; it.forEach(() => {})",
        "while (true) new Uint8Array(8e6).fill(7)",
        "while (true) '\\u0344'.repeat(1e5).normalize('NFKD')",
        "while (true) 'ß'.repeat(1e5).localeCompare('ß'.repeat(1e5))",
    ])
    .await;
}

#[tokio::test]
async fn regular_expressions() {
    endless(&[
        "return /^(a+)+$/.test('a'.repeat(60) + '!')",
        "return /(x+x+)+y/.test('x'.repeat(40))",
        "return 'a'.repeat(5e4).match(/.*.*=.*/)",
        "return /(.*)*x/.test('a'.repeat(1e5))",
        "return new RegExp('a?'.repeat(3e4) + 'a'.repeat(3e4)).test('a'.repeat(3e4))",
    ])
    .await;
}

#[tokio::test]
async fn large_numbers() {
    endless(&[
        "let n = 3n; while (true) n = n * n % (2n ** 20000n) + 3n",
        "const n = 10n ** 200000n; while (true) String(n)",
        "while (true) BigInt('9'.repeat(200000))",
    ])
    .await;
}

#[tokio::test]
async fn code_that_built_in_functions_call() {
    endless(&[
        "new Array(1e5).fill(0).map((_, i) => i).sort(() => { while (true) {} })",
        "while (true) new Array(1e5).fill(0).map((_, i) => i).sort(() => Math.random() - 0.5)",
        "return JSON.stringify({ get x() { while (true) {} } })",
        "return JSON.stringify({ toJSON() { while (true) {} } })",
        "return JSON.parse('[1]', () => { while (true) {} })",
        "return `${{ toString() { while (true) {} } }}`",
        "return +{ [Symbol.toPrimitive]() { while (true) {} } }",
        "return 'x'.replace(/x/, () => { while (true) {} })",
        "const proxy = new Proxy({}, { get: () => proxy }); while (true) proxy.x.y.z",
        "const proxy = new Proxy({}, { getPrototypeOf: () => proxy }); return proxy instanceof Array",
        "const proxy = new Proxy([], { get: (_, key) => (key === 'length' ? 2 ** 53 - 1 : 0) }); return Array.prototype.indexOf.call(proxy, 1)",
        "new Set([1]).union({ size: 1, has: () => true, keys: () => ({ next: () => ({ done: false, value: 1 }) }) })",
        "return Array.from({ [Symbol.iterator]: () => ({ next: () => ({ value: undefined }) }) }, () => { while (true) {} })",
    ])
    .await;
}

#[tokio::test]
async fn top_level_code_has_a_deadline_as_well() {
    let short = PrepareLimits { timeout: SHORT, ..LIMITS };
    for code in ["while (true) {}", "/^(a+)+$/.test('a'.repeat(60) + '!')", "for (;;) await null"] {
        let source = format!("{code}\nexport async function lambda() {{}}");
        let error = engine().prepare(&source, short).await.unwrap_err();
        assert!(matches!(error, PrepareError::Timeout { limit: SHORT }), "{code}: {error:?}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_busy_run_leaves_time_for_others_on_its_thread() {
    let source = "async function lambda() { while (true) {} }";
    let prepared = engine().prepare(source, LIMITS).await.unwrap();
    let call =
        crate::support::call_of("1", Duration::from_secs(3600), std::sync::Arc::new(chatfn_engine::NoHost));
    let busy = tokio::spawn(async move { engine().run(&prepared, call).await });
    // Each needs its turn on the only thread, which the run gives up at every tick.
    for _ in 0..20 {
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!busy.is_finished());
    busy.abort();
    assert!(busy.await.unwrap_err().is_cancelled());
}
