//! Conversations that halt, and operators.

use chatfn_domain::retry::AfterLastAttempt;
use chatfn_domain::settings::FunctionSettings;
use chatfn_proto::ingest::v1::{
    Delivery, DeliveryState, OperatorAction, ResumeConversationRequest, SkipEventRequest,
};
use tonic::{Code, Status};

use crate::{
    harness::{ACME, Replica, World, event, eventually, refused, settings},
    invoker::Answer,
};

/// Settings of a function whose conversations halt at what fails.
pub(crate) fn halting(max_attempts: u32) -> FunctionSettings {
    let mut settings = settings(max_attempts);
    settings.retry.after_last_attempt = AfterLastAttempt::Halt;
    settings
}

async fn resume(replica: &Replica, conversation: &str, event_id: &str) -> Result<Delivery, Status> {
    let name = format!("accounts/{ACME}/conversations/{conversation}");
    let request = ResumeConversationRequest { name, event_id: event_id.to_owned() };
    Ok(replica.deliveries().resume_conversation(request).await?.into_inner().delivery.unwrap())
}

pub(crate) async fn skip(replica: &Replica, event_id: &str) -> Result<Delivery, Status> {
    let request = SkipEventRequest { name: format!("accounts/{ACME}/deliveries/{event_id}") };
    Ok(replica.deliveries().skip_event(request).await?.into_inner().delivery.unwrap())
}

/// A conversation `c` that is halted at `bad`, with `next` behind it, and events of others.
async fn halted(world: &World) {
    world.invoker.script("bad", [Answer::Throws, Answer::Throws]);
    let batch = vec![event("c", "first"), event("c", "bad"), event("c", "next"), event("d", "other")];
    assert!(world.replica.publish_all(batch).await.iter().all(Result::is_ok));
    let bad = world.replica.reaches("bad", DeliveryState::Halted).await;
    assert_eq!((bad.reason.as_str(), bad.attempts.len()), ("LAMBDA_FAILED", 2));
    assert!(bad.reason_message.contains("attempt 2 was the last"), "{bad:?}");
    assert!(bad.next_attempt_time.is_none() && bad.finish_time.is_none(), "{bad:?}");
    world.replica.reaches("other", DeliveryState::Succeeded).await;
    world.replica.publish(event("d", "other2")).await.unwrap();
    world.replica.reaches("other2", DeliveryState::Succeeded).await;
    assert_eq!(world.replica.delivery("next").await.unwrap().state(), DeliveryState::Pending);
}

/// Adds events `done1` … to the conversation of `bad`, which is halted, that have their outcome. While nobody owns its lane.
async fn add_finished(world: &World, count: i32) {
    sqlx::query(
        "WITH added AS (
             INSERT INTO ingest.events (lane, sequence, account, event_id, template, conversation_id, payload, content_hash)
             SELECT lane, sequence + n, account, 'done' || n, template, conversation_id, payload, content_hash
             FROM ingest.events, generate_series(1, $1) n WHERE event_id = 'bad'
             RETURNING lane, sequence, account, accept_time
         ), finished AS (
             INSERT INTO ingest.outcomes (lane, sequence, state, epoch, account, accept_time)
             SELECT lane, sequence, 3, 1, account, accept_time FROM added
         )
         UPDATE ingest.lane_heads h SET next_sequence = next_sequence + $1
         FROM ingest.events e WHERE e.lane = h.lane AND e.event_id = 'bad'",
    )
    .bind(count)
    .execute(world.database.pool())
    .await
    .unwrap();
}

fn lane_of(conversation: &str) -> i16 {
    chatfn_domain::lane::lane_of(&ACME.parse().unwrap(), &conversation.parse().unwrap())
}

/// Keeps the owner of a conversation's lane from recording anything.
async fn hold_lane(world: &World, conversation: &str) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let mut theft = world.database.pool().begin().await.unwrap();
    sqlx::query("SELECT 1 FROM ingest.lanes WHERE lane = $1 FOR UPDATE")
        .bind(lane_of(conversation))
        .execute(&mut *theft)
        .await
        .unwrap();
    theft
}

