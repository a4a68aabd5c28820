//! What a lambda can say.

use std::sync::Arc;

use chatfn_engine::{
    FailureKind, FetchRequest, FetchResponse, Host, HostOp, LogLevel, NoHost, OpError, OpResult,
};
use futures_util::future::BoxFuture;
use serde_json::json;

use crate::support::{PATIENCE, call, call_of, failure, messages, result, returned, run};

/// The seed's Chat In-Queue payload.
const IN_QUEUE: &str = r#"{"headers": [], "payload": {
    "campaignId": "3599735210",
    "chatSessionKey": "H6846170109402085448-9905386f84524a008e929342b052819cK8389409",
    "chatStartPageURL": "http://example.de", "engagementId": "3599735310", "ipAddress": "212.65.14.245",
    "preChatSurveyStructure": {"header": "1528463744663"}, "ttr": {"newTtr": {"value": 300}}}}"#;

#[tokio::test]
async fn the_input_arrives_and_the_result_returns() {
    let source = "async function lambda({ payload }) { return { wait: payload.ttr.newTtr.value, header: payload.preChatSurveyStructure.header } }";
    assert_eq!(result(source, IN_QUEUE).await, json!({"wait": 300, "header": "1528463744663"}));
}

#[tokio::test]
async fn every_style_of_lambda_works() {
    for source in [
        "async function lambda(input, context) { return [input.n, context.account] }",
        "const lambda = async (input, context) => [input.n, context.account]",
        "function lambda(input, callback, context) { callback(null, [input.n, context.account]) }",
        "function lambda(input, callback) { setTimeout(() => callback(null, [input.n, 'acme']), 1) }",
        "function lambda(input, context) { return [input.n, context.account] }",
        "module.exports = async (input, context) => [input.n, context.account]",
        "exports.lambda = async (input, context) => [input.n, context.account]",
        "export async function lambda(input, context) { return [input.n, context.account] }",
        "export default async (input, context) => [input.n, context.account]",
    ] {
        let mut call = call(r#"{"n": 7}"#);
        call.context_json = r#"{"account": "acme"}"#.into();
        assert_eq!(returned(&run(source, call).await), json!([7, "acme"]), "{source}");
    }
}

#[tokio::test]
async fn errors_are_reported_in_the_authors_terms() {
    let source = "async function lambda(input) {\n  await null;\n  return helper(input);\n}\nfunction helper(input) {\n  return input.missing.field;\n}\n";
    let report = run(source, call("{}")).await;
    let failure = failure(&report);
    assert_eq!((failure.kind, failure.name.as_str()), (FailureKind::Thrown, "TypeError"));
    assert!(failure.stack.contains("helper (lambda.js:6:"), "{}", failure.stack);
    assert!(!failure.stack.contains("chatfn:"), "none of our own frames: {}", failure.stack);

    let report = run("function lambda(input, callback) { callback(new RangeError('no')) }", call("1")).await;
    let failure = crate::support::failure(&report);
    assert_eq!((failure.name.as_str(), failure.message.as_str()), ("RangeError", "no"));
}

#[tokio::test]
async fn the_console_keeps_levels_and_formats_values() {
    let source = "async function lambda() {
      console.debug('d'); console.info('i %s', 1); console.log({ a: [1, 'x'] }); console.warn(new Error('w').message); console.error('e');
      const it = {}; it.it = it; console.log(it); console.log('\\ud800');
    }";
    let report = run(source, call("null")).await;
    assert_eq!(returned(&report), json!(null));
    let levels: Vec<_> = report.logs.iter().map(|entry| entry.level).take(5).collect();
    assert_eq!(levels, [LogLevel::Debug, LogLevel::Info, LogLevel::Info, LogLevel::Warn, LogLevel::Error]);
    let lines = messages(&report.logs);
    assert_eq!(lines[1], "i 1");
    assert!(lines[2].contains("a:") && lines[2].contains("'x'"), "{}", lines[2]);
    assert!(lines[6].chars().all(|letter| letter == '\u{fffd}'), "a lone surrogate is no text: {}", lines[6]);
}

