//! How soon many watchers hear of a change.

use std::time::{Duration, Instant};

use chatfn_proto::registry::v1::{
    FunctionSettings, WatchAck, WatchDeploymentsRequest, WatchDeploymentsResponse, WatchStart,
    deployment_watch_service_client::DeploymentWatchServiceClient, watch_deployments_request::Message,
    watch_deployments_response::Change,
};
use chatfn_rpc::{RequestExt as _, connect};
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tonic::{Request, Streaming};

use crate::{
    measure::{median, milliseconds, quantile, rounded},
    world::World,
};

const WATCHERS: usize = 100;
const CHANGES: usize = 40;

/// See the table on the front page.
pub(crate) async fn measure(rounds: usize) -> Value {
    let world = World::start().await;
    world.create().await;
    let (mut ones, mut hundreds) = (vec![], vec![]);
    for round in 1..=rounds {
        ones.push(fanout(&world, 1).await);
        hundreds.push(fanout(&world, WATCHERS).await);
        eprintln!(
            "fan-out, round {round}: p99 {:.1} ms with 1, {:.1} ms with {WATCHERS}",
            ones[round - 1],
            hundreds[round - 1]
        );
    }
    json!({
        "watch_fanout_100_p99_ms": median(&hundreds),
        "watch_fanout_100_limit_ms": 250,
        "watch_fanout_1_p99_ms": median(&ones),
        "watch_fanout_ratio": rounded(median(&hundreds) / median(&ones)),
    })
}

/// p99 over all changes and watchers.
async fn fanout(world: &World, watchers: usize) -> f64 {
    let (heard, mut arrivals) = mpsc::channel(2 * watchers);
    let mut tasks = Vec::new();
    for _ in 0..watchers {
        let mut watch = watch(world).await;
        let heard = heard.clone();
        tasks.push(tokio::spawn(async move {
            while let Some(Ok(response)) = watch.next().await {
                if matches!(response.change, Some(Change::Removed(_))) {
                    heard.send(Instant::now()).await.expect("the bench listens");
                }
            }
        }));
    }
    let mut latencies = Vec::new();
    for number in 0..CHANGES {
        world
            .edit(format!("async function lambda() {{ return {number}; }}"), FunctionSettings::default())
            .await;
        world.deploy().await;
        let sent = Instant::now();
        world.undeploy().await;
        for _ in 0..watchers {
            let arrival = tokio::time::timeout(Duration::from_secs(30), arrivals.recv()).await;
            latencies.push(milliseconds(arrival.expect("in time").expect("a watcher") - sent));
        }
    }
    for task in tasks {
        task.abort();
    }
    quantile(&latencies, 0.99)
}

/// A watch on a connection of its own, once it has its snapshot. It acknowledges all at once: it is not what Undeploy
/// waits for.
async fn watch(world: &World) -> Streaming<WatchDeploymentsResponse> {
    let start = WatchStart { watcher: "bench".into(), ..WatchStart::default() };
    let said = [Message::Start(start), Message::Ack(WatchAck { revision: i64::MAX })];
    let said = said.map(|message| WatchDeploymentsRequest { message: Some(message) });
    // A watcher that has no more to say has left.
    let requests = stream::iter(said).chain(stream::pending());
    let client = connect(world.registry_config.clone()).expect("a client");
    let mut watch = DeploymentWatchServiceClient::new(client)
        .watch_deployments(Request::new(requests).without_deadline())
        .await
        .expect("a watch")
        .into_inner();
    while let Some(response) = watch.next().await {
        if matches!(response.expect("a snapshot").change, Some(Change::SnapshotComplete(_))) {
            break;
        }
    }
    watch
}
