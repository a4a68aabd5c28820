//! The dashboard and the alerts of `deploy/monitoring`, asked by a real Prometheus of a cluster that runs.

mod hanging;
mod pictures;

use std::{collections::BTreeSet, fs};

use chatfn_proto::{
    ingest::v1::DeliveryState,
    registry::v1::{AfterLastAttempt, FunctionSettings, RetryPolicy},
};
use chatfn_tests::{
    api::{Api, event, settings},
    cluster::Cluster,
    eventually,
    prometheus::{Prometheus, Rule, monitoring},
    witness::Witness,
};
use serde_json::Value;

/// Does what the event's id says.
const LAMBDA: &str = r"
async function lambda(input, context) {
  if (context.eventId.includes('fails')) throw new Error('as asked');
  await fetch(`${process.env.WITNESS}/${context.eventId}`, { method: 'POST', body: 'x' });
}";

/// Depends on the kernel that the tests run on.
const OF_THE_KERNEL: [&str; 2] = ["ChatfnConfinementMissing", "ChatfnResetsSlow"];
/// More than the alert lets pass.
const DEAD_LETTERS: usize = 24;

/// Of these, conversations are halted after a failure.
fn halting(host: &str) -> FunctionSettings {
    let settings = settings(host, 1);
    let retry = settings.retry.clone().unwrap_or_default();
    let retry = RetryPolicy { after_last_attempt: AfterLastAttempt::Halt.into(), ..retry };
    FunctionSettings { retry: Some(retry), ..settings }
}

/// Deploys functions and has events end in every way that is usual.
async fn events(api: &mut Api, witness: &Witness) {
    api.deploy("chat.participants_change", LAMBDA, settings(&witness.host, 1)).await;
    api.deploy("chat.start", LAMBDA, settings(&witness.host, 1)).await;
    api.deploy("chat.end", LAMBDA, halting(&witness.host)).await;
    for number in 0..DEAD_LETTERS {
        let id = format!("fails-{number}");
        api.publish(event("chat.participants_change", &id, &id)).await.unwrap();
    }
    for (template, id, conversation, state) in [
        ("chat.participants_change", "e-1", "c-1", DeliveryState::Succeeded),
        ("chat.start", "e-2", "c-1", DeliveryState::Succeeded),
        ("chat.start", "e-3", "c-1", DeliveryState::Suppressed),
        ("chat.in_queue", "e-4", "c-1", DeliveryState::NoFunction),
        ("chat.end", "fails-and-halts", "c-2", DeliveryState::Halted),
    ] {
        assert_eq!(api.run_in(template, id, conversation).await.state(), state, "{id}");
    }
    for number in 0..DEAD_LETTERS {
        let state = api.outcome(&format!("fails-{number}")).await.state();
        assert_eq!(state, DeliveryState::DeadLettered);
    }
}

/// The queries of the dashboard, and the title of the panel of each.
fn queries() -> Vec<(String, String)> {
    let text = fs::read_to_string(monitoring().join("dashboard.json")).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    panels
        .filter(|panel| panel["type"] != "row")
        .flat_map(|panel| {
            panel["targets"].as_array().expect("queries").iter().map(|it| (&panel["title"], it))
        })
        // Long enough for all that the test does.
        .map(|(title, it)| (text(title), text(&it["expr"]).replace("$__rate_interval", "10m")))
        .collect()
}

#[tokio::test]
async fn every_panel_shows_something_and_nothing_fires_but_what_happened() {
    let (mut cluster, witness) = (Cluster::start().await, Witness::start().await);
    let prometheus = Prometheus::start(&cluster).await;
    // Counters are seen at 0 before anything happens, or nothing is seen to grow.
    let of_all = "chatfn_process_uptime_seconds";
    eventually("all are scraped", async || (prometheus.query(of_all).await.len() == 3).then_some(())).await;
    events(&mut Api::of(&cluster), &witness).await;

    let queries = queries();
    assert!(queries.len() > 30);
    for (title, query) in queries {
        eventually(&format!("{title} shows something: {query}"), async || {
            let samples = prometheus.query(&query).await;
            samples.iter().any(|sample| !sample.value.is_nan()).then_some(())
        })
        .await;
    }

    let happened = BTreeSet::from(["ChatfnEventsFail", "ChatfnConversationsHalted"]);
    let rules = prometheus.rules().await;
    assert!(happened.iter().all(|name| rules.iter().any(|rule| rule.name == *name)));
    for Rule { name, query } in &rules {
        if OF_THE_KERNEL.contains(&name.as_str()) {
            prometheus.query(query).await;
            continue;
        }
        // Not at once: lanes are taken over one by one, say, and the ledger looks at events some seconds later.
        let must = happened.contains(name.as_str());
        eventually(&format!("{name} is {}: {query}", if must { "so" } else { "not so" }), async || {
            (prometheus.query(query).await.is_empty() != must).then_some(())
        })
        .await;
    }
    let summaries = eventually("it is told", async || {
        let summaries = prometheus.firing("ChatfnEventsFail").await;
        (!summaries.is_empty()).then_some(summaries)
    })
    .await;
    let [summary] = &summaries[..] else { panic!("{summaries:?}") };
    assert!(summary.ends_with("% of the events of 15 minutes are DEAD_LETTERED"), "{summary}");

    // The jobs are named as the alerts say.
    cluster.invoker.kill();
    let down = rules.iter().find(|rule| rule.name == "ChatfnProcessDown").expect("it is watched");
    let down = eventually("what is gone is missed", async || prometheus.query(&down.query).await.pop()).await;
    assert_eq!(down.labels["job"], "invoker");
}
