//! What the services tell of themselves is what happened, and tells nothing of anybody.

use std::fs;

use chatfn_proto::{
    ingest::v1::{DeliveryState, Event, event::PayloadKind},
    registry::v1::{SetSecretRequest, secret_service_client::SecretServiceClient},
};
use chatfn_tests::{
    api::{ACCOUNT, Api, event, settings},
    cluster::Cluster,
    eventually,
    scrape::{Scrape, get},
    witness::Witness,
};
use tokio::net::TcpStream;

/// Nobody may find these in what a service tells.
const SECRET: &str = "canary-secret";
const PAYLOAD: &str = "canary-payload";
const SOURCE: &str = "canary-source";
const SETTING: &str = "canary-setting";
const IDS: &str = "canary-id";

const TEMPLATE: &str = "chat.participants_change";

/// Does what the event's id says.
const LAMBDA: &str = r"
// canary-source
const { Toolbelt } = require('lp-faas-toolbelt');
async function lambda(input, context) {
  if (context.eventId.includes('throws')) throw new Error(JSON.stringify(input.payload));
  if (context.eventId.includes('retried') && context.attempt < 2) throw new Error('once');
  const secret = await Toolbelt.SecretClient().readSecret('key');
  const sent = await fetch(`${process.env.WITNESS}/${context.eventId}`, { method: 'POST', body: secret.value });
  if (context.eventId.includes('forbidden')) await fetch('http://forbidden.example.com/').catch(() => 0);
  return { status: sent.status, payload: input.payload };
}";

fn canary(id: &str) -> Event {
    let payload = format!(
        r#"{{"canary": "{PAYLOAD}", "chatSessionKey": "H1", "participantChange": {{"oldParticipants": [], "newParticipants": []}}}}"#
    );
    Event {
        payload_kind: Some(PayloadKind::PayloadJson(payload)),
        ..event(TEMPLATE, &format!("{IDS}-{id}"), &format!("{IDS}-{id}"))
    }
}

/// The registry, the invoker and event-ingest.
async fn scrape(cluster: &Cluster) -> [Scrape; 3] {
    [
        Scrape::of(cluster.registry.metrics()).await,
        Scrape::of(cluster.invoker.metrics()).await,
        Scrape::of(cluster.event_ingest.metrics()).await,
    ]
}

