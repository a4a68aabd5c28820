//! Watchers that come back: what they missed comes, and nothing else; and no way to come back loses a change.

use std::collections::BTreeMap;

use chatfn_deployments::{Deployments, WatchConfig};
use chatfn_domain::name::FunctionName;
use chatfn_proto::registry::v1::{DeployFunctionRequest, WatchAck, watch_deployments_request::Message};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::{
    harness::{ACME, Registry, START, World, eventually, patiently},
    watcher::{Seen, Watcher, resume},
};

/// Comes back with what is known, at this registry; acknowledges all, so that no deploy waits.
async fn come_back(registry: &Registry, known: Seen) -> (Watcher, Seen, bool) {
    let first = [resume(&known.token, true), Message::Ack(WatchAck { revision: i64::MAX })];
    let mut watcher = Watcher::call(registry, first).await.unwrap();
    let (seen, is_resumed) = watcher.begin(known).await;
    (watcher, seen, is_resumed)
}

/// What is live according to the database.
async fn table(db: &PgPool) -> BTreeMap<String, i64> {
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "SELECT 'accounts/' || account || '/functions/' || template, live_version
         FROM registry.deployments WHERE live_version IS NOT NULL",
    )
    .fetch_all(db)
    .await
    .unwrap();
    rows.into_iter().collect()
}

fn live(seen: &Seen) -> BTreeMap<String, i64> {
    seen.functions.iter().map(|(name, deployment)| (name.clone(), deployment.version)).collect()
}

/// A watch from nothing, which has nothing to come.
async fn first_watch(registry: &Registry) -> Seen {
    come_back(registry, Seen::default()).await.1
}

