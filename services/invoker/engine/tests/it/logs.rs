//! Logs: bounded, whatever is logged; kept, however the run ends.

use std::sync::Arc;

use chatfn_engine::{Call, FailureKind, LogLevel, LogLimits, NoHost};

use crate::support::{Slot, call, messages, returned};

const MARKER: &str = "log limit reached";

#[tokio::test]
async fn a_flood_is_cut_and_says_so() {
    let slot = Slot::new().await;
    for flood in ["for (let n = 0; ; n++) console.log('line ' + n)", "while (true) console.error('')"] {
        let report = slot.endless_after(flood, Arc::new(NoHost), MARKER).await;
        assert!(report.logs_truncated);
        assert_eq!(report.logs.len(), 101, "100 lines and the marker");
        assert!(report.logs[100].message.contains(MARKER), "{:?}", report.logs[100]);
    }
}

#[tokio::test]
async fn a_giant_line_is_cut_between_characters() {
    let slot = Slot::new().await;
    let source = "async function lambda() { console.log('ä'.repeat(5e6)); console.log('after') }";
    let report = slot.run(source, call("1")).await;
    assert!(report.logs_truncated);
    assert_eq!(report.logs[0].message, "ä".repeat(32 << 10), "64 KiB of it");
    assert!(report.logs.len() == 2 && report.logs[1].message.contains(MARKER), "{:?}", report.logs[1]);

    let limited = Call { log_limits: LogLimits { entries: 100, bytes: 51 }, ..call("1") };
    let report = slot.run(source, limited).await;
    assert_eq!(messages(&report.logs)[0], "ä".repeat(25));
}

#[tokio::test]
async fn what_is_shown_of_a_value_is_bounded() {
    let slot = Slot::new().await;
    for value in [
        // Wide and deep: ten thousand million texts in all.
        "const of = (it) => new Array(100).fill(it); const value = of(of(of(of(of('x'.repeat(1000))))))",
        "const of = (it) => Object.fromEntries(new Array(100).fill(0).map((_, i) => ['key'.repeat(100) + i, it])); const value = of(of(of(of(1))))",
        "const of = (it) => new Map(new Array(100).fill(0).map((_, i) => [{ i }, it])); const value = of(of(of(of(1))))",
        "let value = []; for (let n = 0; n < 1e4; n++) value = [value]",
        "const value = new Array(1e8)",
        "const value = Object.fromEntries(new Array(1e4).fill(0).map((_, i) => [i, i]))",
        "const value = {}; value.value = value",
    ] {
        let report = slot.run(&format!("async function lambda() {{ {value}; console.log(value, 'and', value); console.log('text', value); return 'on it goes' }}"), call("1")).await;
        assert_eq!(returned(&report), "on it goes", "{value}");
        assert!(!report.logs[0].message.contains("cannot be shown"), "{value}");
        assert!(report.peak_memory_bytes < 32 << 20, "{value}: {}", report.peak_memory_bytes);
    }
}

#[tokio::test]
async fn showing_a_value_as_text_runs_none_of_its_code() {
    let slot = Slot::new().await;
    let source = "async function lambda() {
      const bomb = () => { throw new Error('run') };
      console.log({ get x() { bomb() } }, { toString: bomb, toJSON: bomb, inspect: bomb, valueOf: bomb }, { [Symbol.toPrimitive]: bomb });
      console.log('%s %o', { toString: bomb }, Object.defineProperty({}, 'constructor', { get: bomb }));
      console.log(new (class { get [Symbol.toStringTag]() { bomb() } })());
    }";
    let report = slot.run(source, call("1")).await;
    assert_eq!(report.logs.len(), 3);
    for line in messages(&report.logs) {
        assert!(!line.contains("cannot be shown") && !line.contains("run"), "{line}");
    }
}

#[tokio::test]
async fn what_cannot_be_shown_costs_nothing_but_its_place() {
    let slot = Slot::new().await;
    let source = "async function lambda() {
      const bad = new Proxy({}, { ownKeys() { throw 1 } });
      const { proxy, revoke } = Proxy.revocable({}, {}); revoke();
      const called = Proxy.revocable(() => {}, {}); called.revoke();
      const it = {}; it.it = it;
      console.log('order', 7, bad, 'paid');
      console.log({ order: 7, bad, list: [proxy, 1], called: called.proxy });
      console.log('%s has %d of %i, %f: %j', 'it', Symbol('x'), Symbol('x'), Symbol('x'), it, 'and', { a: 1 });
      console.log('%j, %j, %s and %d', { toJSON() { throw 1 } }, 1n, bad, { valueOf() { throw 1 } });
      console.log('%f of', { toString() { throw 1 } }, { [Symbol.for('nodejs.util.inspect.custom')]() { throw 1 } }, 'more');
      console.dir(bad); console.trace(bad);
    }";
    let report = slot.run(source, call("1")).await;
    assert_eq!(returned(&report), serde_json::json!(null));
    let unshown = "[a value that cannot be shown]";
    let lines = messages(&report.logs);
    assert_eq!(lines[0], format!("order 7 {unshown} paid"));
    for part in ["order: 7".to_owned(), format!("bad: {unshown}"), format!("[ {unshown}, 1 ]")] {
        assert!(lines[1].contains(&part), "{}", lines[1]);
    }
    assert_eq!(lines[2], "it has NaN of NaN, NaN: [Circular] and { a: 1 }");
    assert_eq!(lines[3], format!("{unshown}, {unshown}, {unshown} and NaN"));
    assert_eq!(lines[4], format!("{unshown} of {unshown} more"));
    assert_eq!(lines[5], unshown);
    assert!(lines[6].starts_with(&format!("Trace: {unshown}\n")), "{}", lines[6]);
}

