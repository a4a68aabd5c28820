//! By how much lambdas that never end outlive their deadline.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chatfn_engine::{Call, Engine, FailureKind, NoHost, Outcome};
use serde_json::{Value, json};

use crate::measure::{input, median, milliseconds, prepare, rounded};

const DEADLINE: Duration = Duration::from_millis(50);

/// Each is busy for good, most of them inside of a built-in function that never returns to JavaScript.
const ENDLESS: [(&str, &str); 10] = [
    ("loop", "while (true) {}"),
    ("regex", "/^(a+)+$/.test('a'.repeat(60) + 'b')"),
    ("bigint", "let n = 3n; while (true) n *= n;"),
    ("sort", "while (true) Array.from({ length: 1e5 }, (_, i) => i).sort((a, b) => (a ^ b) - 7)"),
    ("stringify", "const a = Array(1e5).fill({ a: 1 }); while (true) JSON.stringify(a)"),
    ("join", "while (true) new Array(1e6).fill().join()"),
    ("split", "while (true) 'ab'.repeat(1e6).split('a').length"),
    ("getter", "const o = { get a() { return this.a2 }, get a2() { for (;;); } }; o.a"),
    (
        "proxy",
        "const p = new Proxy({}, { get: (_, k) => p2[k] }), p2 = new Proxy({}, { get: (_, k) => { for (;;); } }); p.a",
    ),
    ("microtasks", "await new Promise(() => { const f = () => Promise.resolve().then(f); f(); })"),
];

/// The worst of all rounds and cases, and the worst case's name; the median over all.
pub(crate) async fn measure(engine: &Engine, rounds: usize) -> Value {
    let input = input();
    let mut all = vec![];
    let mut worst = (0.0, "");
    for (name, body) in ENDLESS {
        let prepared = prepare(engine, &format!("async function lambda() {{ {body} }}")).await;
        for _ in 0..rounds {
            let begun = Instant::now();
            let call = Call::new(input.clone(), begun + DEADLINE, Arc::new(NoHost));
            let report = engine.run(&prepared, call).await.expect("a sandbox");
            let overshoot = milliseconds(begun.elapsed().saturating_sub(DEADLINE));
            match report.outcome {
                Outcome::Failed(failure) if failure.kind == FailureKind::Timeout => {}
                other => panic!("{name} should run into its deadline: {other:?}"),
            }
            all.push(overshoot);
            if overshoot > worst.0 {
                worst = (overshoot, name);
            }
        }
    }
    eprintln!("deadline: worst {:.1} ms by {}", worst.0, worst.1);
    json!({
        "deadline_overshoot_ms_p50": median(all),
        "deadline_overshoot_ms_worst": rounded(worst.0),
        "deadline_worst_case": worst.1,
    })
}
