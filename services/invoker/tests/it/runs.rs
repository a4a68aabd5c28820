//! One invocation, from request to report.

use std::time::Duration;

use chatfn_domain::settings::{FunctionSettings, Language};
use chatfn_proto::invoker::v1::{FailureKind, Header, InvokeRequest, LogLevel};
use chatfn_rpc::RequestExt as _;
use chatfn_telemetry::testing::MetricsReader;
use serde_json::json;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::Request;

use crate::{
    PATIENCE,
    outside::TRACE,
    service::{
        LOCAL, Service, failure, fetching, logged, of, reason, request, result, version, with_settings,
    },
    witness::{Answer, Witness},
};

/// Opens a case, as the seed's chat functions do.
const OPENS_A_CASE: &str = r#"
async function lambda(input, context) {
  console.log('opening a case for', input.payload.text);
  const response = await fetch(`${process.env.CRM_URL}/cases?token=secret`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'x-kind': input.headers[0].value },
    body: JSON.stringify({ text: input.payload.text, event: context.eventId }),
  });
  const { id } = await response.json();
  console.warn('opened');
  return { id, attempt: context.attempt, version: context.functionVersion, key: context.idempotencyKey };
}"#;

#[tokio::test]
async fn a_run_is_reported_with_result_logs_and_calls() {
    let crm = Witness::start(|_| Answer::new(201, "content-type: application/json\r\n", r#"{"id":7}"#)).await;
    let host = crm.at("127.0.0.1");
    let settings = FunctionSettings {
        timeout: PATIENCE,
        allowed_hosts: vec![host.parse().unwrap()],
        environment: [("CRM_URL".to_owned(), format!("http://{host}"))].into(),
        ..FunctionSettings::default()
    };
    let service = Service::start([with_settings(3, OPENS_A_CASE, settings)], &[LOCAL]).await;
    let mut call = request("e-1");
    let event = call.event.as_mut().unwrap();
    event.attempt = 2;
    event.headers = vec![Header { key: "kind".into(), value: "chat".into() }];
    event.idempotency_key = "k-1".into();
    let report = service.call(Request::new(call).with_trace(TRACE.parse().unwrap())).await.unwrap();

    assert_eq!(result(&report), json!({"id": 7, "attempt": 2, "version": 3, "key": "k-1"}));
    assert_eq!(report.version, 3);
    assert_eq!(logged(&report), ["opening a case for hello", "opened"]);
    assert_eq!([report.logs[0].level(), report.logs[1].level()], [LogLevel::Info, LogLevel::Warn]);
    assert!(report.duration.is_some() && report.remaining_budget.is_some());
    let [outbound] = &report.outbound_calls[..] else { panic!("{:?}", report.outbound_calls) };
    assert_eq!((&*outbound.method, outbound.status), ("POST", 201));
    assert_eq!(outbound.url, format!("http://{host}/cases"), "no secrets on the record");
    assert_eq!((&*outbound.error_reason, &*outbound.error_message), ("", ""));

    let seen = crm.only_request();
    assert_eq!((&*seen.method, &*seen.target), ("POST", "/cases?token=secret"));
    assert_eq!(seen.body, r#"{"text":"hello","event":"e-1"}"#);
    assert_eq!(seen.header("x-kind"), Some("chat"));
    assert!(seen.header("idempotency-key").is_some());
    let (trace, wanted) = (seen.header("traceparent").unwrap(), TRACE.split('-').nth(1).unwrap());
    assert_eq!(trace.split('-').nth(1), Some(wanted), "the caller's trace");
    let budget: u64 = seen.header("x-chatfn-budget-ms").unwrap().parse().unwrap();
    assert!((1..=30_000).contains(&budget), "{budget}");
}

#[tokio::test]
async fn the_keys_of_writes_stay_over_the_attempts_of_an_event() {
    let crm = Witness::start(|_| Answer::ok("")).await;
    let url = format!("http://{}/", crm.at("127.0.0.1"));
    let source = format!(
        "async function lambda(_, context) {{
           for (const method of ['POST', 'GET', 'PUT']) await fetch({url:?}, {{ method }});
           return context.idempotencyKey;
         }}"
    );
    let service = Service::start([version(1, &source, &[crm.at("127.0.0.1")])], &[LOCAL]).await;
    let mut contexts = Vec::new();
    for (event, attempt) in [("e-1", 1), ("e-1", 2), ("e-2", 1)] {
        let mut call = request(event);
        call.event.as_mut().unwrap().attempt = attempt;
        contexts.push(result(&service.call(Request::new(call)).await.unwrap()));
    }
    let requests = crm.seen().requests;
    let keys: Vec<_> = requests.iter().map(|request| request.header("idempotency-key")).collect();
    let [first, second, other] = [&keys[..3], &keys[3..6], &keys[6..]];
    assert_eq!(first, second);
    assert!(first[0].is_some() && first[1].is_none() && first[2].is_some(), "{first:?}");
    assert_ne!(first[0], first[2]);
    assert_ne!(first[0], other[0]);
    let everywhere = |name| requests.iter().all(|request| request.header(name).is_some());
    assert!(
        everywhere("traceparent") && everywhere("x-chatfn-budget-ms"),
        "also when the caller has no trace"
    );
    assert_eq!(contexts[0], contexts[1]);
    assert_ne!(contexts[0], contexts[2]);
}

#[tokio::test]
async fn a_lambda_that_throws_is_a_report() {
    let source = "async function lambda() {\n  console.error('about to fail');\n  throw new RangeError('no such queue');\n}";
    let service = Service::start([version(1, source, &[""; 0])], &[]).await;
    let report = service.invoke("e-1").await.unwrap();
    let thrown = failure(&report, FailureKind::Thrown);
    assert_eq!((&*thrown.error_name, &*thrown.message), ("RangeError", "no such queue"));
    assert!(thrown.stack.contains(":3:"), "{}", thrown.stack);
    assert_eq!(logged(&report), ["about to fail"]);
}

#[tokio::test]
async fn typescript_runs_and_fails_in_its_own_terms() {
    let source = "interface Payload { text?: string }\n\
      async function lambda(input: { payload: Payload }, context: { eventId: string }): Promise<string> {\n  \
        if (context.eventId === 'fail') throw new TypeError(input.payload!.text as string);\n  \
        return input.payload.text satisfies string | undefined ?? '';\n\
      }";
    let settings =
        FunctionSettings { timeout: PATIENCE, language: Language::TypeScript, ..FunctionSettings::default() };
    let service = Service::start([with_settings(1, source, settings)], &[]).await;
    assert_eq!(result(&service.invoke("e-1").await.unwrap()), "hello");
    let report = service.invoke("fail").await.unwrap();
    let thrown = failure(&report, FailureKind::Thrown);
    assert!(thrown.stack.contains("lambda (lambda.js:3:"), "{}", thrown.stack);
}

#[tokio::test]
async fn a_run_ends_at_the_functions_timeout() {
    let silent = Witness::start(|_| Answer::never()).await;
    let host = silent.at("127.0.0.1");
    let waits =
        format!("async function lambda() {{ console.log('started'); await fetch('http://{host}/'); }}");
    for (source, calls) in
        [("async function lambda() { console.log('started'); while (true) {} }", 0), (&*waits, 1)]
    {
        let settings = FunctionSettings {
            timeout: Duration::from_secs(1),
            allowed_hosts: vec![host.parse().unwrap()],
            ..FunctionSettings::default()
        };
        let service = Service::start([with_settings(1, source, settings)], &[LOCAL]).await;
        let report = timeout(PATIENCE, service.invoke("e-1")).await.unwrap().unwrap();
        failure(&report, FailureKind::Timeout);
        assert_eq!(logged(&report), ["started"]);
        assert!(report.duration.unwrap().seconds < 20, "{:?}", report.duration);
        let reasons: Vec<_> = report.outbound_calls.iter().map(|call| &*call.error_reason).collect();
        assert_eq!(reasons, vec!["DEADLINE"; calls]);
    }
    silent.until(|seen| seen.abandoned == 1).await;
}

#[tokio::test]
async fn a_run_ends_early_enough_for_its_report() {
    let source = "async function lambda(_, context) {
      console.log('started');
      if (context.eventId === 'ask') return context.getRemainingTimeMs();
      while (true) {}
    }";
    let service = Service::start([version(1, source, &[""; 0])], &[]).await;
    // The caller keeps one part in twenty for the way back, and so does the invoker.
    let report = service.invoke_within("ask", Duration::from_secs(20)).await.unwrap();
    let left = result(&report).as_f64().unwrap();
    assert!(left <= 20_000.0 * 0.95 * 0.95, "{left}");
    // A stalled machine may eat the margin once, but not always.
    for attempt in 1.. {
        match service.invoke_within("e-1", Duration::from_secs(2)).await {
            Ok(report) => {
                failure(&report, FailureKind::Timeout);
                assert_eq!(logged(&report), ["started"]);
                return;
            }
            Err(error) => assert!(attempt < 5, "{error:?}"),
        }
    }
}

