//! Publishers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use chatfn_proto::ingest::v1::{
    Event, PublishEventRequest, StreamEventsRequest, event::PayloadKind,
    event_ingest_service_client::EventIngestServiceClient, stream_events_response::Result as Answered,
};
use chatfn_rpc::RequestExt as _;
use futures_util::stream;
use tokio::task::JoinSet;
use tonic::{Request, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::{
    cluster::{ACCOUNT, Cluster, FLOOD, LIMITED, POOR, TEMPLATE},
    measure::{PAYLOAD, resident_mib, throughput},
};

const STREAMS: usize = 4;
const CALLERS: usize = 64;

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A new event of a conversation of its own.
fn event() -> Event {
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    Event {
        account: ACCOUNT.to_owned(),
        event_id: format!("n{n}"),
        template: TEMPLATE.to_owned(),
        conversation_id: format!("c{n}"),
        payload_kind: Some(PayloadKind::PayloadJson(PAYLOAD.to_owned())),
        ..Event::default()
    }
}

/// Acknowledgements per second over streams.
pub(crate) async fn streams(cluster: &Cluster, template: &str, events: usize) -> f64 {
    let each = events / STREAMS;
    throughput(STREAMS, each, |_| {
        let mut client = EventIngestServiceClient::new(cluster.client.clone());
        let template = template.to_owned();
        async move {
            let requests = (1..=each as i64).map(move |client_sequence| StreamEventsRequest {
                client_sequence,
                event: Some(Event { template: template.clone(), ..event() }),
            });
            let request = Request::new(stream::iter(requests)).without_deadline();
            let mut answers = client.stream_events(request).await.expect("a stream").into_inner();
            let mut acknowledged = 0;
            while let Some(answer) = answers.message().await.expect("an answer") {
                assert!(matches!(answer.result, Some(Answered::Acknowledgement(_))), "{answer:?}");
                acknowledged += 1;
            }
            assert_eq!(acknowledged, each);
        }
    })
    .await
}

async fn publish(
    mut client: EventIngestServiceClient<chatfn_rpc::Client>,
    event: Event,
) -> Result<(), Status> {
    client.publish_event(PublishEventRequest { event: Some(event) }).await.map(drop)
}

/// PublishEvent calls per second.
pub(crate) async fn unary(cluster: &Cluster, calls: usize) -> f64 {
    let each = calls / CALLERS;
    throughput(CALLERS, each, |_| {
        let client = EventIngestServiceClient::new(cluster.client.clone());
        async move {
            for _ in 0..each {
                publish(client.clone(), event()).await.expect("an acknowledgement");
            }
        }
    })
    .await
}

/// Calls per second that do nothing.
pub(crate) async fn noop(cluster: &Cluster, calls: usize) -> f64 {
    let each = calls / CALLERS;
    throughput(CALLERS, each, |_| {
        let mut client = HealthClient::new(cluster.client.clone());
        async move {
            for _ in 0..each {
                client.check(HealthCheckRequest::default()).await.expect("an answer");
            }
        }
    })
    .await
}

/// Events per second from the publisher to their outcomes.
pub(crate) async fn to_done(cluster: &Cluster, events: usize) -> f64 {
    let begun = Instant::now();
    streams(cluster, TEMPLATE, events).await;
    cluster.until_done().await;
    events as f64 / begun.elapsed().as_secs_f64()
}

/// PublishEvent calls per second of an account alone; and while another one makes ten times as many at a time, of both.
pub(crate) async fn flooded(cluster: &Cluster, calls: usize) -> (f64, f64, f64) {
    let alone = unary(cluster, calls).await;
    let (stop, flood) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let callers: Vec<_> = (0..10 * CALLERS)
        .map(|_| {
            let (stop, flood) = (stop.clone(), flood.clone());
            let client = EventIngestServiceClient::new(cluster.client.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let event = Event { account: FLOOD.to_owned(), ..event() };
                    match publish(client.clone(), event).await {
                        Ok(()) => _ = flood.fetch_add(1, Ordering::Relaxed),
                        // As a client should that is told to come back later.
                        Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                    }
                }
            })
        })
        .collect();
    let (begun, before) = (Instant::now(), flood.load(Ordering::Relaxed));
    let with_flood = unary(cluster, calls).await;
    let flooded = (flood.load(Ordering::Relaxed) - before) as f64 / begun.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.expect("no caller fails");
    }
    (alone, with_flood, flooded)
}