async fn create_and_deploy(registry: &Registry, account: &str) -> String {
    let name = registry.create(&format!("accounts/{account}"), "chat.start").await.unwrap().name;
    registry.deploy(&name).await.unwrap();
    name
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_back_gets_what_was_missed_at_any_replica() {
    let world = World::start().await;
    let other = world.another().await;
    let kept = create_and_deploy(&world.registry, "kept").await;
    let gone = create_and_deploy(&world.registry, "gone").await;
    let known = first_watch(&world.registry).await;
    assert_ne!(known.token, "");

    world.registry.undeploy(&gone).await.unwrap();
    let new = create_and_deploy(&world.registry, "new").await;
    world.registry.edit(&new, "function lambda() { return 2; }").await;
    world.registry.deploy(&new).await.unwrap();
    // Only what it is not told stays as it knows it, so this shows what comes.
    let mut marked = known.clone();
    marked.functions.get_mut(&kept).unwrap().digest = "marked".into();
    for registry in [&world.registry, &other] {
        let (_, seen, is_resumed) = come_back(registry, marked.clone()).await;
        assert!(is_resumed);
        assert_eq!(seen.functions[&kept].digest, "marked");
        assert_eq!(live(&seen), table(world.database.pool()).await);
        assert_eq!(seen.functions[&new].source, "function lambda() { return 2; }");
        assert_eq!(seen.templates.len(), 15, "templates come always");
        // And on from there, with nothing in between.
        let (_, again, is_resumed) = come_back(registry, seen.clone()).await;
        assert!(is_resumed);
        assert_eq!((again.token, again.revision), (seen.token, seen.revision));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_leads_nowhere_gets_a_snapshot() {
    let world = World::start().await;
    let name = create_and_deploy(&world.registry, "a").await;
    let known = first_watch(&world.registry).await;
    let mut marked = known.clone();
    marked.functions.get_mut(&name).unwrap().digest = "marked".into();
    let expect_snapshot = async |token: &str| {
        let known = Seen { token: token.to_owned(), ..marked.clone() };
        let (_, seen, is_resumed) = come_back(&world.registry, known).await;
        assert!(!is_resumed, "{token}");
        assert_ne!(seen.functions[&name].digest, "marked");
    };
    for foreign in ["", "x", "1", "1.x", "-1.00000000000000000000000000000000"] {
        expect_snapshot(foreign).await;
    }
    // Too old: the log does not reach back.
    world.registry.undeploy(&name).await.unwrap();
    world.registry.deploy(&name).await.unwrap();
    let db = world.database.pool();
    sqlx::query("DELETE FROM registry.deployment_log WHERE revision < 3").execute(db).await.unwrap();
    expect_snapshot(&known.token).await;
    // Of another history: the database was replaced by an older copy, and the number was given again.
    let token = first_watch(&world.registry).await.token;
    sqlx::query("DELETE FROM registry.deployment_log WHERE revision = 3").execute(db).await.unwrap();
    sqlx::query("UPDATE registry.deployment_revision SET revision = 2").execute(db).await.unwrap();
    sqlx::query("UPDATE registry.deployments SET revision = 2").execute(db).await.unwrap();
    world.registry.undeploy(&name).await.unwrap();
    world.registry.deploy(&name).await.unwrap();
    expect_snapshot(&token).await;
    // Written by a release that keeps no log.
    sqlx::query("DELETE FROM registry.deployment_log").execute(db).await.unwrap();
    assert_eq!(first_watch(&world.registry).await.token, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_bounded() {
    let world = World::start().await;
    let db = world.database.pool();
    world.registry.create(ACME, "chat.start").await.unwrap();
    sqlx::query("UPDATE registry.deployment_revision SET revision = 20000").execute(db).await.unwrap();
    sqlx::query("INSERT INTO registry.deployment_log SELECT generate_series(5000, 20000)")
        .execute(db)
        .await
        .unwrap();
    world.registry.deploy(START).await.unwrap();
    // Each registry removes at its start, and now and then; a deploy, which others wait for, does not.
    let _other = world.another().await;
    eventually(async || {
        let ends: (i64, i64) =
            sqlx::query_as("SELECT min(revision), max(revision) FROM registry.deployment_log")
                .fetch_one(db)
                .await
                .unwrap();
        ends == (10_002, 20_001)
    })
    .await;
}

/// Whatever happens, in whatever order: a watcher's state is the table's, once it has read on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_interleaving_loses_a_change() {
    const STEPS: usize = 100;
    for seed in 0..3 {
        let mut random = SmallRng::seed_from_u64(seed);
        let world = World::start().await;
        let other = world.another().await;
        let registries = [&world.registry, &other];
        let db = world.database.pool();
        let mut names = Vec::new();
        for account in 0..5 {
            let parent = format!("accounts/a{account}");
            names.push(world.registry.create(&parent, "chat.start").await.unwrap().name);
        }
        // Watchers that are there (with their watch) and that are away.
        let mut watchers = vec![(None, Seen::default()), (None, Seen::default()), (None, Seen::default())];
        let mut resumed = 0;
        for step in 0..STEPS {
            let at = registries[random.random_range(0..2)];
            let name = &names[random.random_range(0..names.len())];
            let (watch, seen) = &mut watchers[random.random_range(0..3)];
            match random.random_range(0..10) {
                0..=3 => {
                    at.edit(name, &format!("function lambda() {{ return {step}; }}")).await;
                    at.deploy(name).await.unwrap();
                }
                4 => _ = at.undeploy(name).await.unwrap(),
                5 => {
                    let request =
                        DeployFunctionRequest { name: name.clone(), version: 1, ..Default::default() };
                    // There may be no version yet.
                    let _ = at.deploy_request(request).await;
                }
                6 => *watch = None,
                7 => {
                    let (watcher, fresh, is_resumed) = come_back(at, std::mem::take(seen)).await;
                    resumed += usize::from(is_resumed);
                    (*watch, *seen) = (Some(watcher), fresh);
                }
                8 => {
                    // Reads some of what has come.
                    if let Some(watcher) = watch {
                        let target = table(db).await;
                        watcher.follow(seen, |seen| live(seen) == target).await;
                    }
                }
                _ => {
                    if random.random_range(0..4) == 0 {
                        sqlx::query("DELETE FROM registry.deployment_log WHERE random() < 0.5")
                            .execute(db)
                            .await
                            .unwrap();
                    }
                }
            }
        }
        assert!(resumed > 0, "seed {seed} shows nothing");
        let target = table(db).await;
        for (watch, mut seen) in watchers {
            let mut watcher = match watch {
                Some(watcher) => watcher,
                None => {
                    let (watcher, fresh, _) = come_back(&other, seen).await;
                    seen = fresh;
                    watcher
                }
            };
            watcher.follow(&mut seen, |seen| live(seen) == target).await;
        }
    }
}

/// The services' own watcher, while registries come and go and the database is changed meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_outlives_registries_and_misses_nothing() {
    let mut world = World::start().await;
    world.registry.create(ACME, "chat.start").await.unwrap();
    world.registry.deploy(START).await.unwrap();
    let start: FunctionName = START.parse().unwrap();
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let watch = WatchConfig {
        registry: world.registry.client.clone(),
        watcher: "test",
        include_source: true,
        snapshot: None,
    };
    let deployments = Deployments::spawn(watch, stop);
    let sees = async |version: Option<i64>| {
        let mut changed = deployments.changed();
        patiently(async {
            loop {
                changed.mark_unchanged();
                let live = deployments.function(&start).ok().flatten();
                if live.map(|live| live.version.get()) == version {
                    return;
                }
                changed.changed().await.unwrap();
            }
        })
        .await;
    };
    sees(Some(1)).await;
    for round in 0..3 {
        let address = world.registry.address;
        world.registry.stop().await;
        // Another replica goes on meanwhile.
        let other = world.another().await;
        other.edit(START, &format!("function lambda() {{ return {round}; }}")).await;
        other.deploy(START).await.unwrap();
        other.undeploy(START).await.unwrap();
        let live = match round {
            1 => None,
            _ => other.deploy(START).await.unwrap().version.map(|version| version.number),
        };
        world.registry = world.another_at(address).await;
        sees(live).await;
    }
}
