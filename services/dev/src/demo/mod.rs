//! The main job, told as a transcript. Every claim it prints is checked: when one is not so, it fails.

mod api;
mod crm;
mod transcript;

use std::{path::Path, time::Duration};

use anyhow::{Context as _, ensure};
use chatfn_proto::{
    convert::to_duration,
    ingest::v1::{Attempt, Delivery, DeliveryState},
    invoker::v1::{FailureKind, RunReport, run_report::Outcome},
    registry::v1::{FunctionSettings, RetryPolicy},
};
use chatfn_rpc::{ErrorReport, Shutdown};
use chatfn_telemetry::Listen;
use tonic::Code;

use crate::{
    cluster::{Cluster, ClusterArgs},
    postgres,
};
use api::{ACCOUNT, Api};
use crm::Crm;
use transcript::Transcript;

const OPEN_CASE: &str = include_str!("../../lambdas/open_case.js");
const LOOP_FOR_EVER: &str = include_str!("../../lambdas/loop_for_ever.js");
const CALL_ELSEWHERE: &str = include_str!("../../lambdas/call_elsewhere.js");

/// The demo's folder; its database starts empty each time, its compiled engine is kept.
const FOLDER: &str = ".data/demo";

/// Runs the demo.
///
/// # Errors
/// The first claim that is not so, or a part of the cluster that does not start.
pub async fn run(shutdown: Shutdown) -> anyhow::Result<()> {
    let mut transcript = Transcript::new();
    transcript.step("A private Postgres, the three services, and a CRM on loopback");
    let folder = Path::new(FOLDER);
    postgres::forget(&folder.join("postgres"))?;
    let any_port = "127.0.0.1:0".parse()?;
    let args = ClusterArgs {
        registry_telemetry: Listen::Off,
        invoker_telemetry: Listen::Off,
        event_ingest_telemetry: Listen::Off,
        data_dir: folder.to_path_buf(),
        database_url: None,
        registry_listen: any_port,
        invoker_listen: any_port,
        event_ingest_listen: any_port,
        certs_dir: None,
        // The CRM is on loopback, where lambdas may not call unless the operator says so.
        egress_allow_cidr: vec!["127.0.0.1/32".to_owned()],
    };
    let stop = shutdown.soft();
    let Some(cluster) = stop.run_until_cancelled(Cluster::start(args)).await else { return Ok(()) };
    let cluster = cluster?;
    let told = stop.run_until_cancelled(tell(&cluster, &mut transcript)).await;
    let stopped = cluster.stop().await;
    // Nothing of the demo's database is of use any more, but a failure may want to be looked into.
    match told {
        Some(told) => told.and(stopped)?,
        None => return stopped.context("interrupted"),
    }
    postgres::forget(&folder.join("postgres"))?;
    next();
    println!("demo: ok");
    Ok(())
}

async fn tell(cluster: &Cluster, transcript: &mut Transcript) -> anyhow::Result<()> {
    let crm = Crm::start().await?;
    transcript.fact("registry", format_args!("{} SERVING", cluster.registry));
    transcript.fact("invoker", format_args!("{} SERVING", cluster.invoker));
    transcript.fact("event-ingest", format_args!("{} SERVING", cluster.event_ingest));
    transcript.fact("CRM", format_args!("http://{}", crm.address));

    let mut api = Api::of(cluster)?;
    deploy(&mut api, &crm, transcript).await?;
    let payload = deliver(&mut api, &crm, transcript).await?;
    duplicate(&mut api, &crm, &payload, transcript).await?;
    suppress(&mut api, transcript).await?;
    second_function(&mut api, transcript).await?;
    loop_for_ever(&mut api, transcript).await?;
    call_elsewhere(&mut api, transcript).await
}

async fn deploy(api: &mut Api, crm: &Crm, transcript: &mut Transcript) -> anyhow::Result<()> {
    transcript.step("A function for chat.in_queue: it opens a case at the CRM, and may call nothing else");
    let settings = FunctionSettings {
        allowed_hosts: vec![crm.address.to_string()],
        environment: [("CRM_URL".to_owned(), format!("http://{}", crm.address))].into(),
        ..FunctionSettings::default()
    };
    let deployed = api.create_and_deploy("chat.in_queue", OPEN_CASE, settings).await?;
    let (function, version) =
        (deployed.function.context("a function")?, deployed.version.context("a version")?);
    ensure!(function.live_version == 1, "version 1 is live");
    transcript.fact("function", &function.name);
    transcript.fact("state", function.state().as_str_name());
    transcript.fact("live version", format_args!("{} (sha256 {})", version.number, &version.digest[..12]));
    transcript.fact("allowed hosts", version.settings.context("settings")?.allowed_hosts.join(", "));
    Ok(())
}