#[tokio::test]
async fn what_is_counted_is_what_happened() {
    let (mut cluster, witness) = (Cluster::start().await, Witness::start().await);
    cluster.registry.stop().await;
    cluster.registry.flag("secret-keys", &format!("tests: {}=", "A".repeat(43)));
    cluster.registry.start();
    cluster.registry.serving().await;
    let secret = SetSecretRequest {
        parent: format!("accounts/{ACCOUNT}"),
        key: "key".into(),
        value: SECRET.into(),
        ..SetSecretRequest::default()
    };
    SecretServiceClient::new(cluster.registry.client()).set_secret(secret).await.unwrap();
    let mut api = Api::of(&cluster);
    let mut settings = settings(&witness.host, 2);
    settings.environment.insert("CANARY".into(), SETTING.into());
    api.deploy(TEMPLATE, LAMBDA, settings.clone()).await;
    api.deploy("chat.start", LAMBDA, settings).await;
    api.update(TEMPLATE, "function lambda( {").await;
    api.redeploy(TEMPLATE).await.expect_err("it does not build");

    for id in ["one", "two", "forbidden", "retried", "throws"] {
        api.publish(canary(id)).await.unwrap();
    }
    assert!(api.publish(canary("one")).await.unwrap().duplicate);
    let reused = Event { headers: Vec::new(), ..event(TEMPLATE, &format!("{IDS}-one"), "another") };
    api.publish(reused).await.expect_err("its id is another event's");
    api.publish(Event { template: "chat.unknown".into(), ..canary("unknown") })
        .await
        .expect_err("no such template");
    api.publish(event("chat.start", "s-1", "c-1")).await.unwrap();
    api.publish(event("chat.start", "s-2", "c-1")).await.unwrap();
    api.publish(event("chat.end", "nothing", "c-2")).await.unwrap();
    let mut states = Vec::new();
    for id in ["one", "two", "forbidden", "retried", "throws"] {
        states.push(api.outcome(&format!("{IDS}-{id}")).await.state());
    }
    for id in ["s-1", "s-2", "nothing"] {
        states.push(api.outcome(id).await.state());
    }
    let [.., dead, _, suppressed, none] = states[..] else { panic!("{states:?}") };
    assert_eq!(
        (dead, suppressed, none),
        (DeliveryState::DeadLettered, DeliveryState::Suppressed, DeliveryState::NoFunction)
    );

    // An outcome is told to callers as soon as it is durable, and counted a moment later.
    let outcomes = "chatfn_ingest_outcomes_total";
    let [registry, invoker, ingest] = eventually("all outcomes are counted", async || {
        let scraped = scrape(&cluster).await;
        (scraped[2].sum(outcomes) == 8).then_some(scraped)
    })
    .await;
    let expect = |scrape: &Scrape, expected: &[(&str, u64)]| {
        for (series, value) in expected {
            assert_eq!(scrape.value(series), *value, "{series} in\n{}", scrape.text);
        }
    };
    expect(
        &ingest,
        &[
            ("chatfn_ingest_events_total{result=\"accepted\"}", 8),
            ("chatfn_ingest_events_total{result=\"duplicate\"}", 1),
            ("chatfn_ingest_events_total{result=\"id_reused\"}", 1),
            ("chatfn_ingest_events_refused_total{reason=\"id_reused\"}", 1),
            ("chatfn_ingest_events_refused_total{reason=\"invalid\"}", 1),
            ("chatfn_ingest_outcomes_total{state=\"SUCCEEDED\"}", 5),
            ("chatfn_ingest_outcomes_total{state=\"DEAD_LETTERED\"}", 1),
            ("chatfn_ingest_outcomes_total{state=\"SUPPRESSED\"}", 1),
            ("chatfn_ingest_outcomes_total{state=\"NO_FUNCTION\"}", 1),
            ("chatfn_ingest_attempts_total{result=\"returned\"}", 5),
            ("chatfn_ingest_attempts_total{result=\"thrown\"}", 3),
            ("chatfn_ingest_retries_total", 2),
            ("chatfn_ingest_ack_to_start_seconds_count", 6),
            ("chatfn_ingest_lanes_owned", 64),
            ("chatfn_ingest_queue_events", 0),
            ("chatfn_ingest_conversations_unfinished", 0),
            ("chatfn_ingest_ledger_unreachable_events", 0),
            ("chatfn_ingest_partition_days_ahead", 3),
            ("chatfn_rpc_server_calls_total{method=\"EventIngestService/PublishEvent\",code=\"OK\"}", 9),
            (
                "chatfn_rpc_server_calls_total{method=\"EventIngestService/PublishEvent\",code=\"ALREADY_EXISTS\"}",
                1,
            ),
            (
                "chatfn_rpc_client_calls_total{callee=\"invoker\",method=\"InvokerService/Invoke\",code=\"OK\"}",
                8,
            ),
            ("chatfn_deployments_source{source=\"registry\"}", 1),
            ("chatfn_deployments_functions", 2),
        ],
    );
    expect(
        &invoker,
        &[
            ("chatfn_invoker_runs_total{outcome=\"returned\"}", 5),
            ("chatfn_invoker_runs_total{outcome=\"thrown\"}", 3),
            ("chatfn_invoker_run_seconds_count", 8),
            ("chatfn_invoker_runs_in_progress", 0),
            ("chatfn_invoker_egress_requests_total{result=\"answered\"}", 5),
            ("chatfn_invoker_egress_requests_total{result=\"HOST_NOT_ALLOWED\"}", 1),
            ("chatfn_invoker_egress_sent_bytes_total", 5 * SECRET.len() as u64),
            ("chatfn_rpc_server_calls_total{method=\"InvokerService/Invoke\",code=\"OK\"}", 8),
            ("chatfn_deployments_age_seconds", 0),
        ],
    );
    // Both have the same source and settings.
    assert_eq!(invoker.value("chatfn_invoker_prepared_functions"), 1, "{}", invoker.text);
    expect(
        &registry,
        &[
            ("chatfn_registry_deploys_total{outcome=\"build_failed\"}", 1),
            ("chatfn_registry_watchers", 2),
            ("chatfn_registry_watcher_behind_changes", 0),
            ("chatfn_registry_secret_accesses_total{outcome=\"not_found\"}", 0),
        ],
    );
    assert!(registry.value("chatfn_registry_deploys_total{outcome=\"live\"}") >= 4, "{}", registry.text);
    assert!(
        registry.value("chatfn_registry_secret_accesses_total{outcome=\"given\"}") >= 1,
        "{}",
        registry.text
    );

    let reference = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/METRICS.md");
    let reference = fs::read_to_string(reference).unwrap();
    for Scrape { text, .. } in [&registry, &invoker, &ingest] {
        for canary in [SECRET, PAYLOAD, SOURCE, SETTING, IDS, ACCOUNT, "forbidden.example.com"] {
            assert!(!text.contains(canary), "{canary} is told in\n{text}");
        }
    }
    for (name, kind) in [&registry, &invoker, &ingest].into_iter().flat_map(Scrape::names) {
        let suffix = if kind == "counter" { "_total" } else { "" };
        assert!(
            reference.contains(&format!("| `{name}{suffix}` | {kind}")),
            "{name} ({kind}) is not in docs/METRICS.md"
        );
    }
}