#[tokio::test]
async fn a_run_ends_when_its_caller_goes_away() {
    let silent = Witness::start(|request| match &*request.target {
        "/wait" => Answer::never(),
        _ => Answer::ok(""),
    })
    .await;
    let host = silent.at("127.0.0.1");
    let source = format!(
        "async function lambda(_, {{ eventId }}) {{ return (await fetch(`http://{host}/${{eventId}}`)).status; }}"
    );
    let service = Service::start([version(1, &source, &[&host])], &[LOCAL, "--max-runs=1"]).await;
    let call = service.spawn_invoke("wait");
    silent.until(|seen| seen.in_flight == 1).await;
    assert_eq!(reason(service.invoke("e-1").await), "OVERLOADED", "the run has the only place");
    call.abort();
    silent.until(|seen| seen.abandoned == 1).await;
    // Its place is free again, as soon as the run has been dropped.
    let freed = async {
        loop {
            match service.invoke("e-2").await {
                Ok(report) => break report,
                Err(error) => assert_eq!(error.reason.as_deref(), Some("OVERLOADED")),
            }
        }
    };
    assert_eq!(result(&timeout(PATIENCE, freed).await.unwrap()), 200);
}

#[tokio::test]
async fn a_function_that_runs_still_is_not_prepared_again_after_it_was_dropped() {
    const OTHER: &str = "accounts/other/functions/chat.start";
    const REBUILT: &str = "chatfn_invoker_prepared_rebuilt_total";
    let outside = Witness::start(|request| match &*request.target {
        "/wait" => Answer::never(),
        _ => Answer::ok(""),
    })
    .await;
    let host = outside.at("127.0.0.1");
    // Only one of them is kept at a time.
    let large = |returns: &str| {
        format!(
            "const made = new Uint8Array(30 << 20).fill(1);
             async function lambda(_, {{ eventId }}) {{
               await fetch(`http://{host}/${{eventId}}`);
               return {returns} + made.length;
             }}"
        )
    };
    let metrics = MetricsReader::somewhere();
    let live = [version(1, &large("'a'"), &[&host]), of(OTHER, version(1, &large("'b'"), &[&host]))];
    let service = Service::start(live, &[LOCAL, &metrics.flag(), "--prepared-bytes=33554432"]).await;
    let _running = service.spawn_invoke("wait");
    outside.until(|seen| seen.in_flight == 1).await;
    let other = || Request::new(InvokeRequest { function: OTHER.into(), ..request("e-1") });
    service.call(other()).await.unwrap();

    let before = metrics.value(REBUILT).await.unwrap_or(0);
    for _ in 0..2 {
        assert_eq!(result(&service.invoke("e-1").await.unwrap()), "a31457280");
        assert_eq!(result(&service.call(other()).await.unwrap()), "b31457280");
    }
    let rebuilt = metrics.value(REBUILT).await.unwrap_or(0) - before;
    assert_eq!(rebuilt, 2, "the one that nobody runs, each time");
}