/// More of them than are looked at in one read.
#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_goes_on_after_many_events_that_are_finished() {
    let mut world = World::start_with(halting(1), |_| {}).await;
    world.invoker.script("bad", [Answer::Throws]);
    world.replica.publish(event("c", "bad")).await.unwrap();
    world.replica.reaches("bad", DeliveryState::Halted).await;
    world.replica.stop().await;
    add_finished(&world, 5000).await;
    let replica = Replica::start(world.config(|_| {}), world.deployments()).await;
    replica.publish(event("c", "last")).await.unwrap();
    resume(&replica, "c", "bad").await.unwrap();
    replica.reaches("last", DeliveryState::Succeeded).await;
    assert_eq!(world.invoker.runs_of("last").len(), 1);
    assert_eq!(world.invoker.runs_of("done5000").len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_halted_conversation_goes_on_with_its_event_when_it_is_resumed() {
    let world = World::start_with(halting(2), |_| {}).await;
    halted(&world).await;
    let told = resume(&world.replica, "c", "bad").await.unwrap();
    assert_eq!((told.event_id.as_str(), told.state()), ("bad", DeliveryState::Halted));
    let bad = world.replica.reaches("bad", DeliveryState::Succeeded).await;
    world.replica.reaches("next", DeliveryState::Succeeded).await;
    let numbers: Vec<u32> = bad.attempts.iter().map(|attempt| attempt.number).collect();
    assert_eq!(numbers, [1, 2, 3]);
    let past = &bad.past_states[0];
    assert_eq!(bad.past_states.len(), 1);
    assert_eq!(
        (past.state(), past.action(), past.actor.as_str(), past.attempt_count),
        (DeliveryState::Halted, OperatorAction::Resume, "anonymous", 2)
    );
    assert!(past.reason == "LAMBDA_FAILED" && past.finish_time.is_some() && past.action_time.is_some());
    let order: Vec<String> = world.invoker.runs().into_iter().map(|run| run.event_id).collect();
    assert!(
        order.iter().position(|id| id == "next").unwrap() > order.iter().rposition(|id| id == "bad").unwrap()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_event_has_all_its_attempts_again_and_may_halt_again() {
    let world = World::start_with(halting(2), |_| {}).await;
    halted(&world).await;
    world.invoker.script("bad", [Answer::Throws, Answer::Throws]);
    resume(&world.replica, "c", "").await.unwrap();
    eventually(async || world.replica.delivery("bad").await.unwrap().attempts.len() == 4).await;
    let bad = world.replica.reaches("bad", DeliveryState::Halted).await;
    assert_eq!((bad.attempts.len(), bad.past_states.len()), (4, 1));
    assert!(bad.reason_message.contains("attempt 2 was the last"), "{bad:?}");
    skip(&world.replica, "bad").await.unwrap();
    world.replica.reaches("next", DeliveryState::Succeeded).await;
    let bad = world.replica.reaches("bad", DeliveryState::DeadLettered).await;
    let actions: Vec<_> = bad.past_states.iter().map(|past| past.action()).collect();
    assert_eq!(actions, [OperatorAction::Resume, OperatorAction::Skip]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_halted_conversation_goes_on_without_its_event_when_that_is_skipped() {
    let world = World::start_with(halting(2), |_| {}).await;
    halted(&world).await;
    skip(&world.replica, "bad").await.unwrap();
    world.replica.reaches("next", DeliveryState::Succeeded).await;
    let bad = world.replica.reaches("bad", DeliveryState::DeadLettered).await;
    assert_eq!((bad.reason.as_str(), bad.attempts.len()), ("SKIPPED", 2));
    assert!(bad.reason_message.contains("anonymous") && bad.reason_message.contains("as the test says"));
    assert_eq!(bad.past_states[0].action(), OperatorAction::Skip);
    assert_eq!(world.invoker.runs_of("bad").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_act_on_what_is_halted_only() {
    let world = World::start_with(halting(2), |_| {}).await;
    halted(&world).await;
    let not_halted = |answer| refused(answer, Code::FailedPrecondition, "NOT_HALTED");
    not_halted(resume(&world.replica, "d", "").await);
    // Of others in its conversation it is said which one is.
    for answer in [
        skip(&world.replica, "next").await,
        skip(&world.replica, "first").await,
        resume(&world.replica, "c", "next").await,
    ] {
        let report = not_halted(answer);
        assert!(report.message.contains("accounts/acme/deliveries/bad"), "{report:?}");
    }
    refused(skip(&world.replica, "unknown").await, Code::NotFound, "DELIVERY_NOT_FOUND");
    assert_eq!(world.replica.delivery("bad").await.unwrap().state(), DeliveryState::Halted);

    // While its lane has no owner, what was asked for first holds.
    let theft = hold_lane(&world, "c").await;
    resume(&world.replica, "c", "bad").await.unwrap();
    resume(&world.replica, "c", "bad").await.unwrap();
    refused(skip(&world.replica, "bad").await, Code::Aborted, "INTERVENTION_PENDING");
    theft.rollback().await.unwrap();
    let bad = world.replica.reaches("bad", DeliveryState::Succeeded).await;
    assert_eq!(bad.past_states.len(), 1, "resumed once: {bad:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_halted_any_more_when_it_is_asked_for_is_refused() {
    let world = World::start_with(halting(2), |_| {}).await;
    halted(&world).await;
    let pool = world.database.pool();
    // As the lane's owner does what another operator has asked for, after this one has seen that the event is halted.
    let mut owner = pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE ingest.interventions IN EXCLUSIVE MODE").execute(&mut *owner).await.unwrap();
    let asking = skip(&world.replica, "bad");
    let resuming = async {
        let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
                         AND wait_event_type = 'Lock' AND query LIKE '%INSERT INTO ingest.interventions%')";
        eventually(async || sqlx::query_scalar::<_, bool>(waits).fetch_one(pool).await.unwrap()).await;
        sqlx::query("UPDATE ingest.parked SET kind = 0 WHERE kind = 1").execute(&mut *owner).await.unwrap();
        owner.commit().await.unwrap();
    };
    let (answer, ()) = tokio::join!(asking, resuming);
    refused(answer, Code::FailedPrecondition, "NOT_HALTED");
    let asked: i64 =
        sqlx::query_scalar("SELECT count(*) FROM ingest.interventions").fetch_one(pool).await.unwrap();
    assert_eq!(asked, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_stays_halted_over_restarts_and_can_be_resumed_through_another_replica() {
    let mut world = World::start_with(halting(2), |_| {}).await;
    halted(&world).await;
    world.replica.stop().await;
    let one = Replica::start(world.config(|_| {}), world.deployments()).await;
    one.publish(event("c", "later")).await.unwrap();
    one.publish(event("d", "proof")).await.unwrap();
    one.reaches("proof", DeliveryState::Succeeded).await;
    assert_eq!(one.delivery("bad").await.unwrap().state(), DeliveryState::Halted);
    let two = Replica::start(world.config(|_| {}), world.deployments()).await;
    eventually(async || world.shares().await == [32, 32]).await;
    assert!(world.invoker.runs_of("next").is_empty() && world.invoker.runs_of("later").is_empty());
    // Whichever of the two has the lane, the other one has been asked, too.
    resume(&one, "c", "").await.unwrap();
    one.reaches("later", DeliveryState::Succeeded).await;
    two.reaches("bad", DeliveryState::Succeeded).await;
    world.invoker.script("bad2", [Answer::Throws, Answer::Throws]);
    two.publish(event("c", "bad2")).await.unwrap();
    two.reaches("bad2", DeliveryState::Halted).await;
    resume(&two, "c", "").await.unwrap();
    one.reaches("bad2", DeliveryState::Succeeded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_in_a_transaction_that_commits_late_is_done_too() {
    let world = World::start_with(halting(1), |_| {}).await;
    let ids: Vec<String> = (0..).map(|n| format!("c{n}")).filter(|id| lane_of(id) == 0).take(2).collect();
    for id in &ids {
        world.invoker.script(id, [Answer::Throws]);
        world.replica.publish(event(id, id)).await.unwrap();
        world.replica.reaches(id, DeliveryState::Halted).await;
    }
    let pool = world.database.pool();
    let mut late = pool.begin().await.unwrap();
    let ask = "INSERT INTO ingest.interventions (lane, sequence, action, actor)
               SELECT lane, sequence, 2, 'late' FROM ingest.events WHERE event_id = $1";
    sqlx::query(ask).bind(&ids[0]).execute(&mut *late).await.unwrap();
    // Asked for later, seen and done before.
    resume(&world.replica, &ids[1], "").await.unwrap();
    world.replica.reaches(&ids[1], DeliveryState::Succeeded).await;
    late.commit().await.unwrap();
    let first = world.replica.reaches(&ids[0], DeliveryState::Succeeded).await;
    assert_eq!(first.past_states[0].actor, "late");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_operators_ask_is_done_before_what_replays_have_asked() {
    let mut world = World::start_with(halting(1), |_| {}).await;
    world.invoker.script("bad", [Answer::Throws]);
    world.replica.publish(event("c", "bad")).await.unwrap();
    world.replica.reaches("bad", DeliveryState::Halted).await;
    world.replica.stop().await;
    add_finished(&world, 2000).await;
    let replica = Replica::start(world.config(|_| {}), world.deployments()).await;
    // What comes after them in their lane has run: they are read.
    let near = (0..).map(|n| format!("d{n}")).find(|id| lane_of(id) == lane_of("c")).unwrap();
    replica.publish(event(&near, "proof")).await.unwrap();
    replica.reaches("proof", DeliveryState::Succeeded).await;

    let theft = hold_lane(&world, "c").await;
    let pool = world.database.pool();
    sqlx::query(
        "INSERT INTO ingest.interventions (lane, sequence, action, actor)
         SELECT lane, sequence, 1, 'a replay' FROM ingest.events WHERE event_id LIKE 'done%'",
    )
    .execute(pool)
    .await
    .unwrap();
    skip(&replica, "bad").await.unwrap();
    theft.rollback().await.unwrap();
    replica.reaches("bad", DeliveryState::DeadLettered).await;
    let before: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM ingest.superseded
         WHERE action = 1 AND action_time < (SELECT action_time FROM ingest.superseded WHERE action = 3)",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    assert!(before <= 64, "only those were first that the lane had begun with, not {before}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_halted_event_is_found_when_its_id_was_used_again() {
    let world = World::start_with(halting(1), |_| {}).await;
    world.invoker.script("e", [Answer::Throws]);
    let first = world.replica.publish(event("c", "e")).await.unwrap();
    world.replica.reaches("e", DeliveryState::Halted).await;
    // After the days over which ids are known.
    for day in 1..=3 {
        sqlx::query("SELECT ingest.open_day((now() AT TIME ZONE 'UTC')::date + $1)")
            .bind(day)
            .execute(world.database.pool())
            .await
            .unwrap();
    }
    let again = world.replica.publish(event("d", "e")).await.unwrap();
    assert!(!again.duplicate && again.sequence > first.sequence);
    world.invoker.until(|runs| runs.iter().any(|run| run.conversation_id == "d")).await;
    let told = world.replica.delivery("e").await.unwrap();
    assert_eq!((told.state(), told.sequence), (DeliveryState::Halted, first.sequence));
    skip(&world.replica, "e").await.unwrap();
    let told = world.replica.reaches("e", DeliveryState::Succeeded).await;
    assert_eq!(told.sequence, again.sequence);
}
