//! Promises: a run ends when its own is settled, when it cannot be settled any more, or at the deadline.

use chatfn_engine::{FailureKind, LogLevel};
use serde_json::json;

use crate::support::{PATIENCE, Slot, call, failure, messages, returned};

#[tokio::test]
async fn what_can_never_settle_fails_at_once() {
    let slot = Slot::new().await;
    for body in [
        "return new Promise(() => {})",
        "await Promise.race([])",
        "return { then() {} }",
        "let wait = new Promise(() => {}); for (let n = 0; n < 100; n++) wait = wait.then(() => 1); await wait",
        "clearTimeout(setTimeout(() => {}, 1)); await new Promise(() => {})",
    ] {
        let report = slot.fails(body, FailureKind::NeverSettles).await;
        assert!(report.timing.total < PATIENCE / 2, "not at the deadline: {:?}", report.timing.total);
    }
    let report = slot.run("function lambda(input, callback) {}", call("1")).await;
    assert_eq!(failure(&report).kind, FailureKind::NeverSettles);
    assert!(failure(&report).message.contains("callback"), "{:?}", failure(&report));
}

#[tokio::test]
async fn a_callback_is_waited_for_wherever_it_is_kept() {
    let slot = Slot::new().await;
    let later = "(callback) => setTimeout(() => callback(null, 'called'), 1)";
    for source in [
        format!("const lambda = (...args) => {{ ({later})(args[1]) }}"),
        format!("function lambda(input, callback = () => {{}}) {{ ({later})(callback) }}"),
        format!("function lambda() {{ ({later})(arguments[1]) }}"),
        format!("const lambda = require('lodash').once((input, callback) => {{ ({later})(callback) }})"),
        format!("const lambda = ((...args) => {{ ({later})(args.at(-2)) }}).bind(null, 'bound')"),
        format!(
            "let kept; const lambda = (...args) => {{ kept = args; setTimeout(() => {{ ({later})(kept[1]) }}, 1) }}"
        ),
        "const lambda = (...args) => { Promise.resolve().then(() => args[1](null, 'called')) }".to_owned(),
        "const lambda = (...args) => { fetch('https://a.test').catch(() => args[1](null, 'called')) }"
            .to_owned(),
    ] {
        let report = slot.run(&source, call("1")).await;
        assert_eq!(returned(&report), json!("called"), "{source}");
        assert!(report.logs.is_empty(), "{source}: {:?}", messages(&report.logs));
    }
    let fails = "const lambda = (...args) => { setTimeout(() => args[1](new RangeError('no')), 1) }";
    assert_eq!(failure(&slot.run(fails, call("1")).await).name, "RangeError");

    // Nothing is left that could call it.
    for source in [
        "const lambda = (...args) => { globalThis.kept = args }",
        "const lambda = (...args) => { setTimeout(() => { if (args.length === 0) args[1](null, 'called') }, 1) }",
        "const lambda = (...args) => { fetch('https://a.test').catch(() => args.length) }",
    ] {
        let report = slot.run(source, call("1")).await;
        assert_eq!(returned(&report), json!(null), "{source}");
        assert!(report.logs.is_empty(), "{source}: {:?}", messages(&report.logs));
    }
}

#[tokio::test]
async fn a_function_that_did_not_keep_its_callback_ends_when_it_returns() {
    let slot = Slot::new().await;
    for head in [
        "function lambda(input)",
        "function lambda()",
        "const lambda = ({ payload }) =>",
        "const lambda = (...args) =>",
        "function lambda(input, callback = () => {})",
    ] {
        let source = format!(
            "{head} {{ fetch('https://a.test'); setTimeout(() => console.log('late'), 1); setInterval(() => {{}}, 1) }}"
        );
        let report = slot.run(&source, call("{}")).await;
        assert_eq!(returned(&report), json!(null), "{head}");
        let lines = messages(&report.logs);
        assert!(lines.len() == 1 && lines[0].contains("was still pending"), "{head}: {lines:?}");
    }
}

#[tokio::test]
async fn what_is_said_of_a_pending_request_holds_no_secrets() {
    let slot = Slot::new().await;
    for (url, shown) in [
        ("https://me:secret@a.test/path?key=secret#secret", "fetch GET https://a.test/path"),
        ("data:text/plain,secret", "fetch GET data:"),
    ] {
        let report = slot.run(&format!("function lambda() {{ fetch('{url}') }}"), call("{}")).await;
        let lines = messages(&report.logs);
        assert!(lines.len() == 1 && lines[0].starts_with(&format!("{shown} was still pending")), "{lines:?}");
    }
}

#[tokio::test]
async fn jobs_that_always_make_another_end_at_the_deadline() {
    let slot = Slot::new().await;
    for body in [
        "while (true) await null",
        "const again = () => { queueMicrotask(again) }; again(); await new Promise((resolve) => setTimeout(resolve, 0))",
        "const again = { then(resolve) { resolve(again) } }; return again",
        "const again = { then(resolve) { resolve(again) } }; await again",
        "async function* all() { while (true) yield 1 } for await (const _ of all());",
        "const again = async () => { await null; again() }; again(); await new Promise((resolve) => setTimeout(resolve, 0))",
    ] {
        slot.endless(body).await;
    }
}

#[tokio::test]
async fn a_thenable_settles_once() {
    let slot = Slot::new().await;
    assert_eq!(
        slot.returns("return { then(resolve, reject) { resolve(1); resolve(2); reject(3); throw 4 } }").await,
        1
    );
    let source = "function lambda(input, callback) { callback(null, 1); callback(null, 2); callback(new Error('late')); throw new Error('later') }";
    assert_eq!(returned(&slot.run(source, call("1")).await), 1);
}

#[tokio::test]
async fn rejections_that_nobody_handles_are_logged_and_end_nothing() {
    let slot = Slot::new().await;
    let source = "async function lambda() {
      Promise.reject(new TypeError('lost')); Promise.reject('handled').catch(() => {});
      for (let n = 0; n < 5000; n++) Promise.reject(n);
      await null; await null; return 'done';
    }";
    let report = slot.run(source, call("1")).await;
    assert_eq!(returned(&report), json!("done"));
    assert!(
        report.logs[0].message.contains("unhandled promise rejection: TypeError: lost"),
        "{:?}",
        report.logs[0]
    );
    assert_eq!(report.logs[0].level, LogLevel::Error);
    assert!(!messages(&report.logs).iter().any(|line| line.contains("handled'")), "one was handled");
    assert!(report.logs_truncated && report.logs.len() == 101, "a flood of them is a flood of lines");
}
