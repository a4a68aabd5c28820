//! A release rolls out under load: every process of every service is replaced, and nobody who calls has to know.

mod load;

use std::collections::{BTreeMap, HashMap, HashSet};

use chatfn_proto::ingest::v1::{DeliveryState, ReconcileRequest};
use chatfn_tests::{
    api::{ACCOUNT, Api, settings},
    fleet::Fleet,
    witness::Witness,
};
use load::Load;
use serde_json::json;
use tokio::task::{JoinSet, LocalSet};
use tokio_util::sync::CancellationToken;

/// Calls the witness, so that what ran and in which order is known from outside.
const TELL: &str = r"
async function lambda(input, context) {
  await fetch(`${process.env.WITNESS}/${context.conversationId}/${context.eventId}`, { method: 'POST' });
}";
const TOLD: &str = "chat.participants_change";
/// What is invoked directly, and runs again when nobody knows whether it did.
const PURE: &str = "chat.end";

#[tokio::test]
async fn a_rolling_restart_of_everything_under_load_loses_nothing_and_fails_no_call_for_good() {
    // The clients' calls borrow what they send, which a task that may change its thread must not.
    Box::pin(LocalSet::new().run_until(roll_everything())).await;
}

async fn roll_everything() {
    let (mut fleet, witness) = (Fleet::start().await, Witness::start().await);
    let mut api = Api::new(fleet.registry.client(), fleet.event_ingest.client());
    api.deploy(TOLD, TELL, settings(&witness.host, 5)).await;
    api.deploy(PURE, "function lambda() { return 'fine' }", settings(&witness.host, 5)).await;

    let load = Load::of(&api);
    let stop = CancellationToken::new();
    let mut clients = JoinSet::new();
    clients.spawn_local(load.clone().publish("p1", stop.clone()));
    clients.spawn_local(load.clone().publish("p2", stop.clone()));
    clients.spawn_local(load.clone().stream(stop.clone()));
    clients.spawn_local(load.clone().invoke(fleet.invoker.client(), stop.clone()));
    clients.spawn_local(load.clone().read(stop.clone()));
    clients.spawn_local(load.clone().deploy(stop.clone()));

    let mut seconds = BTreeMap::new();
    for (name, replicas) in [
        ("registry", &mut fleet.registry),
        ("invoker", &mut fleet.invoker),
        ("event-ingest", &mut fleet.event_ingest),
    ] {
        // So that each is replaced while calls are made.
        load.goes_on().await;
        seconds.insert(name, replicas.roll().await.as_secs_f64());
    }
    load.goes_on().await;
    stop.cancel();
    while let Some(ended) = clients.join_next().await {
        ended.expect("no call failed for good");
    }

    let acknowledged = load.counts().acknowledged;
    let (mut lost, mut attempts) = (0, 0);
    let mut repeated = BTreeMap::<String, usize>::new();
    for event_id in &acknowledged {
        let delivery = api.outcome(event_id).await;
        lost += usize::from(delivery.state() != DeliveryState::Succeeded);
        attempts += delivery.attempts.len();
        for attempt in delivery.attempts.iter().rev().skip(1) {
            let why =
                if attempt.platform_error.is_empty() { "LAMBDA_FAILED" } else { &attempt.platform_error };
            *repeated.entry(why.to_owned()).or_default() += 1;
        }
    }
    let seen = Seen::by(&witness);
    lost += acknowledged.iter().filter(|event_id| !seen.keys.contains_key(*event_id)).count();
    let request = ReconcileRequest { parent: format!("accounts/{ACCOUNT}"), ..ReconcileRequest::default() };
    let ledger = api.deliveries.reconcile(request).await.unwrap().into_inner();

    let counts = load.counts();
    let figures = json!({
        "seconds_to_replace": seconds,
        "calls": counts.calls,
        "calls_made_again": counts.again,
        "most_tries_of_a_call": counts.most_tries,
        "slowest_call_ms": counts.slowest.as_millis(),
        "streams": counts.streams,
        "acknowledged": acknowledged.len(),
        "attempts_per_event": attempts as f64 / acknowledged.len() as f64,
        "attempts_made_again": repeated,
        "lost": lost,
        "reordered": seen.reordered,
        "other_keys": seen.other_keys,
    });
    println!("{figures}");
    assert_eq!((lost, seen.reordered, seen.other_keys), (0, 0, 0), "{figures}");
    assert!(counts.streams > 1, "the stream's process was replaced: {figures}");
    // Who goes away says so. Anything else would be a call that broke.
    assert!(counts.again.keys().all(|told| told.starts_with("UNAVAILABLE")), "{figures}");
    let accounted: i64 = ledger.counts.iter().map(|count| count.count).sum();
    assert_eq!((ledger.accepted_count, ledger.unaccounted_count), (accounted, 0));
    assert!(accounted >= i64::try_from(acknowledged.len()).unwrap(), "{accounted}: {figures}");
}

/// What the witness saw.
struct Seen {
    /// The idempotency keys of each event's calls.
    keys: HashMap<String, HashSet<Option<String>>>,
    /// Calls for an event after one for a later event of its conversation.
    reordered: usize,
    /// Events whose calls had not all the same key.
    other_keys: usize,
}

impl Seen {
    fn by(witness: &Witness) -> Self {
        let mut keys = HashMap::<_, HashSet<_>>::new();
        let mut last = HashMap::<String, String>::new();
        let mut reordered = 0;
        for call in witness.calls() {
            let (conversation, event_id) = call.path.trim_start_matches('/').split_once('/').expect("a path");
            keys.entry(event_id.to_owned()).or_default().insert(call.idempotency_key);
            // The ids of a conversation's events sort as they were published.
            let before = last.insert(conversation.to_owned(), event_id.to_owned());
            reordered += usize::from(before.is_some_and(|before| before.as_str() > event_id));
        }
        let other_keys = keys.values().filter(|keys| keys.len() != 1 || keys.contains(&None)).count();
        Self { keys, reordered, other_keys }
    }
}
