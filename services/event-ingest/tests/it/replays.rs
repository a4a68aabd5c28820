//! Events that run again.

use std::time::{Duration, Instant};

use chatfn_proto::{
    ingest::v1::{
        CancelReplayRequest, CreateReplayRequest, CreateReplayResponse, DeliveryState, Event,
        GetConversationRequest, GetReplayRequest, ListReplaysRequest, OperatorAction, Replay, ReplayFilter,
        ReplayState, event::PayloadKind,
    },
    invoker::v1::{RunReport, run_report::Outcome},
};
use prost::Message as _;
use prost_types::Timestamp;
use tonic::{Code, Status};

use crate::{
    harness::{ACME, Replica, START, UNUSED, World, deployments_with, event, eventually, refused, settings},
    invoker::{Answer, assert_in_order},
    operators::{halting, skip},
};

fn of(states: &[DeliveryState]) -> Replay {
    let states = states.iter().map(|state| i32::from(*state)).collect();
    let filter = Some(ReplayFilter { states, ..ReplayFilter::default() });
    Replay { filter, events_per_second: 1000, ..Replay::default() }
}

fn dead() -> Replay {
    of(&[DeliveryState::DeadLettered])
}

async fn create(replica: &Replica, replay: Replay, dry_run: bool) -> Result<CreateReplayResponse, Status> {
    let parent = format!("accounts/{ACME}");
    let request = CreateReplayRequest { parent, replay: Some(replay), dry_run, ..Default::default() };
    Ok(replica.replays().create_replay(request).await?.into_inner())
}

async fn get(replica: &Replica, name: &str) -> Replay {
    let request = GetReplayRequest { name: name.to_owned() };
    replica.replays().get_replay(request).await.unwrap().into_inner().replay.unwrap()
}