#[tokio::test]
async fn web_globals_are_there() {
    let source = r"async function lambda() {
      const url = new URL('../b?x=1#h', 'https://user@Example.com:443/a/');
      url.searchParams.append('y', 'ä');
      const clone = structuredClone({ when: new Date(0), map: new Map([[1, 2]]) });
      return {
        url: url.href,
        text: new TextDecoder().decode(new TextEncoder().encode('grüß')),
        base64: [btoa('hi'), atob('aGk=')],
        clone: [clone.when.getTime(), clone.map.get(1)],
        uuid: crypto.randomUUID().length,
        bytes: crypto.getRandomValues(new Uint8Array(4)).length,
        timers: await new Promise((resolve) => setTimeout(resolve, 2, 'late')),
        micro: await new Promise((resolve) => queueMicrotask(() => resolve('soon'))),
        elapsed: performance.now() >= 2,
        header: new Headers({ 'X-A': '1' }).get('x-a'),
        env: process.env.CRM,
      };
    }";
    let mut call = call("null");
    call.env_json = r#"{"CRM": "crm.example.com"}"#.into();
    assert_eq!(
        returned(&run(source, call).await),
        json!({
            "url": "https://user@example.com/b?x=1&y=%C3%A4#h", "text": "grüß", "base64": ["aGk=", "hi"],
            "clone": [0, 2], "uuid": 36, "bytes": 4, "timers": "late", "micro": "soon", "elapsed": true,
            "header": "1", "env": "crm.example.com",
        })
    );
}

#[tokio::test]
async fn the_remaining_time_is_live_and_shrinks() {
    let source = "async function lambda(input, context) {
      const before = context.getRemainingTimeMs();
      await new Promise((resolve) => setTimeout(resolve, 20));
      return [before, context.getRemainingTimeMs()];
    }";
    let times = result(source, "null").await;
    let (before, after) = (times[0].as_f64().unwrap(), times[1].as_f64().unwrap());
    assert!(before <= PATIENCE.as_secs_f64() * 1e3 && after <= before - 19.0 && after > 0.0, "{times}");
}

#[tokio::test]
async fn code_from_strings_is_refused() {
    for code in [
        "eval('1')",
        "new Function('return 1')()",
        "(async () => {}).constructor('return 1')()",
        "setTimeout('1', 0)",
    ] {
        let report = run(&format!("async function lambda() {{ return {code} }}"), call("null")).await;
        assert_eq!(failure(&report).kind, FailureKind::Thrown, "{code}");
    }
}

#[tokio::test]
async fn chat_commands_get_a_warning() {
    let report =
        run("async function lambda() { return [{ type: 'systemMessage', text: 'hi' }] }", call("null")).await;
    assert!(
        report
            .logs
            .iter()
            .any(|entry| entry.level == LogLevel::Warn && entry.message.contains("no commands"))
    );
}

/// Answers with what was asked.
struct Echo;

impl Host for Echo {
    fn start(&self, op: HostOp) -> BoxFuture<'static, Result<OpResult, OpError>> {
        let HostOp::Fetch(FetchRequest { method, url, headers, body, .. }) = op else {
            panic!("{op:?} is no fetch")
        };
        Box::pin(async move {
            if url.ends_with("/refused") {
                let code = Some("HOST_NOT_ALLOWED".to_owned());
                return Err(OpError { name: None, code, message: "may not".to_owned() });
            }
            if url.ends_with("/never") {
                std::future::pending::<()>().await;
            }
            let body = body.map(|body| String::from_utf8_lossy(&body).into_owned());
            let body = json!({"method": method, "headers": headers, "body": body}).to_string().into();
            let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
            Ok(OpResult::Fetch(FetchResponse {
                status: 201,
                status_text: String::new(),
                url,
                redirected: false,
                headers,
                body,
            }))
        })
    }
}

