//! What a container's probes ask: `health` and `health --live`.

use chatfn_tests::{
    cluster::{Cluster, Service},
    eventually,
    identities::Identities,
};

fn all(cluster: &Cluster) -> [&Service; 3] {
    [&cluster.registry, &cluster.invoker, &cluster.event_ingest]
}

/// Waits until the process answers at all.
async fn lives(service: &Service) {
    eventually("it lives", async || service.health(&["--live"]).ok()).await;
}

#[tokio::test]
async fn who_serves_is_well_and_who_is_gone_is_dead() {
    let identities = Identities::make();
    let mut cluster = Cluster::start_secure(&identities).await;
    for service in all(&cluster) {
        assert_eq!(service.health(&[]), Ok(()));
        assert_eq!(service.health(&["--live"]), Ok(()));
    }
    // Its certificate is none of these authorities': nobody that it would send calls to.
    let others = Identities::make();
    identities.replace("ca.crt", &others.read("ca.crt"));
    for service in all(&cluster) {
        let said = service.health(&[]).expect_err("it must not be trusted");
        assert!(said.contains("does not answer"), "{said}");
        assert_eq!(service.health(&["--live"]), Ok(()), "it does run");
    }
    for service in [&mut cluster.registry, &mut cluster.invoker, &mut cluster.event_ingest] {
        service.kill();
        let said = service.health(&[]).expect_err("nobody listens");
        assert!(said.contains("does not answer"), "{said}");
        let said = service.health(&["--live"]).expect_err("nobody listens");
        assert!(said.contains("is dead"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[tokio::test]
async fn who_is_not_ready_lives_and_a_drain_says_so_first() {
    let mut cluster = Cluster::start().await;
    // Long enough to be seen.
    cluster.registry.flag("rpc-drain-delay", "1h");
    cluster.registry.stop().await;
    // What is live is not known without the registry.
    cluster.invoker.stop().await;
    cluster.invoker.start();
    lives(&cluster.invoker).await;
    let said = cluster.invoker.health(&[]).expect_err("it knows nothing that is live");
    assert!(said.contains("NOT_SERVING"), "{said}");

    cluster.registry.start();
    cluster.registry.serving().await;
    cluster.invoker.serving().await;
    assert_eq!(cluster.invoker.health(&[]), Ok(()));

    cluster.registry.terminate();
    let said = eventually("the drain is told", async || cluster.registry.health(&[]).err()).await;
    assert!(said.contains("NOT_SERVING"), "{said}");
    assert_eq!(cluster.registry.health(&["--live"]), Ok(()), "what drains is not to be restarted");
}

#[tokio::test]
async fn a_second_signal_ends_every_service_at_once() {
    let mut cluster = Cluster::start().await;
    for service in [&mut cluster.event_ingest, &mut cluster.invoker, &mut cluster.registry] {
        service.stop().await;
        service.flag("rpc-drain-delay", "1h");
    }
    for service in [&mut cluster.registry, &mut cluster.invoker, &mut cluster.event_ingest] {
        service.start();
        service.serving().await;
    }
    for service in [&mut cluster.event_ingest, &mut cluster.invoker, &mut cluster.registry] {
        service.terminate();
        // The second one must not come before the first was taken.
        eventually("the drain is told", async || service.health(&[]).err()).await;
        service.terminate();
        service.ended().await;
    }
}
