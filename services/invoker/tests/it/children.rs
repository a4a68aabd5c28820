//! Functions that another function invokes.

use std::time::Duration;

use chatfn_deployments::Deployment;
use chatfn_domain::settings::FunctionSettings;
use chatfn_telemetry::testing::MetricsReader;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tonic::Request;

use crate::{
    PATIENCE,
    service::{LOCAL, Service, logged, of, request, result, version, with_settings},
    vault::Vault,
    witness::{Answer, Witness},
};

const NO_HOSTS: [&str; 0] = [];
const CHILD: &str = "accounts/acme/functions/chat.end";

/// A parent that does this with `invoke(invocations, options)`.
fn parent(body: &str) -> Deployment {
    let source = format!(
        "const {{ Toolbelt }} = require('lp-faas-toolbelt');
         const invoke = (invocations, options) => Toolbelt.OrchestratorClient().invoke(invocations, 20000, {{ json: true, ...options }});
         async function lambda(input, context) {{ {body} }}"
    );
    version(1, &source, &NO_HOSTS)
}

fn child(source: &str, hosts: &[impl AsRef<str>]) -> Deployment {
    of(CHILD, version(7, source, hosts))
}

#[tokio::test]
async fn a_child_is_its_own_function_for_the_same_event() {
    let crm = Witness::start(|_| Answer::ok("")).await;
    let host = crm.at("127.0.0.1");
    let settings = FunctionSettings {
        timeout: PATIENCE,
        allowed_hosts: vec![host.parse().unwrap()],
        environment: [("WHO".to_owned(), "child".to_owned())].into(),
        ..FunctionSettings::default()
    };
    let source = format!(
        "globalThis.runs = 0;
         async function lambda(input, context) {{
           console.log('in the child');
           const {{ account, template, functionVersion, eventId, conversationId, attempt }} = context;
           const {{ status }} = await fetch('http://{host}/', {{ method: 'POST' }});
           return {{ input, env: process.env.WHO, runs: ++runs, status, left: context.getRemainingTimeMs(),
             context: [account, template, functionVersion, eventId, conversationId, attempt] }};
         }}"
    );
    let body = format!(
        "const refused = await fetch('http://{host}/').catch((error) => error.code);
         const two = await invoke([
           {{ uuid: 'chat.end', payload: {{ n: 1 }}, headers: {{ 'x-a': 'b' }} }},
           {{ uuid: '{CHILD}', payload: [null] }},
         ]);
         return {{ refused, two: two.map((it) => it.body), left: context.getRemainingTimeMs() }};"
    );
    let live = [parent(&body), of(CHILD, with_settings(7, &source, settings))];
    let service = Service::start(live, &[LOCAL]).await;
    let mut keys = Vec::new();
    for attempt in [1, 2] {
        let mut call = request("e-1");
        call.event.as_mut().unwrap().attempt = attempt;
        let report = service.call(Request::new(call)).await.unwrap();
        let mut result = result(&report);
        assert_eq!(result["refused"], "HOST_NOT_ALLOWED", "the parent has its own settings");
        let left: Vec<f64> =
            [&result["two"][0], &result["two"][1]].map(|it| it["left"].as_f64().unwrap()).into();
        assert!(left.iter().all(|left| *left <= 10_000.0), "each has its share of the 20 s: {left:?}");
        for child in result["two"].as_array_mut().unwrap() {
            child["left"].take();
        }
        let context = json!(["acme", "chat.end", 7, "e-1", "c-1", attempt]);
        let child = |input: Value| json!({"input": input, "env": "child", "runs": 1, "status": 200, "context": context, "left": null});
        let first = child(json!({"headers": [{"key": "x-a", "value": "b"}], "payload": {"n": 1}}));
        assert_eq!(result["two"], json!([first, child(json!({"headers": [], "payload": [null]}))]));
        assert!(logged(&report).is_empty(), "its log is its own: {:?}", logged(&report));

        let calls: Vec<_> = report
            .outbound_calls
            .iter()
            .map(|it| (&*it.method, &*it.url, it.status, &*it.error_reason))
            .collect();
        let invoked = ("INVOKE", CHILD, 200, "");
        assert_eq!(calls, [("GET", &*format!("http://{host}/"), 0, "HOST_NOT_ALLOWED"), invoked, invoked]);
        let requests = crm.seen().requests;
        let of_attempt = &requests[requests.len() - 2..];
        keys.push([0, 1].map(|index| of_attempt[index].header("idempotency-key").unwrap().to_owned()));
    }
    assert_eq!(keys[0], keys[1], "the keys stay over the attempts of an event");
    assert_ne!(keys[0][0], keys[0][1], "and differ between invocations");
}

