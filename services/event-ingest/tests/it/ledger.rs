//! How the counts add up.

use std::collections::BTreeMap;

use chatfn_domain::retry::AfterLastAttempt;
use chatfn_proto::ingest::v1::{DeliveryState, Event, ReconcileRequest, ReconcileResponse};
use tonic::Code;

use crate::{
    harness::{ACME, MESSAGE, START, UNUSED, World, event, refused, settings},
    invoker::Answer,
};

pub(crate) async fn reconcile(world: &World, request: ReconcileRequest) -> ReconcileResponse {
    world.replica.deliveries().reconcile(request).await.unwrap().into_inner()
}

pub(crate) fn all() -> ReconcileRequest {
    ReconcileRequest { parent: format!("accounts/{ACME}"), ..ReconcileRequest::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_accepted_event_is_in_one_state() {
    let mut settings = settings(2);
    settings.retry.after_last_attempt = AfterLastAttempt::Halt;
    settings.retry.initial_backoff = std::time::Duration::from_secs(600);
    settings.retry.max_backoff = settings.retry.initial_backoff;
    let world = World::start_with(settings, |_| {}).await;
    world.invoker.script("retries", [Answer::Throws]);
    let of = |template: &str, conversation: &str, id: &str| Event {
        template: template.to_owned(),
        ..event(conversation, id)
    };
    let batch = vec![
        of(START, "a", "starts"),
        of(START, "a", "suppressed"),
        of(UNUSED, "a", "unused"),
        of(UNUSED, "b", "unused2"),
        of(MESSAGE, "b", "succeeds"),
        of(MESSAGE, "c", "retries"),
        of(MESSAGE, "c", "waits"),
    ];
    assert!(world.replica.publish_all(batch).await.iter().all(Result::is_ok));
    for (id, state) in [
        ("succeeds", DeliveryState::Succeeded),
        ("unused", DeliveryState::NoFunction),
        ("unused2", DeliveryState::NoFunction),
        ("starts", DeliveryState::Succeeded),
        ("retries", DeliveryState::Retrying),
    ] {
        world.replica.reaches(id, state).await;
    }
    let ledger = reconcile(&world, all()).await;
    let counts: BTreeMap<(String, DeliveryState), i64> =
        ledger.counts.iter().map(|count| ((count.template.clone(), count.state()), count.count)).collect();
    let expected = [
        (MESSAGE, DeliveryState::Succeeded, 1),
        (MESSAGE, DeliveryState::Retrying, 1),
        (MESSAGE, DeliveryState::Pending, 1),
        (START, DeliveryState::Succeeded, 1),
        (START, DeliveryState::Suppressed, 1),
        (UNUSED, DeliveryState::NoFunction, 2),
    ];
    let expected: BTreeMap<_, i64> =
        expected.into_iter().map(|(template, state, count)| ((template.to_owned(), state), count)).collect();
    assert_eq!(counts, expected);
    assert_eq!((ledger.accepted_count, ledger.unaccounted_count), (7, 0));
    assert!(ledger.next_page_token.is_empty() && ledger.covered_to_time.is_none());

    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let time = |seconds: u64| Some(prost_types::Timestamp { seconds: seconds.cast_signed(), nanos: 0 });
    for (start_time, end_time, count) in
        [(time(now - 3600), time(now + 3600), 7), (time(now + 3600), None, 0), (None, time(now - 3600), 0)]
    {
        let ledger = reconcile(&world, ReconcileRequest { start_time, end_time, ..all() }).await;
        assert_eq!(ledger.accepted_count, count);
    }
    let nobody = ReconcileRequest { parent: "accounts/nobody".to_owned(), ..all() };
    assert_eq!(reconcile(&world, nobody).await, ReconcileResponse::default());
    let bad = ReconcileRequest { page_token: "x".to_owned(), ..all() };
    let answer = world.replica.deliveries().reconcile(bad).await;
    refused(answer, Code::InvalidArgument, "INVALID_PAGE_TOKEN");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_no_lane_would_run_is_found_and_pages_add_up() {
    let world = World::start().await;
    world.replica.publish(event("c", "e")).await.unwrap();
    world.replica.reaches("e", DeliveryState::Succeeded).await;
    let pool = world.database.pool();
    // More than one page.
    sqlx::query(
        "INSERT INTO ingest.events (lane, sequence, account, event_id, template, conversation_id, payload, content_hash,
                                    accept_time)
         SELECT n % 64, -n, $1, 'old' || n, 'chat.message', 'old' || n, '{}', '', now() - n * interval '1 second'
         FROM generate_series(1, 60000) n",
    )
    .bind(ACME)
    .execute(pool)
    .await
    .unwrap();
    // All but two have their outcome; of these one is parked.
    sqlx::query(
        "INSERT INTO ingest.outcomes (lane, sequence, state, epoch, account, accept_time)
         SELECT lane, sequence, 3, 1, account, accept_time FROM ingest.events
         WHERE sequence < 0 AND sequence NOT IN (-7, -8)",
    )
    .execute(pool)
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO ingest.parked (lane, sequence, account, conversation_id, next_attempt_time)
         VALUES (7, -7, $1, 'old7', now() + interval '1 hour')",
    )
    .bind(ACME)
    .execute(pool)
    .await
    .unwrap();
    let (mut accepted, mut unaccounted, mut pages) = (0, 0, 0);
    let mut request = all();
    loop {
        let ledger = reconcile(&world, request.clone()).await;
        assert_eq!(ledger.accepted_count, ledger.counts.iter().map(|count| count.count).sum::<i64>());
        accepted += ledger.accepted_count;
        unaccounted += ledger.unaccounted_count;
        pages += 1;
        assert_eq!(ledger.covered_to_time.is_some(), !ledger.next_page_token.is_empty());
        if ledger.next_page_token.is_empty() {
            break;
        }
        request.page_token = ledger.next_page_token;
    }
    assert_eq!((accepted, unaccounted, pages), (60_001, 1, 2));
}
