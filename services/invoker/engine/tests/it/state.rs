//! Nothing of a run is left for the next one, of the same function or of another account's.

use std::collections::HashSet;

use chatfn_engine::{Engine, Prepared};
use serde_json::json;

use crate::support::{LIMITS, call, engine, returned};

async fn thrice(engine: &Engine, prepared: &Prepared) -> Vec<serde_json::Value> {
    let mut all = Vec::new();
    for _ in 0..3 {
        all.push(returned(&engine.run(prepared, call("1")).await.unwrap()));
    }
    all
}

#[tokio::test]
async fn every_run_starts_where_top_level_code_ended() {
    for (source, result) in [
        ("let runs = 0; async function lambda() { return ++runs }", json!(1)),
        (
            "const cache = new Map([['a', 1]]); async function lambda() { cache.set(cache.size, 1); return cache.size }",
            json!(2),
        ),
        ("async function lambda() { return globalThis.leak = (globalThis.leak ?? 0) + 1 }", json!(1)),
        ("async function lambda() { return process.env.LEAK = (process.env.LEAK ?? '') + 'x' }", json!("x")),
        ("async function lambda() { return (console.leak = (console.leak ?? 0) + 1) }", json!(1)),
        ("const re = /a/g; async function lambda() { re.test('aa'); return re.lastIndex }", json!(1)),
        (
            "async function lambda() { const key = Symbol.for('leak'); const had = key in Object; Object[key] = 1; return had }",
            json!(false),
        ),
        (
            "async function lambda() { Object.prototype.leak = ({}).leak === undefined ? 1 : 2; return ({}).leak }",
            json!(1),
        ),
        (
            "async function lambda() { const url = require('url'); url.leak = (url.leak ?? 0) + 1; return url.leak }",
            json!(1),
        ),
        ("function lambda() { lambda.runs = (lambda.runs ?? 0) + 1; return lambda.runs }", json!(1)),
        (
            "let once = (() => { let made; return () => (made ??= Symbol()) })(); const at = once(); async function lambda() { return once() === at }",
            json!(true),
        ),
        (
            "let ref = new WeakRef({}); async function lambda() { const was = typeof ref; ref = 1; return was }",
            json!("object"),
        ),
        (
            "class It { static #runs = 0; static run() { return ++It.#runs } } async function lambda() { return It.run() }",
            json!(1),
        ),
        (
            "function* all() { let n = 0; while (true) yield n++ } const it = all(); async function lambda() { return it.next().value }",
            json!(0),
        ),
        (
            "let wait = new Promise((resolve) => { globalThis.go = resolve }); async function lambda() { go('now'); return wait }",
            json!("now"),
        ),
    ] {
        let prepared = engine().prepare(source, LIMITS).await.unwrap();
        assert_eq!(thrice(engine(), &prepared).await, [result.clone(), result.clone(), result], "{source}");
    }
}

#[tokio::test]
async fn randomness_and_time_are_each_runs_own() {
    let source = "async function lambda() {
      return [Math.random(), crypto.randomUUID(), [...crypto.getRandomValues(new Uint8Array(16))].join()];
    }";
    let prepared = engine().prepare(source, LIMITS).await.unwrap();
    let mut seen = HashSet::new();
    for _ in 0..20 {
        for drawn in returned(&engine().run(&prepared, call("1")).await.unwrap()).as_array().unwrap() {
            assert!(seen.insert(drawn.to_string()), "{drawn} was drawn before");
        }
    }

    let source = "async function lambda() { return [Date.now(), performance.now()] }";
    let prepared = engine().prepare(source, LIMITS).await.unwrap();
    let mut last = 1.7e12;
    for answer in thrice(engine(), &prepared).await {
        let now = answer[0].as_f64().unwrap();
        assert!(now >= last, "the clock went on: {now} after {last}");
        assert!(answer[1].as_f64().unwrap() < 60_000.0, "and a run's own clock began with it");
        last = now;
    }
}

#[tokio::test]
async fn functions_of_other_accounts_see_nothing_of_it() {
    let slot = crate::support::Slot::new().await;
    // `Slot::run` lets a witness look after each.
    for source in [
        "Object.prototype.leak = 1; Array.prototype.map = () => 'hijacked'; async function lambda() { return 'top level' }",
        "async function lambda() { Object.prototype.leak = 1; Array.prototype.map = String.prototype.split = JSON.stringify = null; }",
        "async function lambda() { Promise.prototype.then = globalThis.setTimeout = console.log = undefined; }",
        "async function lambda() { for (const key of Reflect.ownKeys(globalThis)) delete globalThis[key] }",
        "async function lambda() { process.env.SECRET = 'x'; globalThis.secret = 'x'; Symbol.for('x'); }",
        "async function lambda() { Object.freeze(Object.prototype); Object.freeze(globalThis); Object.setPrototypeOf(globalThis, null) }",
    ] {
        slot.run(source, call("1")).await;
    }
}

#[tokio::test]
async fn the_environment_is_the_calls_own() {
    let source =
        "async function lambda() { const seen = { ...process.env }; process.env.MORE = 1; return seen }";
    let prepared = engine().prepare(source, LIMITS).await.unwrap();
    for (env, seen) in [(r#"{"KEY": "of a"}"#, json!({"KEY": "of a"})), ("{}", json!({}))] {
        let call = chatfn_engine::Call { env_json: env.into(), ..call("1") };
        assert_eq!(returned(&engine().run(&prepared, call).await.unwrap()), seen);
    }
}