/// Starts a replay and waits until it has found everything and the lanes have taken that up.
async fn replay(replica: &Replica, replay: Replay) -> Replay {
    let name = create(replica, replay, false).await.unwrap().replay.unwrap().name;
    eventually(async || {
        let replay = get(replica, &name).await;
        replay.state() == ReplayState::Done && replay.reopened_count == replay.requested_count
    })
    .await;
    get(replica, &name).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_runs_again_with_its_key_and_keeps_its_history() {
    let world = World::start_with(settings(2), |_| {}).await;
    world.invoker.script("bad", [Answer::Throws, Answer::Throws, Answer::Throws]);
    world.replica.publish(event("c", "bad")).await.unwrap();
    world.replica.publish(event("c", "good")).await.unwrap();
    world.replica.reaches("bad", DeliveryState::DeadLettered).await;
    world.replica.reaches("good", DeliveryState::Succeeded).await;

    let done = replay(&world.replica, dead()).await;
    assert_eq!((done.requested_count, done.reopened_count, done.actor.as_str()), (1, 1, "anonymous"));
    let bad = world.replica.reaches("bad", DeliveryState::Succeeded).await;
    let numbers: Vec<u32> = bad.attempts.iter().map(|attempt| attempt.number).collect();
    assert_eq!(numbers, [1, 2, 3, 4], "it may fail once more");
    let past = &bad.past_states[0];
    assert_eq!((past.state(), past.reason.as_str()), (DeliveryState::DeadLettered, "LAMBDA_FAILED"));
    assert_eq!((past.attempt_count, past.action(), &past.replay), (2, OperatorAction::Replay, &done.name));
    let runs = world.invoker.runs_of("bad");
    assert!(runs.iter().all(|run| run.idempotency_key == runs[0].idempotency_key), "{runs:?}");
    assert_eq!(world.invoker.runs_of("good").len(), 1);

    // Nothing matches any more.
    assert_eq!(replay(&world.replica, dead()).await.requested_count, 0);
    let outcomes: i64 = sqlx::query_scalar("SELECT count(*) FROM ingest.outcomes")
        .fetch_one(world.database.pool())
        .await
        .unwrap();
    assert_eq!(outcomes, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rerun_has_a_key_of_its_own_which_later_replays_keep() {
    let world = World::start().await;
    world.replica.publish(event("c", "e")).await.unwrap();
    world.replica.reaches("e", DeliveryState::Succeeded).await;
    let again = of(&[DeliveryState::Succeeded]);
    world.invoker.script("e", [Answer::Throws]);
    replay(&world.replica, Replay { rerun: true, ..again.clone() }).await;
    world.replica.reaches("e", DeliveryState::Succeeded).await;
    replay(&world.replica, again.clone()).await;
    world.replica.reaches("e", DeliveryState::Succeeded).await;
    replay(&world.replica, Replay { rerun: true, ..again }).await;
    let e = world.replica.reaches("e", DeliveryState::Succeeded).await;
    assert_eq!(e.past_states.len(), 3);
    let keys: Vec<String> = world.invoker.runs_of("e").into_iter().map(|run| run.idempotency_key).collect();
    assert_eq!(keys.len(), 5);
    assert!(keys[0] != keys[1] && keys[1] == keys[2] && keys[2] == keys[3] && keys[3] != keys[4], "{keys:?}");
    assert_ne!(keys[0], keys[4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_counts_and_changes_nothing_and_filters_hold() {
    let world = World::start_with(settings(1), |_| {}).await;
    for n in 0..12 {
        let (conversation, id) = (format!("c{}", n % 3), format!("e{n}"));
        world.invoker.script(&id, [Answer::Throws]);
        world.replica.publish(event(&conversation, &id)).await.unwrap();
        world.replica.reaches(&id, DeliveryState::DeadLettered).await;
    }
    let unused = Event { template: UNUSED.to_owned(), ..event("c0", "unused") };
    world.replica.publish(unused).await.unwrap();
    world.replica.reaches("unused", DeliveryState::NoFunction).await;

    let both = of(&[DeliveryState::DeadLettered, DeliveryState::NoFunction]);
    let filtered = |change: &dyn Fn(&mut ReplayFilter)| {
        let mut replay = both.clone();
        change(replay.filter.as_mut().unwrap());
        replay
    };
    let future = Some(prost_types::Timestamp { seconds: 32_503_680_000, nanos: 0 });
    for (replay, count) in [
        (both.clone(), 13),
        (dead(), 12),
        (of(&[DeliveryState::Expired]), 0),
        (filtered(&|filter| filter.template = UNUSED.to_owned()), 1),
        (filtered(&|filter| filter.conversation_id = "c0".to_owned()), 5),
        (filtered(&|filter| filter.conversation_id = "nowhere".to_owned()), 0),
        (filtered(&|filter| filter.start_time = future), 0),
        (filtered(&|filter| filter.end_time = future), 13),
    ] {
        let told = create(&world.replica, replay.clone(), true).await.unwrap();
        assert_eq!((told.matched_count, told.matched_count_complete), (count, true), "{replay:?}");
        assert_eq!(told.sample.len(), usize::try_from(count.min(10)).unwrap());
        assert!(told.replay.unwrap().name.is_empty());
    }
    let request = ListReplaysRequest { parent: format!("accounts/{ACME}"), ..Default::default() };
    let listed = world.replica.replays().list_replays(request).await.unwrap().into_inner();
    assert!(listed.replays.is_empty());
    assert_eq!(world.invoker.runs().len(), 12);

    let only = filtered(&|filter| filter.conversation_id = "c1".to_owned());
    assert_eq!(replay(&world.replica, only).await.requested_count, 4);
    let ids: Vec<String> = [1, 4, 7, 10].iter().map(|n| format!("e{n}")).collect();
    for id in &ids {
        world.replica.reaches(id, DeliveryState::Succeeded).await;
    }
    let runs: Vec<_> = world.invoker.runs().into_iter().skip(12).collect();
    assert_in_order(&runs, "c1", &ids);
    assert_eq!(runs.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_run_again_is_refused() {
    let world = World::start().await;
    for state in [DeliveryState::Suppressed, DeliveryState::Pending, DeliveryState::Halted] {
        let report = refused(
            create(&world.replica, of(&[state]), false).await,
            Code::InvalidArgument,
            "INVALID_REQUEST",
        );
        assert_eq!(report.fields[0].field, "replay.filter.states[0]");
    }
    refused(create(&world.replica, of(&[]), true).await, Code::InvalidArgument, "INVALID_REQUEST");
    let mut reversed = dead();
    let at = |seconds| Some(Timestamp { seconds, nanos: 0 });
    let filter = reversed.filter.as_mut().unwrap();
    (filter.start_time, filter.end_time) = (at(2_000_000_000), at(1_000_000_000));
    let report =
        refused(create(&world.replica, reversed, false).await, Code::InvalidArgument, "INVALID_REQUEST");
    assert_eq!(report.fields[0].field, "replay.filter.end_time");
    let name = format!("accounts/{ACME}/replays/00000000-0000-7000-8000-000000000000");
    let unknown = world.replica.replays().get_replay(GetReplayRequest { name: name.clone() }).await;
    refused(unknown, Code::NotFound, "REPLAY_NOT_FOUND");
    let unknown = world.replica.replays().cancel_replay(CancelReplayRequest { name }).await;
    refused(unknown, Code::NotFound, "REPLAY_NOT_FOUND");
    let bad = GetReplayRequest { name: format!("accounts/{ACME}/replays/x") };
    refused(world.replica.replays().get_replay(bad).await, Code::InvalidArgument, "INVALID_REQUEST");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_without_a_function_run_once_there_is_one() {
    let mut world = World::start().await;
    let unused = Event { template: UNUSED.to_owned(), ..event("c", "early") };
    world.replica.publish(unused).await.unwrap();
    world.replica.reaches("early", DeliveryState::NoFunction).await;
    world.replica.stop().await;
    // The function is deployed by now. A replay does not lift the rule of what fires once.
    let deployed = deployments_with(&settings(3), &[UNUSED, START]);
    let replica = Replica::start(world.config(|_| {}), deployed).await;
    replay(&replica, of(&[DeliveryState::NoFunction])).await;
    let early = replica.reaches("early", DeliveryState::Succeeded).await;
    assert_eq!(early.past_states[0].reason, "NO_FUNCTION");
    assert_eq!(world.invoker.runs_of("early")[0].function, "accounts/acme/functions/chat.unused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_event_runs_when_the_running_one_of_its_conversation_has_ended() {
    let world = World::start_with(settings(1), |_| {}).await;
    world.invoker.script("bad", [Answer::Throws]);
    world.replica.publish(event("c", "bad")).await.unwrap();
    world.replica.reaches("bad", DeliveryState::DeadLettered).await;
    let release = tokio_util::sync::CancellationToken::new();
    world.invoker.script("runs", [Answer::ReturnsAfter(release.clone())]);
    // More than a lane keeps in memory: what waits for the replayed event must leave it room.
    let large =
        |id| Event { payload_kind: Some(PayloadKind::PayloadJson(large_payload())), ..event("c", id) };
    let batch = [vec![event("c", "runs")], ["n1", "n2", "n3", "n4", "n5"].map(large).to_vec()].concat();
    assert!(world.replica.publish_all(batch).await.iter().all(Result::is_ok));
    world.invoker.started("runs", 1).await;
    replay(&world.replica, dead()).await;
    assert_eq!(world.replica.delivery("bad").await.unwrap().state(), DeliveryState::Pending);
    release.cancel();
    world.replica.reaches("n5", DeliveryState::Succeeded).await;
    world.replica.reaches("bad", DeliveryState::Succeeded).await;
    let order: Vec<String> = world.invoker.runs().into_iter().map(|run| run.event_id).collect();
    assert_eq!(order, ["bad", "runs", "bad", "n1", "n2", "n3", "n4", "n5"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_keeps_to_its_rate_survives_a_restart_and_can_be_canceled() {
    let mut world = World::start_with(settings(1), |_| {}).await;
    let ids: Vec<String> = (0..60).map(|n| format!("e{n}")).collect();
    world.invoker.fail_all(true);
    let batch = ids.iter().map(|id| event(id, id)).collect();
    assert!(world.replica.publish_all(batch).await.iter().all(Result::is_ok));
    for id in &ids {
        world.replica.reaches(id, DeliveryState::DeadLettered).await;
    }
    world.invoker.fail_all(false);
    let start = Instant::now();
    let slow = Replay { events_per_second: 20, ..dead() };
    let name = create(&world.replica, slow, false).await.unwrap().replay.unwrap().name;
    world.invoker.until(|runs| runs.len() > 65).await;
    world.replica.stop().await;
    let other = Replica::start(world.config(|_| {}), world.deployments()).await;
    eventually(async || get(&other, &name).await.reopened_count == 60).await;
    for id in &ids {
        other.reaches(id, DeliveryState::Succeeded).await;
    }
    assert!(start.elapsed() > Duration::from_millis(2500), "60 at 20 a second took {:?}", start.elapsed());
    let done = get(&other, &name).await;
    assert_eq!((done.requested_count, done.reopened_count), (60, 60));
    assert_eq!(world.invoker.runs().len(), 120, "each of them once");

    let slowest = Replay { events_per_second: 1, ..of(&[DeliveryState::Succeeded]) };
    let canceled = create(&other, slowest, false).await.unwrap().replay.unwrap();
    assert_eq!(canceled.state(), ReplayState::Running);
    let request = CancelReplayRequest { name: canceled.name.clone() };
    let canceled = other.replays().cancel_replay(request).await.unwrap().into_inner().replay.unwrap();
    assert_eq!((canceled.state(), canceled.cancel_actor.as_str()), (ReplayState::Canceled, "anonymous"));
    assert!(canceled.requested_count < 60 && canceled.finish_time.is_some());

    let mut request =
        ListReplaysRequest { parent: format!("accounts/{ACME}"), page_size: 1, ..Default::default() };
    let page = other.replays().list_replays(request.clone()).await.unwrap().into_inner();
    assert_eq!(page.replays[0].name, canceled.name);
    request.page_token = page.next_page_token;
    let page = other.replays().list_replays(request).await.unwrap().into_inner();
    assert_eq!((page.replays[0].name.as_str(), page.next_page_token.as_str()), (name.as_str(), ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_has_only_so_many_replays_at_once() {
    let world = World::start().await;
    // The first has more to do than it gets done.
    let mut names = Vec::new();
    let pool = world.database.pool();
    for _ in 0..10 {
        names.push(create(&world.replica, dead(), false).await.unwrap().replay.unwrap().name);
        sqlx::query(
            "UPDATE ingest.replays SET finish_time = NULL, next_step_time = now() + interval '1 hour'",
        )
        .execute(pool)
        .await
        .unwrap();
    }
    refused(create(&world.replica, dead(), false).await, Code::ResourceExhausted, "TOO_MANY_REPLAYS");
    let request = CancelReplayRequest { name: names.pop().unwrap() };
    world.replica.replays().cancel_replay(request).await.unwrap();
    create(&world.replica, dead(), false).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_was_replayed_without_end_can_still_be_told() {
    let world = World::start().await;
    world.replica.publish(event("c", "e")).await.unwrap();
    world.replica.publish(event("c", "last")).await.unwrap();
    world.replica.reaches("last", DeliveryState::Succeeded).await;
    let pool = world.database.pool();
    // 150 passes of one attempt, with reports of 128 KiB each.
    let report = RunReport {
        outcome: Some(Outcome::ResultJson(format!("\"{}\"", "x".repeat(128 * 1024)))),
        ..RunReport::default()
    };
    sqlx::query(
        "INSERT INTO ingest.attempts (lane, sequence, number, epoch, finish_time, report)
         SELECT lane, sequence, n, 1, now(), $1 FROM ingest.events, generate_series(2, 151) n WHERE event_id = 'e'",
    )
    .bind(report.encode_to_vec())
    .execute(pool)
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO ingest.superseded (lane, sequence, number, state, reason, reason_message, finish_time, attempts,
                                        action, actor)
         SELECT lane, sequence, n, 7, 'LAMBDA_FAILED', '', now(), n, 1, 'somebody'
         FROM ingest.events, generate_series(1, 150) n WHERE event_id = 'e'",
    )
    .execute(pool)
    .await
    .unwrap();
    let told = world.replica.delivery("e").await.unwrap();
    assert_eq!((told.attempts.len(), told.past_states.len()), (100, 100));
    assert_eq!((told.attempts[99].number, told.past_states[99].attempt_count), (151, 150));
    assert!(told.attempts[99].report.is_some() && told.attempts[0].report.is_none());
    let name = format!("accounts/{ACME}/conversations/c");
    let request = GetConversationRequest { name, include_logs: true, ..Default::default() };
    let page = world.replica.deliveries().get_conversation(request).await.unwrap().into_inner();
    let ids: Vec<&str> = page.deliveries.iter().map(|delivery| delivery.event_id.as_str()).collect();
    assert_eq!(ids, ["e", "last"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_waits_while_enough_of_what_it_took_up_has_not_ended() {
    const EVENTS: i64 = 550;
    const MOST: i64 = 500;
    let world = World::start_with(settings(1), |_| {}).await;
    let pool = world.database.pool();
    world.invoker.fail_all(true);
    for part in [0..EVENTS / 2, EVENTS / 2..EVENTS] {
        let batch = part.map(|n| event(&format!("c{}", n % 10), &format!("e{n}"))).collect();
        assert!(world.replica.publish_all(batch).await.iter().all(Result::is_ok));
    }
    for n in EVENTS - 10..EVENTS {
        world.replica.reaches(&format!("e{n}"), DeliveryState::DeadLettered).await;
    }
    world.invoker.fail_all(false);
    // While these run, nothing else of their conversations does.
    let release = tokio_util::sync::CancellationToken::new();
    for n in 0..10 {
        let id = format!("runs{n}");
        world.invoker.script(&id, [Answer::ReturnsAfter(release.clone())]);
        world.replica.publish(event(&format!("c{n}"), &id)).await.unwrap();
        world.invoker.started(&id, 1).await;
    }

    let name = create(&world.replica, dead(), false).await.unwrap().replay.unwrap().name;
    let requested = async || get(&world.replica, &name).await.requested_count;
    eventually(async || requested().await >= MOST).await;
    // Another replay of the account comes to nothing, too, and each has looked again by the time that it has.
    let other = create(&world.replica, dead(), false).await.unwrap().replay.unwrap().name;
    let step = "SELECT next_step_time > now() FROM ingest.replays WHERE replay = $1::text::uuid";
    let id = |name: &str| name.rsplit('/').next().unwrap().to_owned();
    for name in [&other, &name] {
        eventually(async || {
            sqlx::query_scalar::<_, bool>(step).bind(id(name)).fetch_one(pool).await.unwrap()
        })
        .await;
    }
    assert_eq!((requested().await, get(&world.replica, &other).await.requested_count), (MOST, 0));
    release.cancel();
    // Whichever of the two finds them.
    eventually(async || {
        let (one, other) = (get(&world.replica, &name).await, get(&world.replica, &other).await);
        one.reopened_count + other.reopened_count == EVENTS
    })
    .await;
    for n in [0, EVENTS - 1] {
        world.replica.reaches(&format!("e{n}"), DeliveryState::Succeeded).await;
    }
}

/// Events `e0` … of these conversations that found no function, and then one whose conversations halt.
async fn halting_after_no_function(world: &mut World, conversations: &[String]) -> Replica {
    let unused =
        |(n, id): (usize, &String)| Event { template: UNUSED.to_owned(), ..event(id, &format!("e{n}")) };
    let events: Vec<Event> = conversations.iter().enumerate().map(unused).collect();
    for batch in events.chunks(300) {
        assert!(world.replica.publish_all(batch.to_vec()).await.iter().all(Result::is_ok));
    }
    let all = i64::try_from(events.len()).unwrap();
    eventually(async || count(world, "SELECT count(*) FROM ingest.outcomes WHERE state = 4").await == all)
        .await;
    world.replica.stop().await;
    Replica::start(world.config(|_| {}), deployments_with(&halting(1), &[UNUSED])).await
}

async fn count(world: &World, statement: &'static str) -> i64 {
    sqlx::query_scalar(statement).fetch_one(world.database.pool()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_pauses_while_enough_of_what_it_took_up_is_halted_again() {
    const MOST: i64 = 500;
    const HALTED: &str = "SELECT count(*) FROM ingest.parked WHERE kind = 1";
    let mut world = World::start().await;
    // Twice as many: when that many are halted, others run.
    let conversations: Vec<String> = (0..2 * MOST).map(|n| format!("c{n}")).collect();
    let replica = halting_after_no_function(&mut world, &conversations).await;
    world.invoker.fail_all(true);
    let slower = Replay { events_per_second: 250, ..of(&[DeliveryState::NoFunction]) };
    let name = create(&replica, slower, false).await.unwrap().replay.unwrap().name;
    let pauses = |replay: &Replay| replay.waiting_message.contains("are halted again");
    eventually(async || {
        let (halted, replay) = (count(&world, HALTED).await, get(&replica, &name).await);
        pauses(&replay) && replay.requested_count == halted
    })
    .await;
    let paused = get(&replica, &name).await;
    assert!((MOST..2 * MOST).contains(&paused.requested_count), "{paused:?}");
    assert_eq!((paused.state(), paused.failure_message.as_str()), (ReplayState::Running, ""));
    assert!(paused.waiting_message.contains("resume or skip"), "{paused:?}");
    // So does another one of the account, until that is canceled.
    let other = create(&replica, of(&[DeliveryState::NoFunction]), false).await.unwrap().replay.unwrap().name;
    eventually(async || pauses(&get(&replica, &other).await)).await;
    let request = CancelReplayRequest { name: other };
    let canceled = replica.replays().cancel_replay(request).await.unwrap().into_inner().replay.unwrap();
    assert_eq!((canceled.requested_count, canceled.waiting_message.as_str()), (0, ""));
    assert_eq!(get(&replica, &name).await.requested_count, paused.requested_count);

    world.invoker.fail_all(false);
    let halted: Vec<String> = sqlx::query_scalar(
        "SELECT e.event_id FROM ingest.parked p JOIN ingest.events e USING (lane, sequence) WHERE p.kind = 1",
    )
    .fetch_all(world.database.pool())
    .await
    .unwrap();
    for id in &halted[usize::try_from(MOST - 1).unwrap()..] {
        skip(&replica, id).await.unwrap();
    }
    eventually(async || {
        let replay = get(&replica, &name).await;
        replay.state() == ReplayState::Done && replay.reopened_count == 2 * MOST
    })
    .await;
    assert_eq!(get(&replica, &name).await.waiting_message, "");
    assert_eq!(count(&world, HALTED).await, MOST - 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_behind_a_halted_event_keeps_no_other_replay_from_ending() {
    let mut world = World::start().await;
    let conversation = |n| if n < 520 { "stuck".to_owned() } else { format!("c{n}") };
    let conversations: Vec<String> = (0..530).map(conversation).collect();
    let replica = halting_after_no_function(&mut world, &conversations).await;
    world.invoker.script("e0", [Answer::Throws]);
    let of_conversation = |id: &str| {
        let mut replay = of(&[DeliveryState::NoFunction]);
        replay.filter.as_mut().unwrap().conversation_id = id.to_owned();
        replay
    };
    let stuck = create(&replica, of_conversation("stuck"), false).await.unwrap().replay.unwrap().name;
    eventually(async || replica.delivery("e0").await.unwrap().state() == DeliveryState::Halted).await;
    eventually(async || get(&replica, &stuck).await.requested_count >= 500).await;
    for n in 520..525 {
        assert_eq!(replay(&replica, of_conversation(&format!("c{n}"))).await.requested_count, 1);
        replica.reaches(&format!("e{n}"), DeliveryState::Succeeded).await;
    }
    eventually(async || get(&replica, &stuck).await.reopened_count == 520).await;

    // As if there were too many of them.
    let pool = world.database.pool();
    sqlx::query(
        "INSERT INTO ingest.parked (lane, sequence, account, conversation_id, next_attempt_time, kind, attempts_before)
         SELECT 0, n, account, conversation_id, now(), 2, 1 FROM ingest.parked, generate_series(1, 1000) n WHERE kind = 1",
    )
    .execute(pool)
    .await
    .unwrap();
    let rest = create(&replica, of(&[DeliveryState::NoFunction]), false).await.unwrap().replay.unwrap().name;
    eventually(async || get(&replica, &rest).await.waiting_message.contains("wait behind halted")).await;
    assert_eq!(get(&replica, &rest).await.requested_count, 0);
    sqlx::query("DELETE FROM ingest.parked WHERE lane = 0 AND sequence <= 1000").execute(pool).await.unwrap();
    eventually(async || get(&replica, &rest).await.reopened_count == 5).await;
    skip(&replica, "e0").await.unwrap();
    for n in [1, 519, 529] {
        replica.reaches(&format!("e{n}"), DeliveryState::Succeeded).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_cannot_go_on_ends_and_stops_no_other() {
    let world = World::start_with(settings(1), |_| {}).await;
    world.invoker.script("bad", [Answer::Throws]);
    world.replica.publish(event("c", "bad")).await.unwrap();
    world.replica.reaches("bad", DeliveryState::DeadLettered).await;
    let pool = world.database.pool();
    // No template has such a name; and it is due before all others.
    sqlx::query(
        "INSERT INTO ingest.replays (replay, account, states, template, start_time, end_time, rerun, events_per_second,
                                     actor, after_time, next_step_time)
         VALUES ('018f0000-0000-7000-8000-000000000000', 'acme', '{7}', 'NO TEMPLATE', '-infinity', now(), false, 50, 'x',
                 now(), now() - interval '1 hour')",
    )
    .execute(pool)
    .await
    .unwrap();
    assert_eq!(replay(&world.replica, dead()).await.requested_count, 1);
    world.replica.reaches("bad", DeliveryState::Succeeded).await;

    let name = format!("accounts/{ACME}/replays/018f0000-0000-7000-8000-000000000000");
    eventually(async || {
        let hurry = "UPDATE ingest.replays SET next_step_time = now() WHERE template = 'NO TEMPLATE'";
        sqlx::query(hurry).execute(pool).await.unwrap();
        get(&world.replica, &name).await.finish_time.is_some()
    })
    .await;
    let failed = get(&world.replica, &name).await;
    assert_eq!(failed.state(), ReplayState::Failed);
    let message = &failed.failure_message;
    assert!(message.contains("mistake of ours") && !message.contains("decod"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_starts_one_replay() {
    let world = World::start().await;
    world.replica.publish(event("c", "e")).await.unwrap();
    world.replica.reaches("e", DeliveryState::Succeeded).await;
    let request = CreateReplayRequest {
        parent: format!("accounts/{ACME}"),
        replay: Some(Replay { rerun: true, ..of(&[DeliveryState::Succeeded]) }),
        request_id: "7c9e6679-7425-40de-944b-e07fc1f90ae7".to_owned(),
        ..Default::default()
    };
    let create = async |request: &CreateReplayRequest| {
        world.replica.replays().create_replay(request.clone()).await.map(|it| it.into_inner().replay.unwrap())
    };
    let first = create(&request).await.unwrap();
    eventually(async || get(&world.replica, &first.name).await.reopened_count == 1).await;
    world.replica.reaches("e", DeliveryState::Succeeded).await;
    let again = create(&request).await.unwrap();
    assert_eq!((&again.name, again.state()), (&first.name, ReplayState::Done));
    let other = CreateReplayRequest { replay: Some(of(&[DeliveryState::Succeeded])), ..request.clone() };
    refused(create(&other).await, Code::InvalidArgument, "REQUEST_ID_REUSED");
    let list = ListReplaysRequest { parent: request.parent, ..Default::default() };
    assert_eq!(world.replica.replays().list_replays(list).await.unwrap().into_inner().replays.len(), 1);
    assert_eq!(world.invoker.runs_of("e").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_a_delivery_had_come_to_the_newest_hundred_are_kept() {
    let world = World::start().await;
    world.replica.publish(event("c", "e")).await.unwrap();
    world.replica.reaches("e", DeliveryState::Succeeded).await;
    let pool = world.database.pool();
    sqlx::query(
        "INSERT INTO ingest.superseded (lane, sequence, number, state, reason, reason_message, finish_time, attempts,
                                        action, actor)
         SELECT lane, sequence, n, 7, '', '', now(), n, 1, 'somebody' FROM ingest.events, generate_series(1, 150) n",
    )
    .execute(pool)
    .await
    .unwrap();
    replay(&world.replica, of(&[DeliveryState::Succeeded])).await;
    let kept: (i64, i32, i32) =
        sqlx::query_as("SELECT count(*), min(number), max(number) FROM ingest.superseded")
            .fetch_one(pool)
            .await
            .unwrap();
    assert_eq!(kept, (100, 52, 151));
}

/// Five of them are more than 1 MiB.
fn large_payload() -> String {
    serde_json::json!({ "text": "x".repeat(240 << 10) }).to_string()
}
