//! One budget, from the caller over a function and another one that it invokes to the server that this one calls.

use std::time::Duration;

use crate::{
    service::{LOCAL, Service, of, result, version},
    witness::{Answer, Witness},
};

#[tokio::test]
async fn what_is_left_shrinks_at_every_hop() {
    let crm = Witness::start(|_| Answer::ok("")).await;
    let host = crm.at("127.0.0.1");
    let parent = "const { Toolbelt } = require('lp-faas-toolbelt');
        async function lambda(_, context) {
          const left = context.getRemainingTimeMs();
          const [child] = await Toolbelt.OrchestratorClient().invoke([{ uuid: 'chat.end', payload: {} }], 60000, { json: true });
          return { left, until: context.deadline, child: child.body };
        }";
    let child = format!(
        "async function lambda(_, context) {{
           const left = context.getRemainingTimeMs();
           await fetch('http://{host}/');
           return {{ left, until: context.deadline }};
         }}"
    );
    let live =
        [version(1, parent, &[""; 0]), of("accounts/acme/functions/chat.end", version(1, &child, &[&host]))];
    let service = Service::start(live, &[LOCAL]).await;
    // Less than the functions' own 30 s, so that it is the caller's time which is handed on.
    let budget = 20_000.0;
    let report = service.invoke_within("e-1", Duration::from_millis(20_000)).await.unwrap();
    let result = result(&report);
    let outside: f64 = crm.only_request().header("x-chatfn-budget-ms").unwrap().parse().unwrap();
    let left = [&result["left"], &result["child"]["left"]].map(|left| left.as_f64().unwrap());
    // Each process and each function keeps one part in twenty for the way back.
    assert!(left[0] <= budget * 0.95 * 0.95, "{budget} at the caller, {result}");
    assert!(left[1] <= left[0] * 0.95, "{result}");
    assert!(0.0 < outside && outside <= left[1], "{outside} ms outside, {result}");
    let until = |value: &serde_json::Value| value["until"].as_str().unwrap().to_owned();
    assert!(until(&result["child"]) < until(&result), "{result}");
}
