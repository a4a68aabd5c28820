//! A lambda never has more memory than its call allows, however it asks for it.

use std::sync::Arc;
use std::time::Duration;

use chatfn_engine::{Call, FailureKind, NoHost};

use crate::support::{PATIENCE, Slot, call, call_of, failure, returned};

/// Little more than the image.
const LIMIT: usize = 10 << 20;

fn tight() -> Call {
    Call { memory_bytes: LIMIT, ..call_of("null", PATIENCE, Arc::new(NoHost)) }
}

async fn bombs(bodies: &[&str]) {
    let slot = Slot::new().await;
    for body in bodies {
        let report = slot.call_fails(body, tight(), FailureKind::OutOfMemory).await;
        assert!(report.peak_memory_bytes <= LIMIT, "{body}: {}", report.peak_memory_bytes);
        let limit = format!("{} MiB", LIMIT >> 20);
        assert!(failure(&report).message.contains(&limit), "{body}: {:?}", failure(&report));
    }
}

#[tokio::test]
async fn bombs_of_arrays_and_objects() {
    bombs(&[
        "const all = []; while (true) all.push(new Array(1e4).fill(all.length))",
        "const all = []; while (true) all.push([all.length, [1, 2, 3]])",
        "return new Array(2 ** 32 - 1).fill(0)",
        "return Array.from({ length: 1e9 })",
        "return [new Array(1e5).fill(0)].concat(...new Array(1e4).fill(new Array(1e5).fill(0)))",
        "const it = {}; for (let n = 0; ; n++) it['key' + n] = n",
        "let it = {}; while (true) it = Object.create(it)",
        "let it = {}; while (true) it = new Proxy(it, {})",
        "const all = []; while (true) all.push(new Date())",
        "const one = new Array(1e4).fill({ n: 1 }); const all = []; while (true) all.push(structuredClone(one))",
    ])
    .await;
}

#[tokio::test]
async fn bombs_of_text() {
    bombs(&[
        "const all = []; while (true) all.push('x'.repeat(1e5) + all.length)",
        "const all = []; while (true) all.push(('x'.repeat(1e5) + all.length).split('').join('y'))",
        // Concatenations are kept as trees until somebody looks.
        "let text = 'x'; while (true) { text += text; text.charCodeAt(0) }",
        "return 'x'.repeat(2 ** 29)",
        "return 'x'.padStart(2 ** 29)",
        "return 'a'.repeat(1e6).replace(/a/g, 'b'.repeat(1e4))",
        "return [...'x'.repeat(1e6).matchAll(/x/g)]",
        "return /^(?:a|ab)*$/.test('a'.repeat(1e6))",
        "return JSON.parse('[' + '1,'.repeat(2e6) + '1]')",
        "let it = 'x'.repeat(100); for (let n = 0; n < 30; n++) it = [it, it]; return it",
        "const all = []; while (true) all.push(Symbol('s' + all.length))",
    ])
    .await;
}

#[tokio::test]
async fn bombs_of_bytes() {
    bombs(&[
        "const all = []; while (true) all.push(new Uint8Array(1e6).fill(1))",
        "const all = []; while (true) all.push(new Float64Array(10))",
        "return new ArrayBuffer(1e9)",
        "return new SharedArrayBuffer(2 ** 29)",
        "const it = new ArrayBuffer(8, { maxByteLength: 2 ** 30 }); it.resize(2 ** 29)",
        "const text = 'x'.repeat(1e6); const all = []; while (true) all.push(new TextEncoder().encode(text))",
    ])
    .await;
}

