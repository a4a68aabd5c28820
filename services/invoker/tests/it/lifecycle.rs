//! What is live changes, the registry goes away, the service ends.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chatfn_proto::invoker::v1::prepare_response::Outcome;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::{
    PATIENCE,
    registry::Registry,
    service::{LOCAL, Service, fetching, reason, result, version},
    witness::{Answer, Witness},
};

const NO_HOSTS: [&str; 0] = [];

fn returning(number: u32) -> String {
    format!("async function lambda() {{ return {number}; }}")
}

#[tokio::test]
async fn nothing_runs_before_the_first_snapshot() {
    let mut registry = Registry::start().await;
    let service = Service::watching(&registry.uri, &[]).await;
    let error = service.invoke("e-1").await.unwrap_err();
    assert_eq!((error.code, error.reason.as_deref()), (Code::Unavailable, Some("NO_SNAPSHOT")));
    assert!(error.retry_after.is_some());
    assert_eq!(service.serving().await, Some(false));
    // A deploy needs no snapshot, and would otherwise be stuck before the first one.
    assert!(matches!(service.prepare(returning(1), 0).await, Ok(Outcome::Prepared(_))));

    registry.snapshot(&version(1, &returning(1), &NO_HOSTS)).await;
    assert_eq!(result(&service.invoke("e-1").await.unwrap()), 1);
    let ready = async { while service.serving().await != Some(true) {} };
    timeout(PATIENCE, ready).await.expect("SERVING with the first snapshot");
}

#[tokio::test]
async fn a_new_version_takes_over_without_a_failed_call() {
    let gate = CancellationToken::new();
    let opened = gate.clone();
    let slow = Witness::start(move |_| Answer::ok("").behind(&opened)).await;
    let host = slow.at("127.0.0.1");
    let url = format!("http://{host}/");
    let first = format!(
        "async function lambda(_, context) {{
           if (context.eventId === 'slow') await fetch({url:?});
           return 1;
         }}"
    );
    let mut registry = Registry::start().await;
    let service = Arc::new(Service::watching(&registry.uri, &[LOCAL]).await);
    registry.snapshot(&version(1, &first, &[&host])).await;

    let under_way = service.spawn_invoke("slow");
    slow.until(|seen| seen.in_flight == 1).await;
    let enough = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..2)
        .map(|_| {
            let (service, enough) = (Arc::clone(&service), Arc::clone(&enough));
            tokio::spawn(async move {
                let mut versions = Vec::new();
                while !enough.load(Ordering::Relaxed) || versions.last() != Some(&2) {
                    let report = service.invoke("e").await.unwrap();
                    assert_eq!(result(&report), report.version, "each run is of one version");
                    versions.push(report.version);
                }
                versions
            })
        })
        .collect();
    assert_eq!(result(&service.invoke("e").await.unwrap()), 1);
    registry.deploy(&version(2, &returning(2), &NO_HOSTS)).await;
    assert_eq!(result(&service.invoke("e").await.unwrap()), 2, "live as soon as it is acknowledged");
    enough.store(true, Ordering::Relaxed);
    for caller in callers {
        let versions = timeout(PATIENCE, caller).await.unwrap().unwrap();
        assert!(versions.is_sorted(), "the old version came back: {versions:?}");
    }
    gate.cancel();
    let old = under_way.await.unwrap().unwrap();
    assert_eq!(
        (result(&old).as_i64(), old.version),
        (Some(1), 1),
        "a run ends as the version that it began as"
    );

    registry.remove().await;
    assert_eq!(reason(service.invoke("e").await), "FUNCTION_NOT_DEPLOYED");
}

#[tokio::test]
async fn without_its_registry_the_invoker_goes_on() {
    let mut registry = Registry::start().await;
    let service = Service::watching(&registry.uri, &[]).await;
    registry.snapshot(&version(1, &returning(1), &NO_HOSTS)).await;
    let uri = registry.uri.clone();
    registry.stop();
    let address = uri.trim_start_matches("http://").to_owned();
    let gone = async { while tokio::net::TcpStream::connect(&address).await.is_ok() {} };
    timeout(PATIENCE, gone).await.expect("the registry ends");
    assert_eq!(result(&service.invoke("e-1").await.unwrap()), 1);
}

#[tokio::test]
async fn a_drain_lets_runs_finish() {
    let gate = CancellationToken::new();
    let opened = gate.clone();
    let slow = Witness::start(move |_| Answer::ok("").behind(&opened)).await;
    let host = slow.at("127.0.0.1");
    let live = version(1, &fetching(&format!("http://{host}/")), &[&host]);
    let service = Service::start([live], &[LOCAL, "--rpc-drain-timeout=30s"]).await;
    let under_way = service.spawn_invoke("e-1");
    slow.until(|seen| seen.in_flight == 1).await;

    service.shutdown.begin();
    let refused = async {
        loop {
            // What is still accepted waits behind the gate, until its own short time is over.
            match service.invoke_within("e-2", Duration::from_millis(200)).await {
                Err(error) if error.code != Code::DeadlineExceeded => break error,
                _ => {}
            }
        }
    };
    assert_eq!(timeout(PATIENCE, refused).await.unwrap().code, Code::Unavailable);
    assert!(!service.running.is_finished() && !under_way.is_finished());

    gate.cancel();
    assert_eq!(result(&under_way.await.unwrap().unwrap()), 200);
    timeout(PATIENCE, service.running).await.expect("the service ends").unwrap().unwrap();
}