#[tokio::test]
async fn what_becomes_of_a_child_is_told() {
    let source = "async function lambda({ payload }) {
        if (payload === 'throw') throw new RangeError('no such queue');
        if (payload === 'never') return new Promise(() => {});
      }";
    // What loops has little time. The others, which end by themselves, have all that they may need.
    let settings = FunctionSettings { timeout: Duration::from_millis(200), ..FunctionSettings::default() };
    let loops = with_settings(1, "function lambda() { while (true) {} }", settings);
    let body = "const invocations = [
          { uuid: 'chat.end', payload: 'throw', retries: 1 },
          { uuid: 'chat.participants_change', payload: {}, retries: 1 },
          { uuid: 'chat.end', payload: 'never', retries: 1 },
          { uuid: 'chat.in_queue', payload: {} },
          { uuid: 'accounts/other/functions/chat.end', payload: {} },
          { uuid: 'no function', payload: {} },
          { uuid: 'chat.end', payload: 'x'.repeat(300000) },
        ];
        const all = await invoke(invocations, { errorStrategy: 'ContinueOnError' });
        return all.map((it) => [it.statusCode, it.body.code, it.error.message]);";
    let live = [
        parent(body),
        child(source, &NO_HOSTS),
        of("accounts/acme/functions/chat.participants_change", loops),
        of(
            "accounts/other/functions/chat.end",
            version(1, "function lambda() { return 'secret' }", &NO_HOSTS),
        ),
    ];
    let service = Service::start(live, &[]).await;
    let report = service.invoke("e-1").await.unwrap();
    let result = result(&report);
    let expected = [
        (901, "THROWN", "RangeError: no such queue"),
        (504, "TIMEOUT", "TimeoutError: the lambda was still running"),
        (901, "NEVER_SETTLES", "never settles"),
        (404, "FUNCTION_NOT_DEPLOYED", "deploy it first"),
        (400, "FUNCTION_NAME_INVALID", "accounts/acme/functions/"),
        (400, "FUNCTION_NAME_INVALID", "such as chat.end"),
        (400, "PAYLOAD_INVALID", "262144 bytes"),
    ];
    assert_eq!(result.as_array().unwrap().len(), expected.len(), "{result}");
    for (index, (status, reason, message)) in expected.into_iter().enumerate() {
        assert_eq!((&result[index][0], &result[index][1]), (&json!(status), &json!(reason)), "{result}");
        assert!(result[index][2].as_str().unwrap().contains(message), "{}", result[index]);
        let call = &report.outbound_calls[index];
        assert_eq!((&*call.method, call.status, &*call.error_reason), ("INVOKE", status, reason));
        assert!(call.error_message.contains(message), "{}", call.error_message);
    }
}

#[tokio::test]
async fn functions_do_not_nest_without_end() {
    let body = "const [next] = await invoke([{ uuid: 'chat.start', payload: {}, retries: 1 }], { errorStrategy: 'ContinueOnError' });
        return next.statusCode === 200 ? { depth: next.body.depth + 1, end: next.body.end } : { depth: 0, end: next.body.code };";
    let service = Service::start([parent(body)], &[]).await;
    let report = service.invoke("e-1").await.unwrap();
    assert_eq!(result(&report), json!({"depth": 4, "end": "NESTED_TOO_DEEP"}));
}

