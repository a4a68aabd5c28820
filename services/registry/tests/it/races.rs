//! Many at once, on one registry and on several.

use std::sync::atomic::{AtomicI64, Ordering};

use chatfn_proto::registry::v1::{Function, ListVersionsRequest, UpdateFunctionRequest};
use futures_util::future::join_all;
use tonic::Code;

use crate::harness::{ACME, Registry, START, World, refused};

async fn race_to_create(registries: &[&Registry], callers: usize) {
    let calls = (0..callers).map(|caller| registries[caller % registries.len()].create(ACME, "chat.start"));
    let (winners, losers): (Vec<_>, Vec<_>) = join_all(calls).await.into_iter().partition(Result::is_ok);
    assert_eq!(winners.len(), 1, "exactly one wins");
    assert_eq!(losers.len(), callers - 1);
    for loser in losers {
        let report = refused(loser, Code::AlreadyExists, "FUNCTION_EXISTS");
        assert_eq!(report.resource.unwrap().name, START);
    }
    let stored = registries[0].get(START).await.unwrap();
    assert_eq!(Some(stored), winners.into_iter().next().unwrap().ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_64_concurrent_creates_one_wins() {
    let world = World::start().await;
    race_to_create(&[&world.registry], 64).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_64_concurrent_creates_over_two_registries_one_wins() {
    let world = World::start().await;
    let other = world.another().await;
    race_to_create(&[&world.registry, &other], 64).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn creates_and_deletes_that_race_add_up() {
    let world = World::start().await;
    let other = world.another().await;
    let balance = AtomicI64::new(0);
    let actors = (0..8).map(|actor| {
        let registry = if actor % 2 == 0 { &world.registry } else { &other };
        let balance = &balance;
        async move {
            for round in 0..20 {
                if (actor + round) % 2 == 0 {
                    match registry.create(ACME, "chat.start").await {
                        Ok(_) => _ = balance.fetch_add(1, Ordering::Relaxed),
                        refusal => _ = refused(refusal, Code::AlreadyExists, "FUNCTION_EXISTS"),
                    }
                } else {
                    match registry.delete(START).await {
                        Ok(()) => _ = balance.fetch_sub(1, Ordering::Relaxed),
                        refusal => _ = refused(refusal, Code::NotFound, "FUNCTION_NOT_FOUND"),
                    }
                }
            }
        }
    });
    join_all(actors).await;
    let exists = i64::from(world.registry.get(START).await.is_ok());
    assert_eq!(balance.into_inner(), exists, "every create but the last was deleted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_and_a_deploy_never_both_win() {
    let world = World::start().await;
    let other = world.another().await;
    for _ in 0..20 {
        world.registry.create(ACME, "chat.start").await.unwrap();
        let (deployed, deleted) = tokio::join!(world.registry.deploy(START), other.delete(START));
        match (deployed, deleted) {
            (Ok(_), deleted) => {
                refused(deleted, Code::FailedPrecondition, "FUNCTION_DEPLOYED");
                world.registry.undeploy(START).await.unwrap();
                world.registry.delete(START).await.unwrap();
            }
            (deployed, Ok(())) => _ = refused(deployed, Code::NotFound, "FUNCTION_NOT_FOUND"),
            (deployed, deleted) => panic!("neither won: {deployed:?}, {deleted:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_deploys_of_one_draft_make_one_version() {
    let world = World::start().await;
    let other = world.another().await;
    world.registry.create(ACME, "chat.start").await.unwrap();
    let calls = (0..16).map(|caller| if caller % 2 == 0 { &world.registry } else { &other }.deploy(START));
    for deployed in join_all(calls).await {
        assert_eq!(deployed.unwrap().version.unwrap().number, 1);
    }
    let request = ListVersionsRequest { parent: START.into(), ..Default::default() };
    let versions = other.functions().list_versions(request).await.unwrap().into_inner().versions;
    assert_eq!(versions.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_concurrent_updates_with_one_etag_one_wins() {
    let world = World::start().await;
    let other = world.another().await;
    let created = world.registry.create(ACME, "chat.start").await.unwrap();
    let calls = (0..16).map(|caller| {
        let registry = if caller % 2 == 0 { &world.registry } else { &other };
        let function = Function { description: format!("by {caller}"), ..created.clone() };
        let request =
            UpdateFunctionRequest { function: Some(function), update_mask: None, ..Default::default() };
        async move { registry.functions().update_function(request).await }
    });
    let (winners, losers): (Vec<_>, Vec<_>) = join_all(calls).await.into_iter().partition(Result::is_ok);
    assert_eq!(winners.len(), 1);
    for loser in losers {
        refused(loser, Code::Aborted, "ETAG_MISMATCH");
    }
}