#[tokio::test]
async fn events_that_nobody_starts_grow_older_and_are_young_again_once_they_run() {
    let mut cluster = Cluster::start().await;
    let mut api = Api::of(&cluster);
    api.deploy(TEMPLATE, "async function lambda() { return 1 }", settings("127.0.0.1", 1)).await;
    cluster.invoker.kill();
    let ids: Vec<_> = (0..40).map(|number| format!("e-{number}")).collect();
    for id in &ids {
        api.publish(event(TEMPLATE, id, id)).await.unwrap();
    }
    let (address, age) = (cluster.event_ingest.metrics(), "chatfn_ingest_oldest_unstarted_seconds");
    eventually("the oldest event is two seconds old", async || {
        (Scrape::of(address).await.value(age) >= 2).then_some(())
    })
    .await;
    cluster.invoker.start();
    for id in &ids {
        assert_eq!(api.outcome(id).await.state(), DeliveryState::Succeeded);
    }
    let scrape = eventually("nothing waits to be started", async || {
        let scrape = Scrape::of(address).await;
        (scrape.value(age) == 0 && scrape.sum("chatfn_ingest_outcomes_total") == 40).then_some(scrape)
    })
    .await;
    assert!(scrape.value("chatfn_ingest_attempts_total{result=\"not_taken\"}") >= 1, "{}", scrape.text);
    assert_eq!(scrape.value("chatfn_ingest_attempts_total{result=\"returned\"}"), 40, "{}", scrape.text);
}

#[tokio::test]
async fn liveness_is_the_process_and_readiness_is_what_health_says() {
    let mut cluster = Cluster::start().await;
    let [registry, ingest] = [&cluster.registry, &cluster.event_ingest].map(|it| it.metrics());
    for address in [registry, cluster.invoker.metrics(), ingest] {
        assert_eq!([get(address, "/livez").await.status, get(address, "/readyz").await.status], [200, 200]);
        assert_eq!(get(address, "/").await.status, 404);
    }
    cluster.registry.stop().await;
    assert!(TcpStream::connect(registry).await.is_err(), "it is gone with its process");
    // Stale, not down; and it says so.
    let source = "chatfn_deployments_source{source=\"memory\"}";
    eventually("event-ingest tells that it is stale", async || {
        (Scrape::of(ingest).await.value(source) == 1).then_some(())
    })
    .await;
    assert_eq!([get(ingest, "/livez").await.status, get(ingest, "/readyz").await.status], [200, 200]);

    // Longer than the test takes: it is told until the very end.
    cluster.registry.flag("rpc-drain-delay", "5m");
    cluster.registry.start();
    cluster.registry.serving().await;
    assert_eq!(get(registry, "/readyz").await.status, 200);
    cluster.registry.terminate();
    eventually("it tells that it drains", async || {
        (get(registry, "/readyz").await.status == 503).then_some(())
    })
    .await;
    assert_eq!(get(registry, "/livez").await.status, 200);
    assert_eq!(Scrape::of(registry).await.sum("chatfn_build_info"), 1);
    cluster.registry.kill();
}

#[tokio::test]
async fn who_is_slow_or_too_many_takes_nothing_from_callers() {
    let cluster = Cluster::start().await;
    let address = cluster.event_ingest.metrics();
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let mut api = Api::of(&cluster);
    assert_eq!(api.run("chat.end", "e-1").await.state(), DeliveryState::NoFunction);
    assert_eq!(get(address, "/livez").await.status, 0, "one too many is closed at once");
    drop(silent);
    let scraped = eventually("their places are free again", async || {
        let answer = get(address, "/metrics").await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert!(
        scraped.body.contains("chatfn_ingest_outcomes_total{state=\"NO_FUNCTION\"} 1"),
        "{}",
        scraped.body
    );
}