#[tokio::test]
async fn a_child_ends_with_its_parent() {
    let silent = Witness::start(|_| Answer::never()).await;
    let host = silent.at("127.0.0.1");
    let waits = child(&format!("async function lambda() {{ await fetch('http://{host}/'); }}"), &[&host]);
    // Two levels: what waits is the child of a child.
    let between = of(
        "accounts/acme/functions/chat.in_queue",
        parent("return invoke([{ uuid: 'chat.end', payload: {} }]);"),
    );
    let body = "const invoked = invoke([{ uuid: 'chat.in_queue', payload: {} }]);
        if (context.eventId === 'leave') return new Promise((resolve) => setTimeout(resolve, 100));
        await invoked;";
    let service = Service::start([parent(body), between, waits], &[LOCAL]).await;

    let call = service.spawn_invoke("wait");
    silent.until(|seen| seen.in_flight == 1).await;
    call.abort();
    silent.until(|seen| seen.in_flight == 0 && seen.abandoned == 1).await;

    // It returns without having waited.
    let report = service.invoke("leave").await.unwrap();
    assert_eq!(report.outbound_calls[0].error_reason, "ABORTED");
    silent.until(|seen| seen.in_flight == 0 && seen.abandoned == seen.requests.len()).await;
}

#[tokio::test]
async fn a_child_that_loops_ends_with_its_parent() {
    let started = Witness::start(|_| Answer::ok("")).await;
    let host = started.at("127.0.0.1");
    let loops = child(
        &format!("async function lambda() {{ await fetch('http://{host}/'); while (true) {{}} }}"),
        &[&host],
    );
    let body = "if (context.eventId === 'probe') return (await invoke([{ uuid: 'chat.in_queue', payload: {}, retries: 1 }])).length;
        await invoke([{ uuid: 'chat.end', payload: {} }]);";
    let quick = of("accounts/acme/functions/chat.in_queue", version(1, "function lambda() {}", &NO_HOSTS));
    let service = Service::start([parent(body), loops, quick], &[LOCAL, "--max-children=1"]).await;
    let call = service.spawn_invoke("wait");
    started.until(|seen| seen.requests.len() == 1).await;
    call.abort();
    // The only place for children becomes free.
    let freed = async {
        while matches!(
            service.invoke("probe").await.unwrap().outcome.unwrap(),
            chatfn_proto::invoker::v1::run_report::Outcome::Failure(_)
        ) {}
    };
    tokio::time::timeout(PATIENCE / 2, freed).await.expect("well before the child's own timeout");
}

/// A child that waits until the gate is opened, and the server that it waits for.
async fn waiting() -> (CancellationToken, Witness, Deployment) {
    let gate = CancellationToken::new();
    let opened = gate.clone();
    let slow = Witness::start(move |_| Answer::ok("").behind(&opened)).await;
    let host = slow.at("127.0.0.1");
    let waits = child(
        &format!("async function lambda() {{ return (await fetch('http://{host}/')).status; }}"),
        &[&host],
    );
    (gate, slow, waits)
}

#[tokio::test]
async fn parents_that_hold_every_sandbox_do_not_starve_their_children() {
    let (gate, slow, waits) = waiting().await;
    let body = "const [it] = await invoke([{ uuid: 'chat.end', payload: {}, retries: 1 }], { errorStrategy: 'ContinueOnError' });
        return [it.statusCode, it.body.message ?? it.body];";
    let service = Service::start([parent(body), waits], &[LOCAL, "--max-runs=3", "--max-children=2"]).await;
    let parents = [service.spawn_invoke("e-1"), service.spawn_invoke("e-2")];
    // Both children run although every sandbox but one is a parent's.
    slow.until(|seen| seen.in_flight == 2).await;
    // The third parent is told at once, and does not wait for its deadline.
    let refused = result(&service.invoke("e-3").await.unwrap());
    assert_eq!(refused[0], 429);
    assert!(refused[1].as_str().unwrap().contains("invoke fewer at once, or try again later"), "{refused}");

    gate.cancel();
    for call in parents {
        assert_eq!(result(&call.await.unwrap().unwrap()), json!([200, 200]));
    }
}

