//! What is told of a database that hangs: nobody refuses anything, and nothing is recorded.

use std::time::Duration;

use chatfn_faults::proxy::{Proxy, Weather};
use chatfn_proto::ingest::v1::PublishEventRequest;
use chatfn_tests::{
    api::{Api, event},
    cluster::Cluster,
    eventually,
    prometheus::Prometheus,
};
use tonic::{Code, Request, Status};

/// How long a publisher waits.
const PATIENCE_OF_PUBLISHERS: Duration = Duration::from_millis(500);

/// Publishes one of endlessly many events.
async fn publish(api: &mut Api, number: &mut usize) -> Result<(), Status> {
    *number += 1;
    let id = format!("e-{number}");
    let request = PublishEventRequest { event: Some(event("chat.participants_change", &id, &id)) };
    let mut request = Request::new(request);
    request.set_timeout(PATIENCE_OF_PUBLISHERS);
    api.events.publish_event(request).await?;
    Ok(())
}

/// Puts a link before the database of event-ingest.
async fn behind_a_link(cluster: &mut Cluster) -> Proxy {
    let url = cluster.database.url().expose().to_owned();
    let (_, host) = url.split_once('@').expect("a user");
    let host = host.split('/').next().expect("a host");
    let target = tokio::net::lookup_host(host).await.expect("a host and a port").next().expect("an address");
    let link = Proxy::start(target).await.expect("a free port");
    cluster.event_ingest.stop().await;
    cluster.event_ingest.flag("database-url", &url.replace(host, &link.address().to_string()));
    cluster.event_ingest.start();
    cluster.event_ingest.serving().await;
    link
}

#[tokio::test]
async fn a_database_that_hangs_is_told_and_one_that_is_back_is_not() {
    let mut cluster = Cluster::start().await;
    let link = behind_a_link(&mut cluster).await;
    let prometheus = Prometheus::start(&cluster).await;
    let rules = prometheus.rules().await;
    let rule = rules.into_iter().find(|rule| rule.name == "ChatfnNoAcknowledgements").expect("it is watched");
    // Two minutes are long.
    let query = rule.query.replace("[2m]", "[5s]");
    assert_ne!(query, rule.query);
    let (mut api, mut number) = (Api::of(&cluster), 0);

    let accepted = "rate(chatfn_ingest_events_total{result='accepted'}[5s]) > 0";
    eventually("events are recorded", async || {
        // A slow machine may take longer than a publisher waits.
        let _ = publish(&mut api, &mut number).await;
        prometheus.query(accepted).await.pop()
    })
    .await;
    assert_eq!(prometheus.query(&query).await, []);

    link.set(Weather::Partition);
    eventually("that it hangs is told", async || {
        if let Err(status) = publish(&mut api, &mut number).await {
            assert!(
                matches!(status.code(), Code::DeadlineExceeded | Code::Unavailable | Code::ResourceExhausted),
                "{status:?}"
            );
        }
        prometheus.query(&query).await.pop()
    })
    .await;

    link.set(Weather::Clear);
    eventually("that it is back is told", async || {
        let _ = publish(&mut api, &mut number).await;
        prometheus.query(&query).await.is_empty().then_some(())
    })
    .await;
}