#[tokio::test]
async fn what_is_too_much_is_refused_while_the_others_finish() {
    let gate = CancellationToken::new();
    let opened = gate.clone();
    let slow = Witness::start(move |_| Answer::ok("").behind(&opened)).await;
    let host = slow.at("127.0.0.1");
    let live = version(1, &fetching(&format!("http://{host}/")), &[&host]);
    let service = Service::start([live], &[LOCAL, "--max-runs=2"]).await;
    let running = [service.spawn_invoke("e-1"), service.spawn_invoke("e-2")];
    slow.until(|seen| seen.in_flight == 2).await;

    let refused = service.invoke("e-3").await.unwrap_err();
    assert_eq!(
        (refused.code, refused.reason.as_deref()),
        (tonic::Code::ResourceExhausted, Some("OVERLOADED"))
    );
    assert!(refused.retry_after.is_some() && refused.message.contains("nothing ran"), "{refused:?}");

    gate.cancel();
    for call in running {
        assert_eq!(result(&call.await.unwrap().unwrap()), 200);
    }
    assert_eq!(slow.seen().requests.len(), 2, "what was refused did not run");
    assert_eq!(result(&service.invoke("e-4").await.unwrap()), 200);
}

#[tokio::test]
async fn an_account_that_sends_without_end_leaves_room_to_others() {
    let gate = CancellationToken::new();
    let opened = gate.clone();
    let slow = Witness::start(move |_| Answer::ok("").behind(&opened)).await;
    let host = slow.at("127.0.0.1");
    let live = version(1, &fetching(&format!("http://{host}/")), &[&host]);
    let function = "accounts/other/functions/chat.start";
    let others = of(function, version(1, "async function lambda() { return 'here'; }", &[""; 0]));
    let service = Service::start([live, others], &[LOCAL, "--max-runs=4"]).await;
    let running = ["e-1", "e-2", "e-3"].map(|event| service.spawn_invoke(event));
    slow.until(|seen| seen.in_flight == 3).await;

    let refused = service.invoke("e-4").await.unwrap_err();
    assert_eq!(
        (refused.code, refused.reason.as_deref()),
        (tonic::Code::ResourceExhausted, Some("ACCOUNT_BUSY"))
    );
    assert!(refused.retry_after.is_some() && refused.metadata["account"] == "acme", "{refused:?}");
    let other = InvokeRequest { function: function.into(), ..request("e-5") };
    assert_eq!(result(&service.call(Request::new(other)).await.unwrap()), "here");

    gate.cancel();
    for call in running {
        assert_eq!(result(&call.await.unwrap().unwrap()), 200);
    }
    assert_eq!(result(&service.invoke("e-4").await.unwrap()), 200);
}