async fn deliver(api: &mut Api, crm: &Crm, transcript: &mut Transcript) -> anyhow::Result<String> {
    transcript.step("A consumer waits in the queue: Chat In-Queue is published, the lambda runs");
    let payload = api.template("chat.in_queue").await?.sample_payload_json;
    for line in payload.lines() {
        println!("   {line}");
    }
    let acknowledged = api.publish("chat.in_queue", "in-queue-1", "chat-1", &payload).await?;
    ensure!(!acknowledged.duplicate, "the first publication is no duplicate");
    transcript.fact("acknowledged", &acknowledged.delivery);

    let delivery = api.outcome("in-queue-1").await?;
    expect(&delivery, DeliveryState::Succeeded)?;
    let report = last_report(&delivery)?;
    let [case] = &crm.cases()[..] else { anyhow::bail!("the CRM has {} cases", crm.cases().len()) };
    ensure!(case.idempotency_key.is_some(), "the case was opened with an idempotency key");
    let sent: serde_json::Value = serde_json::from_str(&payload)?;
    ensure!(
        case.fields["chatSessionKey"] == sent["chatSessionKey"]
            && case.fields["survey"] == sent["preChatSurveyStructure"]["header"]
            && case.fields["answerWithinSeconds"] == sent["ttr"]["newTtr"]["value"],
        "the case holds what was published: {}",
        case.fields
    );
    transcript.fact("case at the CRM", format_args!("{} {}", case.id, case.fields));
    transcript.fact("outcome", state(&delivery));
    if let Some(Outcome::ResultJson(result)) = &report.outcome {
        transcript.fact("result", result);
    }
    log_lines(report, transcript);
    ensure!(!report.logs.is_empty(), "the lambda's log line was kept");
    transcript.fact("duration", milliseconds(report.duration.as_ref()));
    transcript.fact("remaining budget", milliseconds(report.remaining_budget.as_ref()));
    Ok(payload)
}

async fn duplicate(
    api: &mut Api,
    crm: &Crm,
    payload: &str,
    transcript: &mut Transcript,
) -> anyhow::Result<()> {
    transcript.step("The same event again: acknowledged, not run again");
    let acknowledged = api.publish("chat.in_queue", "in-queue-1", "chat-1", payload).await?;
    ensure!(acknowledged.duplicate, "the second publication is a duplicate");
    // An event behind it in the same conversation: when that is done, a second run would have been seen.
    let start = api.template("chat.start").await?.sample_payload_json;
    api.create_and_deploy("chat.start", "", FunctionSettings::default()).await?;
    api.publish("chat.start", "start-1", "chat-1", &start).await?;
    expect(&api.outcome("start-1").await?, DeliveryState::Succeeded)?;
    ensure!(crm.cases().len() == 1, "there is one case");
    transcript.fact("duplicate", acknowledged.duplicate);
    transcript.fact("cases at the CRM", crm.cases().len());
    Ok(())
}

async fn suppress(api: &mut Api, transcript: &mut Transcript) -> anyhow::Result<()> {
    transcript.step("Chat Start fires once per conversation: a second one (a transfer, say) runs nothing");
    let start = api.template("chat.start").await?.sample_payload_json;
    api.publish("chat.start", "start-2", "chat-1", &start).await?;
    let delivery = api.outcome("start-2").await?;
    expect(&delivery, DeliveryState::Suppressed)?;
    ensure!(delivery.attempts.is_empty(), "nothing ran");
    transcript.fact("outcome", state(&delivery));
    Ok(())
}

async fn second_function(api: &mut Api, transcript: &mut Transcript) -> anyhow::Result<()> {
    transcript.step("One function per template: a second one is refused");
    let refused = api.create("chat.in_queue", "", FunctionSettings::default()).await;
    let status = refused.err().context("the second function was accepted")?;
    let report = ErrorReport::from_status(&status);
    let existing = report.resource.context("the existing function is named")?.name;
    ensure!(report.code == Code::AlreadyExists, "{status}");
    ensure!(existing == format!("accounts/{ACCOUNT}/functions/chat.in_queue"), "it is {existing}");
    transcript.fact("status", format_args!("ALREADY_EXISTS {}", report.reason.unwrap_or_default()));
    transcript.fact("existing function", existing);
    transcript.fact("message", report.message);
    Ok(())
}

