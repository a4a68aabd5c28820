//! Results: JSON of a bounded size, or a failure that says why not.

use chatfn_engine::{Call, FailureKind};
use serde_json::json;

use crate::support::{Slot, call, failure, returned};

#[tokio::test]
async fn a_result_has_a_most_of_bytes() {
    let slot = Slot::new().await;
    for body in [
        "return 'x'.repeat(2e6)",
        "return new Array(3e5).fill('abc')",
        "return { toJSON: () => 'x'.repeat(2e6) }",
        "return 'ä'.repeat(600000)",
    ] {
        let report = slot.fails(body, FailureKind::ResultTooLarge).await;
        assert!(failure(&report).message.contains("at most 1048576"), "{:?}", failure(&report));
    }
    let source = "async function lambda() { return 'x'.repeat(98) }";
    let exact = Call { result_bytes: 100, ..call("1") };
    assert_eq!(returned(&slot.run(source, exact.clone()).await), json!("x".repeat(98)));
    let less = Call { result_bytes: 99, ..exact };
    assert_eq!(failure(&slot.run(source, less).await).kind, FailureKind::ResultTooLarge);
}

#[tokio::test]
async fn what_json_cannot_hold_is_a_failure() {
    let slot = Slot::new().await;
    for (body, says) in [
        ("const it = {}; it.it = it; return it", "circular"),
        ("return 10n", "BigInt"),
        ("return [{ n: 10n }]", "BigInt"),
        ("return () => 1", "function"),
        ("return Symbol('x')", "symbol"),
        ("return { toJSON() { throw new Error('toJSON says no') } }", "toJSON says no"),
        ("return { get x() { throw new Error('getter says no') } }", "getter says no"),
        ("return new Proxy({}, { ownKeys() { throw new Error('proxy says no') } })", "proxy says no"),
    ] {
        let report = slot.fails(body, FailureKind::ResultNotJson).await;
        assert!(failure(&report).message.contains(says), "{body}: {:?}", failure(&report));
    }
}

#[tokio::test]
async fn what_json_can_hold_in_its_way_is_returned_so() {
    let slot = Slot::new().await;
    for (body, result) in [
        ("return undefined", json!(null)),
        (
            "return [NaN, Infinity, -0, undefined, () => 1, Symbol('x')]",
            json!([null, null, 0, null, null, null]),
        ),
        (
            "return { a: undefined, b: () => 1, c: new Date(0), d: new Map([[1, 2]]) }",
            json!({"c": "1970-01-01T00:00:00.000Z", "d": {}}),
        ),
        ("return { toJSON() { return this } }", json!({})),
        ("return 'a\\u0000b'", json!("a\0b")),
        ("return JSON.parse('{\"__proto__\": 1}')", json!({"__proto__": 1})),
    ] {
        assert_eq!(slot.returns(body).await, result, "{body}");
    }
    let lone = slot.run("async function lambda() { return { x: '\\ud800' } }", call("1")).await;
    let chatfn_engine::Outcome::Returned { json } = &lone.outcome else { panic!("{:?}", lone.outcome) };
    assert_eq!(json, r#"{"x":"\ud800"}"#, "well-formed UTF-8, whatever the string holds");
}

#[tokio::test]
async fn a_result_is_utf8_also_where_an_author_writes_its_json() {
    let slot = Slot::new().await;
    let source =
        r#"async function lambda() { return ['ä', JSON.rawJSON('"\ud800"'), JSON.rawJSON('"🦀"')] }"#;
    assert_eq!(returned(&slot.run(source, call("1")).await), json!(["ä", "\u{fffd}", "🦀"]));

    // Nor is anything else that a lambda says a fault of its sandbox.
    let body = "console.log('\\ud800', JSON.rawJSON('\"\\ud800\"')); console.log('text', { raw: JSON.rawJSON('\"\\ud800\"') });
      throw Object.assign(new Error('\\ud800'), { name: '\\ud800', stack: '\\ud800' })";
    slot.fails(body, FailureKind::Thrown).await;
}

#[tokio::test]
async fn writing_a_result_counts_towards_the_deadline() {
    let slot = Slot::new().await;
    for body in [
        "return { toJSON() { while (true) {} } }",
        "return { get x() { while (true) {} } }",
        "return new Array(1e9)",
    ] {
        slot.endless(body).await;
    }
}

#[tokio::test]
async fn whatever_is_thrown_is_told_within_bounds() {
    let slot = Slot::new().await;
    for (body, says) in [
        ("throw null", "null"),
        ("throw undefined", "undefined"),
        ("throw 'text'", "text"),
        ("throw 7n", "7n"),
        ("throw Symbol('x')", "Symbol(x)"),
        ("throw { code: 7 }", "{ code: 7 }"),
        ("throw { toString() { while (true) {} } }", "toString"),
        ("throw new Proxy(new Error('x'), { get() { throw 1 } })", "cannot be read"),
        ("throw class {}", "[Function"),
        ("const error = new Error('x'); error.cause = error; throw error", "x"),
        ("throw Object.assign(new Error('x'), { name: { toString() { throw 1 } } })", "cannot be read"),
    ] {
        let report = slot.fails(body, FailureKind::Thrown).await;
        assert!(failure(&report).message.contains(says), "{body}: {:?}", failure(&report));
    }
    let body =
        "throw Object.assign(new Error('m'.repeat(1e6)), { name: 'n'.repeat(1e6), stack: 's'.repeat(1e6) })";
    let report = slot.fails(body, FailureKind::Thrown).await;
    let failure = failure(&report);
    assert_eq!((failure.name.len(), failure.message.len(), failure.stack.len()), (256, 8 << 10, 16 << 10));
}