#[tokio::test]
async fn bombs_of_collections() {
    bombs(&[
        "const all = new Map(); for (let n = 0; ; n++) all.set(n, 'value ' + n)",
        "const all = new Set(); for (let n = 0; ; n++) all.add({ n })",
        "const all = []; const weak = new WeakMap(); while (true) { const key = {}; all.push(key); weak.set(key, 1) }",
        "const all = []; while (true) all.push(new WeakRef({}))",
        "const registry = new FinalizationRegistry(() => {}); const all = []; while (true) { const it = {}; all.push(it); registry.register(it, 1) }",
        "const headers = new Headers(); for (let n = 0; ; n++) headers.append('x', 'value ' + n)",
        "const params = new URLSearchParams(); for (let n = 0; ; n++) params.append('x', 'value ' + n)",
        "for (let n = 0; ; n++) console.count('label '.repeat(1000) + n)",
    ])
    .await;
}

#[tokio::test]
async fn bombs_of_code_in_waiting() {
    bombs(&[
        "let f = () => 0; while (true) { const g = f; f = () => g }",
        "let f = () => 0; while (true) f = f.bind(null, 1)",
        "function* one() { yield 1 } const all = []; while (true) { const it = one(); it.next(); all.push(it) }",
        "const all = []; while (true) all.push(Promise.resolve(all.length))",
        "async function deeper() { await null; return deeper() } return deeper()",
        "let error = new Error('x'); while (true) error = new Error('y', { cause: error })",
    ])
    .await;
}

/// A job that finds no memory settles nothing, so a lambda that makes nothing but jobs goes on without them if something
/// smaller still fits. Where things happen to lie that is so at one limit in a dozen, and there are several.
#[tokio::test]
async fn a_bomb_of_jobs() {
    let slot = Slot::new().await;
    let source = "async function lambda() { while (true) Promise.resolve().then(() => {}) }";
    let mut ends = Vec::new();
    for limit in [LIMIT, LIMIT + (256 << 10), LIMIT + (512 << 10)] {
        let call = Call { memory_bytes: limit, ..call_of("null", Duration::from_secs(2), Arc::new(NoHost)) };
        let report = slot.run(source, call).await;
        assert!(report.peak_memory_bytes <= limit, "{}", report.peak_memory_bytes);
        ends.push(failure(&report).kind);
    }
    assert!(ends.contains(&FailureKind::OutOfMemory), "{ends:?}");
    assert!(
        ends.iter().all(|end| matches!(end, FailureKind::OutOfMemory | FailureKind::Timeout)),
        "{ends:?}"
    );
}

#[tokio::test]
async fn the_end_of_memory_can_be_caught_and_lived_with() {
    let slot = Slot::new().await;
    let source = "async function lambda() {
      let all = [];
      try { while (true) all.push(new Array(1e4).fill(0)) } catch (error) { all = null; return [error.name, 'x'.repeat(1e5).length] }
    }";
    let report = slot.run(source, tight()).await;
    assert_eq!(returned(&report), serde_json::json!(["InternalError", 100_000]));
    assert!(report.peak_memory_bytes <= LIMIT);
}

#[tokio::test]
async fn an_error_that_only_says_so_is_not_the_end_of_memory() {
    let slot = Slot::new().await;
    for body in ["throw new InternalError('out of memory')", "throw null"] {
        slot.fails(body, FailureKind::Thrown).await;
    }
}

#[tokio::test]
async fn each_call_has_a_limit_of_its_own() {
    let slot = Slot::new().await;
    let source = "async function lambda() { return new Uint8Array(24e6).length }";
    assert_eq!(failure(&slot.run(source, tight()).await).kind, FailureKind::OutOfMemory);
    assert_eq!(returned(&slot.run(source, call("null")).await), 24_000_000);
    let none = Call { memory_bytes: 1, ..tight() };
    assert_eq!(failure(&slot.run(source, none).await).kind, FailureKind::OutOfMemory, "not even the engine");
}

#[tokio::test]
async fn an_input_that_does_not_fit_is_the_calls_end_alone() {
    let slot = Slot::new().await;
    let input = format!("\"{}\"", "x".repeat(LIMIT));
    let call = Call { input_json: input.into(), ..tight() };
    let report = slot.run("async function lambda(input) { return input.length }", call).await;
    assert_eq!(failure(&report).kind, FailureKind::OutOfMemory);
}
