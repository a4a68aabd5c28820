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
    cluster::{ACCOUNT, CROWD, Cluster, HOG, LIMITED, POOR, TEMPLATE},
    measure::{PAYLOAD, resident_mib, steadily, throughput},
};

const STREAMS: usize = 4;
/// Of calls that only have to be acknowledged.
const CALLERS: usize = 256;
/// Of an account that has others beside it.
pub(crate) const NEIGHBOURS: usize = 64;

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
    streams_of(cluster, ACCOUNT, template, events).await
}

async fn streams_of(cluster: &Cluster, account: &str, template: &str, events: usize) -> f64 {
    let each = events / STREAMS;
    throughput(STREAMS, each, |_| {
        let mut client = EventIngestServiceClient::new(cluster.client.clone());
        let (account, template) = (account.to_owned(), template.to_owned());
        async move {
            let requests = (1..=each as i64).map(move |client_sequence| StreamEventsRequest {
                client_sequence,
                event: Some(Event { account: account.clone(), template: template.clone(), ..event() }),
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
    unary_of(cluster, CALLERS, calls).await
}

pub(crate) async fn unary_of(cluster: &Cluster, callers: usize, calls: usize) -> f64 {
    let each = calls / callers;
    throughput(callers, each, |_| {
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

/// Events per second from PublishEvent to their outcomes.
pub(crate) async fn unary_to_done(cluster: &Cluster, calls: usize) -> f64 {
    let begun = Instant::now();
    unary(cluster, calls).await;
    cluster.until_done().await;
    calls as f64 / begun.elapsed().as_secs_f64()
}

/// How an account floods that has the quota of accounts by default.
#[derive(Clone, Copy)]
pub(crate) enum Flood {
    /// With ten times as many calls in progress as its neighbour.
    Calls,
    /// Over streams, as fast as it goes.
    Streams,
}

/// PublishEvent calls per second of an account alone; and while another one floods, of both.
pub(crate) async fn flooded(cluster: &Cluster, flood: Flood, calls: usize) -> (f64, f64, f64) {
    let alone = unary_of(cluster, NEIGHBOURS, calls).await;
    let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let tasks = match flood {
        Flood::Calls => 10 * NEIGHBOURS,
        Flood::Streams => STREAMS,
    };
    let client = cluster.another_client();
    let tasks: Vec<_> = (0..tasks)
        .map(|_| {
            let (stop, acknowledged) = (stop.clone(), acknowledged.clone());
            let mut client = EventIngestServiceClient::new(client.clone());
            tokio::spawn(async move {
                match flood {
                    Flood::Calls => {
                        while !stop.load(Ordering::Relaxed) {
                            let event = Event { account: CROWD.to_owned(), ..event() };
                            match publish(client.clone(), event).await {
                                Ok(()) => _ = acknowledged.fetch_add(1, Ordering::Relaxed),
                                // As a client should that is told to come back later.
                                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                            }
                        }
                    }
                    Flood::Streams => {
                        let requests = (1..).map(|client_sequence| StreamEventsRequest {
                            client_sequence,
                            event: Some(Event { account: CROWD.to_owned(), ..event() }),
                        });
                        let requests = requests.take_while(move |_| !stop.load(Ordering::Relaxed));
                        let request = Request::new(stream::iter(requests)).without_deadline();
                        let mut answers = client.stream_events(request).await.expect("a stream").into_inner();
                        while let Some(answer) = answers.message().await.expect("an answer") {
                            if matches!(answer.result, Some(Answered::Acknowledgement(_))) {
                                acknowledged.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    }
                }
            })
        })
        .collect();
    let (begun, before) = (Instant::now(), acknowledged.load(Ordering::Relaxed));
    let with_flood = unary_of(cluster, NEIGHBOURS, calls).await;
    let flooded = (acknowledged.load(Ordering::Relaxed) - before) as f64 / begun.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.expect("no caller fails");
    }
    (alone, with_flood, flooded)
}

/// PublishEvent calls per second of an account while another one with a quota makes so many, and as many calls that do nothing,
/// whatever becomes of them.
pub(crate) async fn beside(cluster: &Cluster, published: u32, noop: u32, calls: usize) -> f64 {
    let client = cluster.another_client();
    let (client, health) = (EventIngestServiceClient::new(client.clone()), HealthClient::new(client));
    let flood = tokio::spawn(async move {
        let (begun, mut sent, mut calls) = (Instant::now(), [0, 0], JoinSet::new());
        loop {
            let due = [published, noop].map(|rate| (begun.elapsed().as_secs_f64() * f64::from(rate)) as u64);
            for _ in sent[0]..due[0] {
                let event = Event { account: LIMITED.to_owned(), ..event() };
                calls.spawn(publish(client.clone(), event));
            }
            for _ in sent[1]..due[1] {
                let mut health = health.clone();
                calls.spawn(async move { health.check(HealthCheckRequest::default()).await.map(drop) });
            }
            sent = due;
            while calls.try_join_next().is_some() {}
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    let served = unary_of(cluster, NEIGHBOURS, calls).await;
    // With all its calls.
    flood.abort();
    served
}

/// PublishEvent at a steady rate: milliseconds to the acknowledgement, and from there to the call of the invoker.
pub(crate) async fn half_load(cluster: &Cluster, per_second: f64, time: Duration) -> (Vec<f64>, Vec<f64>) {
    cluster.invoker.remembers.store(true, Ordering::Relaxed);
    let client = EventIngestServiceClient::new(cluster.client.clone());
    let acknowledged = steadily(per_second, time, || {
        let (client, event) = (client.clone(), event());
        async move {
            let (id, sent) = (event.event_id.clone(), Instant::now());
            publish(client, event).await.expect("an acknowledgement");
            (id, sent.elapsed(), Instant::now())
        }
    })
    .await;
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

/// Runs per second of an account with so many events at once, each run taking a while: alone, and while another account has ten times
/// as many queued; and then of that one.
pub(crate) async fn hogged(cluster: &Cluster, events: usize) -> (f64, f64, f64) {
    const RUN_MS: u64 = 100;
    let invoker = &cluster.invoker;
    let run_all = async || {
        let (begun, done) = (Instant::now(), invoker.took(ACCOUNT) + events as u64);
        streams(cluster, TEMPLATE, events).await;
        while invoker.took(ACCOUNT) < done {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        begun.elapsed().as_secs_f64()
    };
    invoker.takes_ms.store(RUN_MS, Ordering::Relaxed);
    let alone = events as f64 / run_all().await;
    streams_of(cluster, HOG, TEMPLATE, 10 * events).await;
    let before = invoker.took(HOG);
    let took = run_all().await;
    let of_hog = (invoker.took(HOG) - before) as f64 / took;
    invoker.takes_ms.store(0, Ordering::Relaxed);
    cluster.until_done().await;
    (alone, events as f64 / took, of_hog)
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