/// PublishEvent calls per second of an account while another one with a quota makes so many, whatever becomes of them.
pub(crate) async fn beside(cluster: &Cluster, per_second: u32, calls: usize) -> f64 {
    let client = EventIngestServiceClient::new(cluster.client.clone());
    let flood = tokio::spawn(async move {
        let (begun, mut sent, mut calls) = (Instant::now(), 0, JoinSet::new());
        loop {
            let due = (begun.elapsed().as_secs_f64() * f64::from(per_second)) as u64;
            for _ in sent..due {
                let event = Event { account: LIMITED.to_owned(), ..event() };
                calls.spawn(publish(client.clone(), event));
            }
            sent = due;
            while calls.try_join_next().is_some() {}
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    let served = unary(cluster, calls).await;
    // With all its calls.
    flood.abort();
    served
}

/// PublishEvent at a steady rate: milliseconds to the acknowledgement, and from there to the call of the invoker.
pub(crate) async fn half_load(cluster: &Cluster, per_second: f64, time: Duration) -> (Vec<f64>, Vec<f64>) {
    cluster.invoker.remembers.store(true, Ordering::Relaxed);
    let begun = tokio::time::Instant::now();
    let mut calls = Vec::new();
    for n in 0..(per_second * time.as_secs_f64()) as u32 {
        // By the clock, not by what was answered: a slow answer delays no other call.
        let due = begun + Duration::from_secs_f64(f64::from(n) / per_second);
        if due > tokio::time::Instant::now() {
            tokio::time::sleep_until(due).await;
        }
        let client = EventIngestServiceClient::new(cluster.client.clone());
        let event = event();
        calls.push(tokio::spawn(async move {
            let (id, sent) = (event.event_id.clone(), Instant::now());
            publish(client, event).await.expect("an acknowledgement");
            (id, sent.elapsed(), Instant::now())
        }));
    }
    let mut acknowledged = Vec::new();
    for call in calls {
        acknowledged.push(call.await.expect("no call fails"));
    }
    cluster.until_done().await;
    cluster.invoker.remembers.store(false, Ordering::Relaxed);
    let starts = std::mem::take(&mut *cluster.invoker.starts.lock().expect("not poisoned"));
    let millis = |duration: Duration| duration.as_secs_f64() * 1e3;
    let started =
        acknowledged.iter().map(|(id, _, at)| millis(starts[id].saturating_duration_since(*at))).collect();
    (acknowledged.iter().map(|(_, took, _)| millis(*took)).collect(), started)
}

/// Publishes, and has delivered, as fast as it goes; gives by how many MiB the process has grown after the first quarter.
pub(crate) async fn soak(cluster: &Cluster, time: Duration) -> f64 {
    let begun = Instant::now();
    let mut settled = None;
    while begun.elapsed() < time {
        to_done(cluster, 10_000).await;
        if settled.is_none() && begun.elapsed() >= time / 4 {
            settled = Some(resident_mib());
        }
    }
    settled.map_or(0.0, |settled| resident_mib() - settled)
}

/// Publishes the same event again and again until it is acknowledged.
pub(crate) async fn first_ack(cluster: &Cluster) {
    let event = event();
    let client = EventIngestServiceClient::new(cluster.client.clone());
    while publish(client.clone(), event.clone()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Milliseconds that refusals take of an account that is over its quota.
pub(crate) async fn refusals(cluster: &Cluster, calls: usize) -> Vec<f64> {
    let client = EventIngestServiceClient::new(cluster.client.clone());
    let mut took = Vec::with_capacity(calls);
    while took.len() < calls {
        let event = Event { account: POOR.to_owned(), ..event() };
        let sent = Instant::now();
        // The first is accepted.
        if publish(client.clone(), event).await.is_err() {
            took.push(sent.elapsed().as_secs_f64() * 1e3);
        }
    }
    took
}