#[tokio::test]
async fn a_log_within_a_log_comes_first() {
    let slot = Slot::new().await;
    let source = "async function lambda() { console.log(`outer ${{ toString() { console.warn('inner'); return 'x' } }}`) }";
    let report = slot.run(source, call("1")).await;
    assert_eq!(messages(&report.logs), ["inner", "outer x"]);
    assert_eq!(report.logs[0].level, LogLevel::Warn);
}

#[tokio::test]
async fn text_that_is_no_text_is_replaced() {
    let slot = Slot::new().await;
    let source = "async function lambda() { console.log('a\\ud800b\\udfff\\u0000c\\u001b[0m') }";
    let report = slot.run(source, call("1")).await;
    assert!(!report.logs_truncated);
    let line = &report.logs[0].message;
    assert!(line.starts_with("a\u{fffd}") && line.ends_with("\0c\u{1b}[0m"), "{line:?}");

    // Replaced it is longer than it was, and still within the limit.
    let limited = Call { log_limits: LogLimits { entries: 9, bytes: 40 }, ..call("1") };
    let report = slot.run("async function lambda() { console.log('\\ud800'.repeat(13)) }", limited).await;
    assert!(report.logs[0].message.len() <= 40 && report.logs_truncated, "{:?}", report.logs);
}

#[tokio::test]
async fn lines_survive_every_end() {
    let slot = Slot::new().await;
    for (body, kind) in [
        ("const all = []; while (true) all.push(new Array(1e5).fill(0))", FailureKind::OutOfMemory),
        ("JSON.parse('['.repeat(1e6))", FailureKind::StackOverflow),
        ("throw new Error('x')", FailureKind::Thrown),
        ("await new Promise(() => {})", FailureKind::NeverSettles),
        ("return 10n", FailureKind::ResultNotJson),
        ("return 'x'.repeat(2e6)", FailureKind::ResultTooLarge),
    ] {
        let body = format!("console.warn('before'); {body}");
        let report = slot.fails(&body, kind).await;
        assert_eq!(messages(&report.logs), ["started", "before"], "{kind:?}");
    }
    let body = "console.warn('before'); while (true) {}";
    let report = slot.endless_after(body, Arc::new(NoHost), "before").await;
    assert_eq!(messages(&report.logs), ["started", "before"]);
}

#[tokio::test]
async fn what_follows_a_string_is_kept_for_programs() {
    let slot = Slot::new().await;
    let source = "async function lambda() {
      console.info('paid', { orderId: 7 }, 'twice', [1n]);
      console.info('only', 'text');
      console.info({ first: 'is no text' });
      const it = {}; it.it = it; console.warn('a cycle', it);
      console.error('failed', Object.assign(new RangeError('no'), { code: 'E' }));
    }";
    let report = slot.run(source, call("1")).await;
    let extras: Vec<_> = report.logs.iter().map(|entry| entry.extras_json.as_str()).collect();
    assert_eq!(extras[..4], [r#"[{"orderId":7},"twice",["1"]]"#, "", "", ""]);
    assert!(report.logs[0].message.starts_with("paid") && report.logs[0].message.contains("orderId"));
    let error: serde_json::Value = serde_json::from_str(extras[4]).unwrap();
    assert_eq!((&error[0]["name"], &error[0]["message"]), (&"RangeError".into(), &"no".into()));
    assert_eq!(error[0]["code"], "E");
    assert!(error[0]["stack"].as_str().unwrap().contains("lambda.js:6:"), "{error}");
}

#[tokio::test]
async fn extras_count_towards_the_limit() {
    let slot = Slot::new().await;
    let source = "async function lambda() {
      for (let n = 0; n < 3; n++) console.log('line', { text: 'x'.repeat(15_000) });
    }";
    let report = slot.run(source, call("1")).await;
    assert!(
        report.logs_truncated,
        "three lines of 15,000 characters are less, with their extras they are more"
    );
    let bytes: usize = report.logs.iter().map(|entry| entry.message.len() + entry.extras_json.len()).sum();
    assert!(bytes <= (64 << 10) + 200, "{bytes}");
}
