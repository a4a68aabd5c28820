//! The secrets that lambdas read, and where they must not be seen.

use std::time::Duration;

use chatfn_domain::settings::FunctionSettings;
use chatfn_proto::invoker::v1::FailureKind;
use chatfn_telemetry::testing::Log;
use serde_json::json;
use tokio::time::{Instant, timeout};
use tonic::Request;

use crate::{
    FUNCTION, PATIENCE,
    service::{LOCAL, Service, failure, logged, of, request, result, version, with_settings},
    vault::Vault,
    witness::{Answer, Witness},
};

const NO_HOSTS: [&str; 0] = [];
const TOKEN: &str = "accounts/acme/secrets/token";
const OTHERS: &str = "accounts/other/functions/chat.start";

/// Returns the length of the secret `token`, which is no secret.
const LENGTH: &str = "const { Toolbelt } = require('lp-faas-toolbelt');
const client = Toolbelt.SecretClient();
async function lambda(input, context) {
  const useCache = context.eventId !== 'fresh';
  return client.readSecret('token', { useCache }).then(({ value }) => value.length, (error) => error.code);
}";

#[tokio::test]
async fn a_function_reads_the_secrets_of_its_account() {
    let vault =
        Vault::start(&[(TOKEN, "acme's token"), ("accounts/other/secrets/token", "the other's token")]).await;
    let source = "const { Toolbelt } = require('lp-faas-toolbelt');
        async function lambda() {
          const found = [];
          for (const key of ['token', 'missing', '../../other/secrets/token', 'other/secrets/token', '']) {
            await Toolbelt.SecretClient().readSecret(key).then(({ value }) => found.push(value.length), ({ code }) => found.push(code));
          }
          return found;
        }";
    let live = [version(1, source, &NO_HOSTS), of(OTHERS, version(1, source, &NO_HOSTS))];
    let service = Service::start(live, &[&vault.flag]).await;
    let mut of_other = request("e-1");
    of_other.function = OTHERS.into();
    let reports = [service.invoke("e-1").await.unwrap(), service.call(Request::new(of_other)).await.unwrap()];
    let [not_found, invalid] =
        ["not-found", "invalid-format"].map(|it| format!("com.liveperson.faas.secret.{it}"));
    for (report, length) in reports.iter().zip([12, 17]) {
        assert_eq!(result(report), json!([length, not_found, invalid, invalid, invalid]));
    }
    let expected = ["acme", "other"]
        .map(|account| ["token", "missing"].map(|key| format!("accounts/{account}/secrets/{key}")));
    assert_eq!(vault.asked(), expected.concat(), "nothing else was even asked for");
}

#[tokio::test]
async fn changes_are_seen_and_an_outage_is_not() {
    let vault = Vault::start(&[(TOKEN, "four")]).await;
    let service = Service::start([version(1, LENGTH, &NO_HOSTS)], &[&vault.flag]).await;
    let read = async |event: &str| result(&service.invoke(event).await.unwrap());
    assert_eq!(read("e").await, 4);
    vault.set(TOKEN, "longer");
    assert_eq!(read("fresh").await, 6, "a read without the cache sees the change at once");
    vault.set(TOKEN, "longest");
    let seen = async { while read("e").await != 7 {} };
    timeout(PATIENCE, seen).await.expect("others see it soon");

    vault.go_away();
    let asked = vault.asked().len();
    let begun = Instant::now();
    while vault.asked().len() < asked + 3 {
        assert_eq!(read("e").await, 7, "the last value serves on");
        assert!(begun.elapsed() < PATIENCE, "the registry is asked again now and then");
    }
    assert_eq!(read("fresh").await, "com.liveperson.faas.secret.op-failed");
}