#[tokio::test]
async fn one_run_does_not_take_all_places() {
    let (gate, slow, waits) = waiting().await;
    let body = "const invocations = Array.from({ length: 40 }, () => ({ uuid: 'chat.end', payload: {}, retries: 1 }));
        const all = await invoke(invocations, { invokeParallel: true, errorStrategy: 'ContinueOnError' });
        return [200, 429].map((status) => all.filter((it) => it.statusCode === status).length);";
    let service =
        Service::start([parent(body), waits], &[LOCAL, "--max-children=44", "--egress-rate=100"]).await;
    let call = service.spawn_invoke("e-1");
    slow.until(|seen| seen.in_flight == 32).await;
    gate.cancel();
    assert_eq!(result(&call.await.unwrap().unwrap()), json!([32, 8]));
}

#[tokio::test]
async fn children_are_divided_among_accounts_and_counted_when_refused() {
    let (gate, slow, waits) = waiting().await;
    let body = "const invocations = Array.from({ length: context.eventId === 'many' ? 9 : 1 }, () => ({ uuid: 'chat.end', payload: {}, retries: 1 }));
        const all = await invoke(invocations, { invokeParallel: true, errorStrategy: 'ContinueOnError' });
        return all.map((it) => it.statusCode);";
    let other = |function: &str, version| of(&format!("accounts/other/functions/{function}"), version);
    let live = [
        parent(body),
        waits,
        other("chat.start", parent(body)),
        other("chat.end", version(1, "function lambda() {}", &NO_HOSTS)),
    ];
    let metrics = MetricsReader::somewhere();
    let service = Service::start(live, &[LOCAL, "--max-children=8", &metrics.flag()]).await;
    let call = service.spawn_invoke("many");
    slow.until(|seen| seen.in_flight == 6).await;
    let mut of_other = request("one");
    of_other.function = "accounts/other/functions/chat.start".into();
    assert_eq!(result(&service.call(Request::new(of_other)).await.unwrap()), json!([200]));
    gate.cancel();
    let mut statuses = result(&call.await.unwrap().unwrap());
    statuses.as_array_mut().unwrap().sort_by_key(|status| status.as_u64());
    assert_eq!(statuses, json!([200, 200, 200, 200, 200, 200, 429, 429, 429]));
    let counted = metrics.value("chatfn_invoker_runs_refused_total{reason=\"account_busy\"}").await;
    assert_eq!(counted, Some(3));
}

#[tokio::test]
async fn what_a_child_reads_stays_out_of_the_parents_report() {
    let vault = Vault::start(&[("accounts/acme/secrets/token", "hush-hush-hush")]).await;
    let reads = "const { SecretClient } = require('core-functions-toolbelt');
        async function lambda({ payload }) {
          const { value } = await SecretClient().readSecret('token');
          if (payload.fail) throw new Error(`no ${value}`);
          return value;
        }";
    let body = "const [it] = await invoke([{ uuid: 'chat.end', payload: {} }]);
        const failed = await invoke([{ uuid: 'chat.end', payload: { fail: true } }]).catch((error) => error.message);
        console.log(it.body);
        return [it.body, it.body === ['hush', 'hush', 'hush'].join('-'), failed];";
    let service = Service::start([parent(body), child(reads, &NO_HOSTS)], &[&vault.flag]).await;
    let report = service.invoke("e-1").await.unwrap();
    assert_eq!(
        result(&report),
        json!(["[secret:token]", true, "chat.end failed with 901: Error: no [secret:token]"])
    );
    assert_eq!(logged(&report), ["[secret:token]"]);
    assert_eq!(report.outbound_calls[1].error_message, "Error: no [secret:token]");
}
