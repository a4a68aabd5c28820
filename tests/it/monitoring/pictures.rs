//! The pictures of docs/PLAYBOOKS.md: what the dashboard shows of a minute of load.

use std::{
    path::Path,
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use chatfn_proto::ingest::v1::DeliveryState;
use chatfn_tests::{
    api::{Api, event, settings},
    cluster::Cluster,
    prometheus::Prometheus,
    witness::Witness,
};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{LAMBDA, halting};

const MINUTE: Duration = Duration::from_secs(60);
/// Publishers, and time between the events of each: together fewer than the 20 outbound calls a second that a function has.
const PUBLISHERS: usize = 4;
const PERIOD: Duration = Duration::from_millis(150);

/// What a publisher sends, by the number of the event: most succeed, some fail, some are suppressed, some have no function.
fn template_and_id(publisher: usize, number: usize) -> (&'static str, String, String) {
    let conversation = format!("c-{publisher}-{}", number / 10);
    match number % 10 {
        0 | 1 => ("chat.start", format!("e-{publisher}-{number}"), conversation),
        2 => ("chat.in_queue", format!("e-{publisher}-{number}"), conversation),
        3 => ("chat.participants_change", format!("fails-{publisher}-{number}"), conversation),
        _ => ("chat.participants_change", format!("e-{publisher}-{number}"), conversation),
    }
}

/// Seconds since 1970.
fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    since.as_secs().to_string()
}

#[tokio::test]
#[ignore = "takes a minute and makes pictures: make dashboard-pictures"]
async fn dashboard_pictures() {
    let (cluster, witness) = (Cluster::start().await, Witness::start().await);
    let prometheus = Prometheus::start(&cluster).await;
    let mut api = Api::of(&cluster);
    let begun = now();
    api.deploy("chat.participants_change", LAMBDA, settings(&witness.host, 2)).await;
    api.deploy("chat.start", LAMBDA, settings(&witness.host, 2)).await;
    api.deploy("chat.end", LAMBDA, halting(&witness.host)).await;

    // The load is paced by the clock: it is no test, and a slow machine's pictures show that it is one.
    let end = Instant::now() + MINUTE;
    let mut publishers = JoinSet::new();
    for publisher in 0..PUBLISHERS {
        let mut api = api.clone();
        publishers.spawn(async move {
            let mut ticks = interval(PERIOD);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            for number in 0.. {
                ticks.tick().await;
                if Instant::now() > end {
                    return;
                }
                let (template, id, conversation) = template_and_id(publisher, number);
                api.publish(event(template, &id, &conversation)).await.expect("it is recorded");
            }
        });
    }
    // Halfway a deploy, and a conversation that is halted.
    tokio::time::sleep_until(end - MINUTE / 2).await;
    api.update("chat.participants_change", &format!("// Another version.{LAMBDA}")).await;
    api.redeploy("chat.participants_change").await.expect("it is deployed");
    assert_eq!(api.run("chat.end", "fails-and-halts").await.state(), DeliveryState::Halted);
    while let Some(ended) = publishers.join_next().await {
        ended.expect("a publisher");
    }

    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let url = format!("http://{}", prometheus.address);
    let drawn = Command::new("python3")
        .arg(repository.join("services/dev/dashboard-pictures.py"))
        .args([url, begun, now()])
        .status();
    assert!(drawn.expect("python3; make dashboard-pictures brings what it needs").success());
}