async fn loop_for_ever(api: &mut Api, transcript: &mut Transcript) -> anyhow::Result<()> {
    transcript.step("A lambda that loops for ever is stopped at its deadline");
    let settings = FunctionSettings {
        timeout: Some(to_duration(Duration::from_millis(200))),
        retry: Some(RetryPolicy {
            max_attempts: 2,
            initial_backoff: Some(to_duration(Duration::from_millis(100))),
            ..RetryPolicy::default()
        }),
        ..FunctionSettings::default()
    };
    api.create_and_deploy("chat.end", LOOP_FOR_EVER, settings).await?;
    let payload = api.template("chat.end").await?.sample_payload_json;
    api.publish("chat.end", "end-1", "chat-1", &payload).await?;
    let delivery = api.outcome("end-1").await?;
    expect(&delivery, DeliveryState::DeadLettered)?;
    ensure!(delivery.attempts.len() == 2, "there were two attempts");
    for attempt in &delivery.attempts {
        ensure!(failure_kind(attempt) == Some(FailureKind::Timeout), "attempt {} timed out", attempt.number);
        let duration = attempt.report.as_ref().and_then(|report| report.duration.as_ref());
        let line = format!("{} after {}", FailureKind::Timeout.as_str_name(), milliseconds(duration));
        transcript.fact(&format!("attempt {}", attempt.number), line);
    }
    log_lines(last_report(&delivery)?, transcript);
    transcript.fact("outcome", state(&delivery));
    Ok(())
}

async fn call_elsewhere(api: &mut Api, transcript: &mut Transcript) -> anyhow::Result<()> {
    transcript.step("A lambda that calls a host it may not is refused, on the record");
    let retry = Some(RetryPolicy { max_attempts: 1, ..RetryPolicy::default() });
    let settings = FunctionSettings { retry, ..FunctionSettings::default() };
    api.create_and_deploy("chat.participants_change", CALL_ELSEWHERE, settings).await?;
    let payload = api.template("chat.participants_change").await?.sample_payload_json;
    api.publish("chat.participants_change", "participants-1", "chat-1", &payload).await?;
    let delivery = api.outcome("participants-1").await?;
    expect(&delivery, DeliveryState::DeadLettered)?;
    let report = last_report(&delivery)?;
    let [call] = &report.outbound_calls[..] else { anyhow::bail!("one call is on record") };
    ensure!(call.error_reason == "HOST_NOT_ALLOWED" && call.status == 0, "it was refused: {call:?}");
    transcript.fact("call", format_args!("{} {} {}", call.method, call.url, call.error_reason));
    transcript.fact("message", &call.error_message);
    transcript.fact("outcome", state(&delivery));
    Ok(())
}

fn expect(delivery: &Delivery, expected: DeliveryState) -> anyhow::Result<()> {
    ensure!(delivery.state() == expected, "expected {}: {delivery:?}", expected.as_str_name());
    Ok(())
}

fn last_report(delivery: &Delivery) -> anyhow::Result<&RunReport> {
    delivery.attempts.last().and_then(|attempt| attempt.report.as_ref()).context("a run was reported")
}

fn failure_kind(attempt: &Attempt) -> Option<FailureKind> {
    match attempt.report.as_ref()?.outcome.as_ref()? {
        Outcome::Failure(failure) => Some(failure.kind()),
        Outcome::ResultJson(_) => None,
    }
}

fn state(delivery: &Delivery) -> String {
    let state = delivery.state().as_str_name().trim_start_matches("DELIVERY_STATE_");
    match delivery.reason.as_str() {
        "" => state.to_owned(),
        reason => format!("{state} {reason}: {}", delivery.reason_message),
    }
}

fn log_lines(report: &RunReport, transcript: &Transcript) {
    for entry in &report.logs {
        let level = entry.level().as_str_name().trim_start_matches("LOG_LEVEL_").to_lowercase();
        transcript.fact("log", format_args!("{level}: {}", entry.message));
    }
}

fn milliseconds(duration: Option<&prost_types::Duration>) -> String {
    duration.map_or_else(
        || "unknown".to_owned(),
        |duration| format!("{:.1} ms", duration.seconds as f64 * 1e3 + f64::from(duration.nanos) / 1e6),
    )
}

/// What to type next.
fn next() {
    println!(
        r#"
Next: `make run` in one terminal, and in another (grpcurl: `make tools`, then .tools/py/bin/grpcurl):

  grpcurl -plaintext 127.0.0.1:50051 list
  grpcurl -plaintext 127.0.0.1:50051 chatfn.registry.v1.TemplateService/ListTemplates
  grpcurl -plaintext -d '{{"parent": "accounts/acme", "template": "chat.in_queue"}}' \
      127.0.0.1:50051 chatfn.registry.v1.FunctionService/CreateFunction
  grpcurl -plaintext -d '{{"name": "accounts/acme/functions/chat.in_queue"}}' \
      127.0.0.1:50051 chatfn.registry.v1.FunctionService/DeployFunction
  grpcurl -plaintext -d '{{"event": {{"account": "acme", "event_id": "e-1", "template": "chat.in_queue",
      "conversation_id": "c-1", "payload": {{"chatSessionKey": "H1", "ttr": {{"newTtr": {{"value": 300}}}}}}}}}}' \
      127.0.0.1:50053 chatfn.ingest.v1.EventIngestService/PublishEvent
  grpcurl -plaintext -d '{{"name": "accounts/acme/deliveries/e-1"}}' \
      127.0.0.1:50053 chatfn.ingest.v1.DeliveryService/GetDelivery
"#
    );
}