#[tokio::test]
async fn many_secrets_serve_on_while_the_registry_hangs() {
    const RUNS: [&str; 4] = ["run-0", "run-1", "run-2", "run-3"];
    // More than are asked for at once, and a third of what may be within a second.
    let names: Vec<_> = RUNS
        .iter()
        .flat_map(|run| (0..17).map(move |key| format!("accounts/acme/secrets/{run}-{key}")))
        .collect();
    let values: Vec<_> = names.iter().map(|name| (name.as_str(), "four")).collect();
    let vault = Vault::start(&values).await;
    let source = "const { Toolbelt } = require('lp-faas-toolbelt');
        async function lambda(input, { eventId }) {
          const keys = Array.from({ length: 17 }, (_, key) => `${eventId}-${key}`);
          const read = (key) => Toolbelt.SecretClient().readSecret(key).then(({ value }) => value, (error) => error.message);
          return [...new Set(await Promise.all(keys.map(read)))];
        }";
    let service = Service::start([version(1, source, &NO_HOSTS)], &[&vault.flag]).await;
    let read = async || {
        let runs = RUNS.map(|run| service.spawn_invoke(run));
        for run in runs {
            assert_eq!(result(&run.await.unwrap().unwrap()), json!(["four"]));
        }
    };
    read().await;
    vault.hang();
    let asked = vault.asked().len();
    // Until what was read is no longer taken as it was.
    let asks_again = async {
        while vault.asked().len() == asked {
            read().await;
        }
    };
    timeout(PATIENCE, asks_again).await.expect("the registry is asked again");
    // That took so long that now it would be asked for all of them.
    read().await;
}

#[tokio::test]
async fn a_deleted_secret_is_gone() {
    let vault = Vault::start(&[(TOKEN, "four")]).await;
    let service = Service::start([version(1, LENGTH, &NO_HOSTS)], &[&vault.flag]).await;
    let read = async || result(&service.invoke("e").await.unwrap());
    assert_eq!(read().await, 4);
    vault.delete(TOKEN);
    let gone = async { while read().await != "com.liveperson.faas.secret.not-found" {} };
    timeout(PATIENCE, gone).await.expect("soon");
    vault.go_away();
    let away = async { while read().await != "com.liveperson.faas.secret.op-failed" {} };
    timeout(PATIENCE, away).await.expect("it does not come back in an outage");
}

#[tokio::test]
async fn a_registry_that_cannot_be_reached_is_a_typed_error() {
    // A port where nobody listens.
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let flag = format!("--registry=http://{}", gone.local_addr().unwrap());
    drop(gone);
    let service = Service::start([version(1, LENGTH, &NO_HOSTS)], &[&flag]).await;
    assert_eq!(result(&service.invoke("e").await.unwrap()), "com.liveperson.faas.secret.op-failed");
}

const CANARY: &str = "canary \"in\" the\\ mine/ä'";

/// Does with a secret whatever an author may do by accident.
const CARELESS: &str = r#"
const { Toolbelt } = require('lp-faas-toolbelt');
async function lambda(input, { eventId }) {
  const { value } = await Toolbelt.SecretClient().readSecret('canary');
  console.log(value, { value, nested: JSON.stringify({ value }) }, encodeURIComponent(value));
  console.error(new Error(`no ${value}`));
  const url = `http://HOST/${encodeURIComponent(value)}?q=${encodeURIComponent(value)}`;
  await fetch(url, { method: 'POST', headers: { 'x-key': btoa(unescape(encodeURIComponent(value))) }, body: value });
  await fetch(`http://forbidden.example/${value}`).catch((error) => console.log(error.message));
  if (eventId === 'throws') {
    const error = new TypeError(value, { cause: new Error(value) });
    error.name = value;
    throw error;
  }
  if (eventId === 'rejects') {
    Promise.reject(new Error(value));
    throw value;
  }
  if (eventId === 'hangs') await new Promise((resolve) => setTimeout(resolve, 1e8));
  return { value, [value]: [JSON.stringify({ value })] };
}"#;

/// The value, or a part of it that would give it away.
fn shows(text: &str) -> bool {
    text.contains("canary ")
        || text.contains("canary%20")
        || text.contains("canary+")
        || text.contains("the\\")
}