#[tokio::test]
async fn fetch_sends_and_reads() {
    let source = r"async function lambda() {
      const response = await fetch('https://crm.example.com/cases', { method: 'post', headers: { 'X-Key': 'k' }, body: JSON.stringify({ a: 1 }) });
      const { method, headers, body } = await response.json();
      return [response.ok, response.status, response.url, response.headers.get('Content-Type'), method, Object.fromEntries(headers)['x-key'], JSON.parse(body)];
    }";
    let report = run(source, call_of("null", PATIENCE, Arc::new(Echo))).await;
    let expected =
        json!([true, 201, "https://crm.example.com/cases", "application/json", "POST", "k", {"a": 1}]);
    assert_eq!(returned(&report), expected);
}

#[tokio::test]
async fn a_refused_or_aborted_fetch_can_be_caught() {
    let source = r"async function lambda() {
      const refused = await fetch('https://crm.example.com/refused').catch((error) => [error.name, error.message, error.code]);
      const controller = new AbortController();
      setTimeout(() => controller.abort(), 1);
      const aborted = await fetch('https://crm.example.com/never', { signal: controller.signal }).catch((error) => error.name);
      const late = await fetch('https://crm.example.com/never', { signal: AbortSignal.timeout(1) }).catch((error) => error.name);
      return [refused, aborted, late];
    }";
    let report = run(source, call_of("null", PATIENCE, Arc::new(Echo))).await;
    assert_eq!(
        returned(&report),
        json!([["TypeError", "may not", "HOST_NOT_ALLOWED"], "AbortError", "TimeoutError"])
    );
    let report = run(
        "async function lambda() { await fetch('https://x.example') }",
        call_of("1", PATIENCE, Arc::new(NoHost)),
    )
    .await;
    assert_eq!(failure(&report).kind, FailureKind::Thrown);
}

#[tokio::test]
async fn functions_read_as_they_were_written() {
    // Texts are looked up by what they say, in the order in which they are compiled, which differs for classes.
    let source = "// äöü 🦀 before the first\n\
        const twice = [(x) => x + 1, (x) => x + 1];\n\
        class Case { static made = 0; name = () => 'ä'; describe() { return function inner() { return 1 } } constructor() { this.of = async (a) => a } }\n\
        function outer(text = (() => 'default')()) { const arrow = (text) => { return `é${text}` }; return arrow }\n\
        const atTopLevel = String(outer);\n\
        const tag = (strings, ...values) => [strings.raw.join('|'), values, Object.isFrozen(strings) && Object.isFrozen(strings.raw) && Object.keys(strings).length === 2, strings];\n\
        const tagged = () => tag`a\\n${1}b`;\n\
        async function* generate() { yield /re/u.source }\n\
        async function lambda() {\n\
          const { name, of, describe } = new Case();\n\
          const [raw, values, frozen, same] = tagged();\n\
          return { twice: twice.map(String), Case: String(Case), name: String(name), of: String(of), describe: String(describe),\n\
            inner: String(describe()), outer: String(outer), arrow: String(outer()), atTopLevel: atTopLevel === String(outer),\n\
            generate: Function.prototype.toString.call(generate), bound: String(outer.bind(1)), native: String(parseInt),\n\
            prelude: String(fetch).includes('[native code]'), raw, values, frozen, same: tagged()[3] === same };\n\
        }";
    let outer = "function outer(text = (() => 'default')()) { const arrow = (text) => { return `é${text}` }; return arrow }";
    let expected = json!({
        "twice": ["(x) => x + 1", "(x) => x + 1"],
        "Case": "class Case { static made = 0; name = () => 'ä'; describe() { return function inner() { return 1 } } constructor() { this.of = async (a) => a } }",
        "name": "() => 'ä'", "of": "async (a) => a", "describe": "describe() { return function inner() { return 1 } }",
        "inner": "function inner() { return 1 }", "outer": outer, "arrow": "(text) => { return `é${text}` }", "atTopLevel": true,
        "generate": "async function* generate() { yield /re/u.source }",
        "bound": "function bound outer() {\n    [native code]\n}", "native": "function parseInt() {\n    [native code]\n}",
        "prelude": true, "raw": "a\\n|b", "values": [1], "frozen": true, "same": true,
    });
    assert_eq!(result(source, "1").await, expected);
    let module = format!("import {{ isArray }} from 'lodash';\n{source}\nexport {{ lambda }};");
    assert_eq!(result(&module, "1").await, expected, "in a module");
}
