//! What watchers of the deployments see.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use chatfn_domain::settings::{
    MAX_ENVIRONMENT, MAX_ENVIRONMENT_VALUE_CHARS, MAX_SKILL_CHARS, MAX_SKILLS, MAX_SOURCE_CHARS,
};
use chatfn_proto::registry::v1::{
    Function, FunctionSettings, Propagation, UpdateFunctionRequest, WatchAck, WatchStart,
    watch_deployments_request::Message, watch_deployments_response::Change,
};
use chatfn_rpc::{ErrorReport, reasons};
use futures_util::future::join_all;
use sqlx::AssertSqlSafe;
use tonic::Code;

use crate::{
    harness::{ACME, Registry, START, World, patiently, refused},
    watcher::{Watcher, start},
};

/// Long enough that a few deploys overflow what the connection itself buffers.
fn long_source(number: usize) -> String {
    format!("function lambda() {{ return {number}; }}//{}", "x".repeat(90_000))
}

async fn deploy_new(registry: &Registry, account: usize) -> String {
    let parent = format!("accounts/a{account}");
    let name = registry.create(&parent, "chat.start").await.unwrap().name;
    registry.deploy(&name).await.unwrap();
    name
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_begins_with_start_and_goes_on_with_acks() {
    let world = World::start().await;
    let ack = || Message::Ack(WatchAck { revision: 1 });
    let first_ack = Watcher::call(&world.registry, [ack()]).await.map(drop);
    let report = refused(first_ack, Code::InvalidArgument, "INVALID_REQUEST");
    assert_eq!(report.fields[0].field, "start");

    let nameless = Message::Start(WatchStart::default());
    let nameless = Watcher::call(&world.registry, [nameless]).await.map(drop);
    let report = refused(nameless, Code::InvalidArgument, "INVALID_REQUEST");
    assert_eq!(report.fields[0].field, "start.watcher");

    let empty = patiently(world.registry.deployments().watch_deployments(tokio_stream::empty())).await;
    refused(empty.map(drop), Code::InvalidArgument, "INVALID_REQUEST");

    let mut watcher = Watcher::call(&world.registry, [start(false), start(false)]).await.unwrap();
    let report = refused(Err::<(), _>(watcher.end().await), Code::InvalidArgument, "INVALID_REQUEST");
    assert_eq!(report.fields[0].field, "ack");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_snapshot_comes_first_and_changes_follow() {
    let world = World::start().await;
    let live = deploy_new(&world.registry, 1).await;
    let removed = deploy_new(&world.registry, 2).await;
    world.registry.undeploy(&removed).await.unwrap();
    world.registry.create(ACME, "chat.start").await.unwrap();

    let mut watcher = Watcher::start(&world.registry, false).await;
    let mut seen = watcher.snapshot().await;
    assert_eq!(seen.templates.len(), 15);
    assert_eq!(seen.functions.keys().collect::<Vec<_>>(), [&live]);
    let deployment = &seen.functions[&live];
    assert_eq!(deployment.source, "");
    assert_eq!(deployment.settings, world.registry.get(&live).await.unwrap().settings);
    assert!(deployment.deploy_time.is_some());

    let deployed = world.registry.deploy(START).await.unwrap().version.unwrap();
    watcher.follow(&mut seen, |seen| seen.version(START) == 1).await;
    assert_eq!(seen.functions[START].digest, deployed.digest);
    world.registry.undeploy(START).await.unwrap();
    watcher.follow(&mut seen, |seen| seen.version(START) == 0).await;
    assert_eq!(seen.version(&live), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sources_come_to_those_who_ask_for_them() {
    let world = World::start().await;
    world.registry.create(ACME, "chat.start").await.unwrap();
    world.registry.deploy(START).await.unwrap();
    let (mut with, mut without) =
        (Watcher::start(&world.registry, true).await, Watcher::start(&world.registry, false).await);
    let (mut seen, mut seen_without) = (with.snapshot().await, without.snapshot().await);
    let starter = world.registry.get(START).await.unwrap().source;
    assert_eq!(seen.functions[START].source, starter);

    world.registry.edit(START, "function lambda() {}").await;
    world.registry.deploy(START).await.unwrap();
    with.follow(&mut seen, |seen| seen.version(START) == 2).await;
    without.follow(&mut seen_without, |seen| seen.version(START) == 2).await;
    assert_eq!(seen.functions[START].source, "function lambda() {}");
    assert_eq!(seen_without.functions[START].source, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_snapshot_comes_whole() {
    let world = World::start().await;
    // More than one batch by their sources.
    for account in 0..30 {
        let parent = format!("accounts/a{account}");
        let name = world.registry.create(&parent, "chat.start").await.unwrap().name;
        world.registry.edit(&name, &long_source(account)).await;
        world.registry.deploy(&name).await.unwrap();
    }
    let seen = Watcher::start(&world.registry, true).await.snapshot().await;
    assert_eq!(seen.functions.len(), 30);
    for account in 0..30 {
        let deployment = &seen.functions[&format!("accounts/a{account}/functions/chat.start")];
        assert_eq!(deployment.source, long_source(account));
    }
}

/// Everything that has a limit at its limit, in the characters that take up most.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_deployments_come_whole() {
    let world = World::start().await;
    let wide = |count| "\u{1f600}".repeat(count);
    let source = format!("function lambda() {{}}//{}", wide(MAX_SOURCE_CHARS - 22));
    let environment = (0..MAX_ENVIRONMENT).map(|n| (format!("V{n:063}"), wide(MAX_ENVIRONMENT_VALUE_CHARS)));
    let skills = (0..MAX_SKILLS).map(|n| format!("{n:03}{}", wide(MAX_SKILL_CHARS - 3)));
    let settings = FunctionSettings {
        environment: environment.collect(),
        skills: skills.collect(),
        ..FunctionSettings::default()
    };
    let mut deployed = BTreeMap::new();
    for account in 0..3 {
        let name = world.registry.create(&format!("accounts/a{account}"), "chat.start").await.unwrap().name;
        let function = Function {
            name: name.clone(),
            source: source.clone(),
            settings: Some(settings.clone()),
            ..Default::default()
        };
        let request = UpdateFunctionRequest { function: Some(function), ..Default::default() };
        world.registry.functions().update_function(request).await.unwrap();
        world.registry.deploy(&name).await.unwrap();
        deployed.insert(name.clone(), world.registry.get(&name).await.unwrap().settings);
    }
    let seen = Watcher::start(&world.registry, true).await.snapshot().await;
    assert!(seen.functions.values().all(|deployment| deployment.source == source));
    let seen: BTreeMap<_, _> =
        seen.functions.into_iter().map(|(name, deployment)| (name, deployment.settings)).collect();
    assert_eq!(seen, deployed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_while_a_snapshot_is_read_slowly_comes_after_it() {
    let world = World::start().await;
    let name = |account: usize| format!("accounts/a{account:02}/functions/chat.start");
    for account in 0..40 {
        world.registry.create(&format!("accounts/a{account:02}"), "chat.start").await.unwrap();
        world.registry.edit(&name(account), &long_source(account)).await;
        world.registry.deploy(&name(account)).await.unwrap();
    }
    let first = [start(true), Message::Ack(WatchAck { revision: i64::MAX })];
    let mut watcher = Watcher::call(&world.registry, first).await.unwrap();
    // More than can be on its way is still to come, so the registry waits amid the snapshot.
    let (revision, change) = watcher.next().await.unwrap();
    assert!(matches!(change, Change::Template(_)));
    for account in [0, 1, 39] {
        world.registry.undeploy(&name(account)).await.unwrap();
    }
    let mut seen = watcher.snapshot().await;
    assert_eq!(seen.revision, revision, "the snapshot is as of its beginning");
    watcher.follow(&mut seen, |seen| seen.functions.len() == 37).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_made_at_one_registry_is_seen_at_another() {
    let world = World::start().await;
    let other = world.another().await;
    let mut watcher = Watcher::start(&other, false).await;
    let mut seen = watcher.snapshot().await;
    world.registry.create(ACME, "chat.start").await.unwrap();
    for version in 1..=5 {
        world.registry.edit(START, &format!("function lambda() {{ return {version}; }}")).await;
        world.registry.deploy(START).await.unwrap();
        watcher.follow(&mut seen, |seen| seen.version(START) == version).await;
    }
    world.registry.undeploy(START).await.unwrap();
    watcher.follow(&mut seen, |seen| seen.version(START) == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_that_come_during_deploys_miss_none() {
    const FUNCTIONS: usize = 120;
    let world = World::start().await;
    let other = world.another().await;
    let registries = [&world.registry, &other];
    // Each is deployed once, so that a change that is missed stays missed.
    for account in 0..FUNCTIONS {
        world.registry.create(&format!("accounts/a{account}"), "chat.start").await.unwrap();
    }
    let is_over = AtomicBool::new(false);
    let deploys = async {
        join_all([0, 1].map(|at| async move {
            for account in (at..FUNCTIONS).step_by(2) {
                let name = format!("accounts/a{account}/functions/chat.start");
                registries[at].deploy(&name).await.unwrap();
            }
        }))
        .await;
        is_over.store(true, Ordering::Relaxed);
    };
    let watches = async {
        let mut watchers = Vec::new();
        while !is_over.load(Ordering::Relaxed) && watchers.len() < 200 {
            // Acknowledges everything at once, so that no deploy waits.
            let first = [start(false), Message::Ack(WatchAck { revision: i64::MAX })];
            let mut watcher = Watcher::call(registries[watchers.len() % 2], first).await.unwrap();
            let seen = watcher.snapshot().await;
            watchers.push((watcher, seen));
        }
        watchers
    };
    let ((), watchers) = tokio::join!(deploys, watches);
    assert!(watchers.len() > 2, "some came meanwhile");
    for (mut watcher, mut seen) in watchers {
        watcher.follow(&mut seen, |seen| seen.functions.len() == FUNCTIONS).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deploy_tells_how_many_watchers_have_taken_it_over() {
    let world = World::start().await;
    world.registry.create(ACME, "chat.start").await.unwrap();
    let (mut good, mut mute) =
        (Watcher::start(&world.registry, false).await, Watcher::start(&world.registry, false).await);
    let seen = good.snapshot().await;
    mute.snapshot().await;
    good.ack(seen.revision).await;

    let acknowledge = async {
        let (revision, change) = good.next().await.unwrap();
        assert!(matches!(change, Change::Deployment(_)));
        good.ack(revision).await;
    };
    let (deployed, ()) = tokio::join!(world.registry.deploy(START), acknowledge);
    assert_eq!(deployed.unwrap().propagation, Some(Propagation { watchers: 2, acknowledged: 1 }));

    drop(mute);
    let acknowledge = async {
        let (revision, change) = good.next().await.unwrap();
        assert!(matches!(change, Change::Removed(_)));
        good.ack(revision).await;
    };
    let (undeployed, ()) = tokio::join!(world.registry.undeploy(START), acknowledge);
    let propagation = undeployed.unwrap().propagation.unwrap();
    assert_eq!(propagation.acknowledged, 1, "{propagation:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_does_not_read_is_cut_off_and_holds_nobody_up() {
    let world = World::start_with(|config| config.watch_backlog = 2).await;
    world.registry.create(ACME, "chat.start").await.unwrap();
    let mut slow = Watcher::start(&world.registry, true).await;
    slow.snapshot().await;
    slow.ack(i64::MAX).await;

    // The slow one reads nothing meanwhile. What the connection and the queue before it buffer is bounded, so
    // that some number of deploys is too many.
    for number in 0..120 {
        world.registry.edit(START, &long_source(number)).await;
        world.registry.deploy(START).await.unwrap();
    }
    refused(Err::<(), _>(slow.end().await), Code::ResourceExhausted, "WATCHER_TOO_SLOW");

    let seen = Watcher::start(&world.registry, true).await.snapshot().await;
    assert_eq!(seen.version(START), 120);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_reads_nothing_at_all_is_cut_off_and_forgotten() {
    let world = World::start_with(|config| config.watch_stall = Duration::from_secs(2)).await;
    world.registry.create(ACME, "chat.start").await.unwrap();
    let mut stalled = Watcher::start(&world.registry, true).await;
    stalled.snapshot().await;
    stalled.ack(i64::MAX).await;
    // Nobody reads from here on. What the connection buffers is bounded, so that some number of deploys is too many.
    let mut number = 0;
    patiently(async {
        loop {
            world.registry.edit(START, &long_source(number)).await;
            let propagation = world.registry.deploy(START).await.unwrap().propagation.unwrap();
            if propagation.watchers == 0 {
                return;
            }
            number += 1;
        }
    })
    .await;
    refused(Err::<(), _>(stalled.end().await), Code::ResourceExhausted, "WATCHER_TOO_SLOW");
    let (_, seen) = (Watcher::start(&world.registry, true).await, world.registry.get(START).await.unwrap());
    assert_eq!(seen.live_version, i64::try_from(number).unwrap() + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_watchers_see_every_change() {
    let world = World::start().await;
    let other = world.another().await;
    world.registry.create(ACME, "chat.start").await.unwrap();
    let watchers = join_all((0..100).map(|number| {
        let registry = [&world.registry, &other][number % 2];
        async move {
            let mut watcher = Watcher::start(registry, number % 3 == 0).await;
            let seen = watcher.snapshot().await;
            watcher.ack(i64::MAX).await;
            (watcher, seen)
        }
    }))
    .await;
    let deploys = async {
        for version in 1..=10 {
            world.registry.edit(START, &format!("function lambda() {{ return {version}; }}")).await;
            world.registry.deploy(START).await.unwrap();
        }
    };
    let follow = join_all(watchers.into_iter().map(async |(mut watcher, mut seen)| {
        watcher.follow(&mut seen, |seen| seen.version(START) == 10).await;
    }));
    tokio::join!(deploys, follow);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_outlives_lost_connections_to_postgres() {
    let world = World::start().await;
    world.registry.create(ACME, "chat.start").await.unwrap();
    let mut watcher = Watcher::start(&world.registry, false).await;
    let mut seen = watcher.snapshot().await;
    for version in 1..=6 {
        // A watch that begins looks into the database itself, twice after its snapshot, and may end with it. The third change has come
        // through the hub.
        if version > 3 {
            // As a restart of Postgres would: all of the registry's sessions end, the listening one too.
            sqlx::query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name LIKE 'chatfn%' AND pid <> pg_backend_pid()",
            )
            .execute(world.database.pool())
            .await
            .unwrap();
        }
        let deploy = async {
            // A session that dies while it is in use is told as an error that says that nothing was changed.
            while world.registry.get(START).await.is_err() {}
            world.registry.edit(START, &format!("function lambda() {{ return {version}; }}")).await;
            world.registry.deploy(START).await.unwrap();
        };
        patiently(deploy).await;
        watcher.follow(&mut seen, |seen| seen.version(START) == version).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_sees_no_changes_any_more_sends_its_watchers_away() {
    let world = World::start().await;
    let mut watcher = Watcher::start(&world.registry, false).await;
    watcher.snapshot().await;
    // A watch that begins looks into the database itself. These have come through the hub.
    for account in 1..=3 {
        deploy_new(&world.registry, account).await;
        watcher.next().await.unwrap();
    }
    let rename = |from: &str, to: &str| AssertSqlSafe(format!("ALTER TABLE registry.{from} RENAME TO {to}"));
    sqlx::query(rename("deployment_log", "elsewhere")).execute(world.database.pool()).await.unwrap();
    let report = ErrorReport::from_status(&watcher.end().await);
    assert_eq!(
        (report.code, report.reason.as_deref()),
        (Code::Unavailable, Some(reasons::STORE_UNAVAILABLE.name()))
    );

    sqlx::query(rename("elsewhere", "deployment_log")).execute(world.database.pool()).await.unwrap();
    Watcher::start(&world.registry, false).await.snapshot().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_start_anew_when_the_database_was_replaced_by_an_older_one() {
    let world = World::start().await;
    deploy_new(&world.registry, 1).await;
    let mut watcher = Watcher::start(&world.registry, false).await;
    assert_eq!(watcher.snapshot().await.revision, 1);
    deploy_new(&world.registry, 2).await;
    assert_eq!(watcher.next().await.unwrap().0, 2, "the registry has seen it, too");
    sqlx::query("UPDATE registry.deployment_revision SET revision = 1")
        .execute(world.database.pool())
        .await
        .unwrap();
    refused(Err::<(), _>(watcher.end().await), Code::Unavailable, "REVISION_WENT_BACK");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_start_anew_when_a_copy_that_replaced_the_database_has_gone_on() {
    let world = World::start().await;
    deploy_new(&world.registry, 1).await;
    let mut watcher = Watcher::start(&world.registry, false).await;
    assert_eq!(watcher.snapshot().await.revision, 1);
    deploy_new(&world.registry, 2).await;
    assert_eq!(watcher.next().await.unwrap().0, 2, "the registry has seen it, too");
    // The number that the registry has seen is of another change there, and a later one follows.
    let mut copy = world.database.pool().begin().await.unwrap();
    for statement in [
        "UPDATE registry.deployment_log SET id = gen_random_uuid() WHERE revision = 2",
        "UPDATE registry.deployments SET revision = 3 WHERE revision = 2",
        "UPDATE registry.deployment_revision SET revision = 3",
        "INSERT INTO registry.deployment_log (revision) VALUES (3)",
    ] {
        sqlx::query(statement).execute(&mut *copy).await.unwrap();
    }
    copy.commit().await.unwrap();
    refused(Err::<(), _>(watcher.end().await), Code::Unavailable, "REVISION_WENT_BACK");
    let seen = Watcher::start(&world.registry, false).await.snapshot().await;
    assert_eq!((seen.revision, seen.functions.len()), (3, 2));
}

/// Nobody tells a watcher of it that has not subscribed yet, because it still reads what is live.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_was_still_beginning_starts_anew_too() {
    let world = World::start().await;
    for account in 0..60 {
        let name = world.registry.create(&format!("accounts/a{account}"), "chat.start").await.unwrap().name;
        world.registry.edit(&name, &long_source(account)).await;
        world.registry.deploy(&name).await.unwrap();
    }
    let mut other = Watcher::start(&world.registry, false).await;
    other.snapshot().await;
    deploy_new(&world.registry, 60).await;
    assert_eq!(other.next().await.unwrap().0, 61, "the registry has seen it, too");
    // What it is told begins with a template, and with the revision that it is told of.
    let mut beginning = Watcher::start(&world.registry, true).await;
    assert_eq!(beginning.next().await.unwrap().0, 61);

    sqlx::query("UPDATE registry.deployment_revision SET revision = 1")
        .execute(world.database.pool())
        .await
        .unwrap();
    refused(Err::<(), _>(other.end().await), Code::Unavailable, "REVISION_WENT_BACK");
    refused(Err::<(), _>(beginning.end().await), Code::Unavailable, "REVISION_WENT_BACK");
}