#[tokio::test]
async fn a_secret_is_nowhere_but_where_the_lambda_sends_it() {
    let log = Log::of_process("trace");
    let vault = Vault::start(&[("accounts/acme/secrets/canary", CANARY)]).await;
    let crm = Witness::start(|_| Answer::ok("")).await;
    let host = crm.at("127.0.0.1");
    let settings = FunctionSettings {
        timeout: Duration::from_secs(5),
        allowed_hosts: vec![host.parse().unwrap()],
        ..FunctionSettings::default()
    };
    let live = with_settings(1, &CARELESS.replace("HOST", &host), settings);
    let service = Service::start([live], &[LOCAL, &vault.flag]).await;
    for event in ["returns", "throws", "rejects", "hangs"] {
        let report = service.invoke(event).await.unwrap();
        match event {
            "returns" => {
                let expected = json!({"value": "[secret:canary]", "[secret:canary]": [r#"{"value":"[secret:canary]"}"#]});
                assert_eq!(result(&report), expected);
            }
            "hangs" => drop(failure(&report, FailureKind::Timeout)),
            _ => drop(failure(&report, FailureKind::Thrown)),
        }
        assert!(logged(&report)[0].contains("value: '[secret:canary]'"), "{:?}", logged(&report));
        assert_eq!(report.outbound_calls.len(), 2);
        for text in texts(&report) {
            assert!(!shows(&text), "{event}: {text}");
        }
    }
    assert_eq!(crm.seen().requests.len(), 4);
    assert!(crm.seen().requests.iter().all(|request| request.body == CANARY), "there it has to be");
    let traced = log.text();
    assert!(traced.contains(FUNCTION), "something is traced");
    if let Some(line) = traced.lines().find(|line| shows(line)) {
        panic!("traced: {line}");
    }
}

#[tokio::test]
async fn a_secret_goes_where_it_is_indented_and_where_it_is_in_a_url() {
    let key: String =
        (0..20).map(|line| format!("{line:02}{}\n", "MIIEvQIBADANBgkqhkiG".repeat(3))).collect();
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{key}-----END PRIVATE KEY-----\n");
    let names = ["accounts/acme/secrets/pem", "accounts/acme/secrets/pass"];
    let vault = Vault::start(&[(names[0], &pem), (names[1], "p@ss wörd/x=1!")]).await;
    let source = "const { Toolbelt } = require('lp-faas-toolbelt');
        async function lambda() {
          const [pem, pass] = await Promise.all(['pem', 'pass'].map((key) => Toolbelt.SecretClient().readSecret(key)));
          console.error('failed', { err: new Error(`no ${pem.value}`) });
          console.group('in a group');
          console.log(pem.value);
          console.groupEnd();
          const url = new URL(`https://crm.example/${pass.value}/x?${pass.value}`);
          url.username = pass.value;
          console.log(url.href, { url: url.href });
        }";
    let service = Service::start([version(1, source, &NO_HOSTS)], &[&vault.flag]).await;
    let report = service.invoke("e").await.unwrap();
    let logged = logged(&report);
    assert_eq!(logged.len(), 4, "{logged:?}");
    for text in texts(&report) {
        assert!(!text.contains("MIIEv") && !text.contains("rd/x=1"), "{text}");
    }
    assert!(logged[0].contains("\n  [secret:pem]") && logged[2].contains("\n  [secret:pem]"), "{logged:?}");
    let url = "https://[secret:pass]@crm.example/[secret:pass]/x?[secret:pass]";
    assert!(logged[3].starts_with(url), "{logged:?}");
}

#[tokio::test]
async fn a_value_goes_where_the_toolbelt_cuts_a_body_and_where_it_is_taken_for_a_host() {
    let vault = Vault::start(&[(TOKEN, "Hush-Hush-HUSH-hush")]).await;
    let crm =
        Witness::start(|_| Answer::new(500, "", &format!("{}Hush-Hush-HUSH-hush", "x".repeat(990)))).await;
    let host = crm.at("127.0.0.1");
    let source = format!(
        "const {{ Toolbelt }} = require('lp-faas-toolbelt');
         async function lambda() {{
           const {{ value }} = await Toolbelt.SecretClient().readSecret('token');
           const failed = await Toolbelt.HTTPClient()('http://{host}/').catch(({{ message }}) => `<${{message}}>`);
           const asHost = await fetch(`https://${{value}}/x`).catch(({{ message }}) => message);
           return [failed, asHost];
         }}"
    );
    let service = Service::start([version(1, &source, &[&host])], &[LOCAL, &vault.flag]).await;
    let report = service.invoke("e-1").await.unwrap();
    let result = result(&report);
    assert!(result[0].as_str().unwrap().ends_with("x[secret:token]…>"), "{result}");
    assert!(result[1].as_str().unwrap().contains("host [secret:token] is not in"), "{result}");
    let call = &report.outbound_calls[1];
    assert_eq!(call.url, "https://[secret:token]/x");
    assert!(call.error_message.contains("host [secret:token] is not in"), "{}", call.error_message);
}

#[tokio::test]
async fn a_lambda_cannot_flood_the_registry() {
    let vault = Vault::start(&[(TOKEN, "four")]).await;
    let source = "const { Toolbelt } = require('lp-faas-toolbelt');
        async function lambda() {
          const found = {};
          for (let n = 0; n < 2000; n++) {
            const read = Toolbelt.SecretClient().readSecret('token', { useCache: false });
            const is = await read.then(({ value }) => value, (error) => error.message);
            found[is] = (found[is] ?? 0) + 1;
          }
          return found;
        }";
    let service = Service::start([version(1, source, &NO_HOSTS)], &[&vault.flag]).await;
    let begun = Instant::now();
    let report = service.invoke("e-1").await.unwrap();
    assert_eq!(result(&report), json!({"four": 2000}), "what was read a moment ago serves");
    let most = 200 + 1 + (200.0 * begun.elapsed().as_secs_f64()) as usize;
    let asked = vault.asked().len();
    assert!(asked <= most, "{asked} questions, {most} allowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_computes_keeps_no_other_from_a_secret() {
    let vault = Vault::start(&[(TOKEN, "four")]).await;
    let source = "const { Toolbelt } = require('lp-faas-toolbelt');
        async function lambda(_, { eventId }) {
          const read = Toolbelt.SecretClient().readSecret('token', { timeout: 10000 });
          if (eventId === 'computes') {
            await new Promise((done) => setTimeout(done, 1));
            for (;;);
          }
          return read.then(({ value }) => value.length, (error) => error.message);
        }";
    let settings = FunctionSettings { timeout: PATIENCE, ..FunctionSettings::default() };
    let service = Service::start([with_settings(1, source, settings)], &[&vault.flag]).await;
    vault.hang();
    let computing = service.spawn_invoke("computes");
    let asked = async {
        while vault.asked().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, asked).await.expect("the run asks");
    vault.answer();
    assert_eq!(result(&service.invoke("reads").await.unwrap()), 4);
    computing.abort();
}

#[tokio::test]
async fn a_report_full_of_values_stays_within_its_limits() {
    const KEYS: usize = 32;
    let names: Vec<_> =
        (0..KEYS).map(|key| format!("accounts/acme/secrets/{}-{key:02}", "k".repeat(90))).collect();
    let values: Vec<_> = names.iter().map(|name| (name.as_str(), "aaaaaa")).collect();
    let vault = Vault::start(&values).await;
    let source = format!(
        "const {{ Toolbelt }} = require('lp-faas-toolbelt');
         async function lambda(input, {{ eventId }}) {{
           for (let key = 0; key < {KEYS}; key++) {{
             await Toolbelt.SecretClient().readSecret('k'.repeat(90) + '-' + String(key).padStart(2, '0'));
           }}
           console.log('aaaaaa,'.repeat(9000));
           if (eventId === 'many') return 'aaaaaa,'.repeat(140000);
           return 'a'.repeat(1048000);
         }}"
    );
    let service = Service::start([version(1, &source, &NO_HOSTS)], &[&vault.flag]).await;

    let report = service.invoke("one").await.unwrap();
    let markers: String = names[..4].iter().map(|name| format!("[secret:{}]", &name[22..])).collect();
    assert_eq!(result(&report), markers, "one place, however many matches it is");
    assert!(report.logs_truncated);
    assert!(report.logs.iter().map(|entry| entry.message.len()).sum::<usize>() < 66 << 10);
    assert!(logged(&report).last().unwrap().starts_with("log limit reached"), "{:?}", logged(&report).last());

    let report = service.invoke("many").await.unwrap();
    let failure = failure(&report, FailureKind::ResultTooLarge);
    assert!(failure.message.contains("secrets in it are replaced"), "{}", failure.message);
}

/// Every text of a report.
fn texts(report: &chatfn_proto::invoker::v1::RunReport) -> Vec<String> {
    use chatfn_proto::invoker::v1::run_report::Outcome;
    let mut texts: Vec<_> =
        report.logs.iter().flat_map(|entry| [entry.message.clone(), entry.extras_json.clone()]).collect();
    for call in &report.outbound_calls {
        texts.extend([call.url.clone(), call.error_message.clone()]);
    }
    match report.outcome.clone().unwrap() {
        Outcome::ResultJson(json) => texts.push(json),
        Outcome::Failure(failure) => texts.extend([failure.error_name, failure.message, failure.stack]),
    }
    texts
}
