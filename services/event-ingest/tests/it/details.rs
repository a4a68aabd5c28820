//! All that is told of a delivery, and what lists tell only when they are asked.

use std::time::{Duration, SystemTime};

use chatfn_proto::{
    convert::to_duration,
    ingest::v1::{Attempt, Delivery, DeliveryState, Event, GetConversationRequest, ListDeliveriesRequest},
    invoker::v1::{
        FailureKind, LambdaFailure, LogEntry, LogLevel, OutboundCall, RunReport, run_report::Outcome,
    },
};
use prost_types::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::{
    harness::{ACME, MESSAGE, World, event, settings},
    invoker::Answer,
};

fn millis(millis: u64) -> Option<prost_types::Duration> {
    Some(to_duration(Duration::from_millis(millis)))
}

/// A report in which nothing is left out.
fn report(version: i64, outcome: Outcome) -> RunReport {
    RunReport {
        outcome: Some(outcome),
        version,
        logs: vec![LogEntry {
            level: LogLevel::Warn.into(),
            message: format!("from version {version}"),
            offset: millis(3),
            extras_json: r#"[{"orderId":7}]"#.to_owned(),
        }],
        logs_truncated: true,
        duration: millis(20),
        remaining_budget: millis(980),
        outbound_calls: vec![OutboundCall {
            method: "POST".to_owned(),
            url: "https://crm.example.com/orders".to_owned(),
            status: 503,
            duration: millis(7),
            error_reason: "RESPONSE_TOO_LARGE".to_owned(),
            error_message: "it has more than fits".to_owned(),
        }],
        outbound_calls_truncated: true,
    }
}

fn failure() -> Outcome {
    Outcome::Failure(LambdaFailure {
        kind: FailureKind::Thrown.into(),
        error_name: "TypeError".to_owned(),
        message: "not yet".to_owned(),
        stack: "at lambda (2:9)".to_owned(),
    })
}

fn micros(time: Option<Timestamp>) -> i64 {
    let Timestamp { seconds, nanos } = time.expect("a time");
    seconds * 1_000_000 + i64::from(nanos / 1000)
}

/// A delivery as lists tell it by default.
fn without_logs(mut delivery: Delivery) -> Delivery {
    for report in delivery.attempts.iter_mut().filter_map(|attempt| attempt.report.as_mut()) {
        report.logs.clear();
        report.outbound_calls.clear();
    }
    delivery
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_is_told_in_full_and_lists_leave_logs_and_calls_out_unless_asked() {
    let world = World::start_with(settings(2), |_| {}).await;
    let (failed, returned) = (report(6, failure()), report(7, Outcome::ResultJson("[1]".to_owned())));
    let answers = [&failed, &returned].map(|report| Answer::Reports(Box::new(report.clone())));
    world.invoker.script("e", answers);
    let (occur_time, deliver_by) = (
        Some(Timestamp { nanos: 5_000, ..Timestamp::from(SystemTime::now()) }),
        Some(Timestamp { seconds: 4_102_444_800, nanos: 7_000 }),
    );
    let sent = Event { occur_time, deliver_by, ..event("c", "e") };
    let sequence = world.replica.publish(sent).await.unwrap().sequence;
    let e = world.replica.reaches("e", DeliveryState::Succeeded).await;

    // The times are the database's. They come one after the other, and the latency is from the first to the last of them.
    let starts: Vec<_> = e.attempts.iter().map(|attempt| attempt.start_time).collect();
    let [first, second] = starts[..] else { panic!("{e:?}") };
    let times = [e.accept_time, first, second, e.finish_time].map(micros);
    assert!(times.is_sorted(), "{e:?}");
    let latency = Duration::from_micros(u64::try_from(times[3] - times[0]).unwrap());
    let attempt = |number, start_time, report| Attempt {
        number,
        start_time,
        report: Some(report),
        platform_error: String::new(),
        platform_error_message: String::new(),
    };
    let expected = Delivery {
        name: format!("accounts/{ACME}/deliveries/e"),
        event_id: "e".to_owned(),
        template: MESSAGE.to_owned(),
        conversation_id: "c".to_owned(),
        state: DeliveryState::Succeeded.into(),
        reason: String::new(),
        reason_message: String::new(),
        sequence,
        occur_time,
        accept_time: e.accept_time,
        finish_time: e.finish_time,
        deliver_by,
        next_attempt_time: None,
        attempts: vec![attempt(1, first, failed), attempt(2, second, returned)],
        latency: Some(to_duration(latency)),
        past_states: Vec::new(),
    };
    assert_eq!(e, expected);

    // One that runs has no outcome, hence no latency, and its attempt no report.
    let release = CancellationToken::new();
    world.invoker.script("runs", [Answer::ReturnsAfter(release.clone())]);
    world.replica.publish(event("c", "runs")).await.unwrap();
    world.invoker.started("runs", 1).await;
    let runs = world.replica.delivery("runs").await.unwrap();
    assert_eq!(runs.state(), DeliveryState::Pending);
    assert!(runs.latency.is_none() && runs.finish_time.is_none(), "{runs:?}");
    assert!(runs.attempts.len() == 1 && runs.attempts[0].report.is_none(), "{runs:?}");

    let mut deliveries = world.replica.deliveries();
    for include_logs in [false, true] {
        let told = if include_logs { e.clone() } else { without_logs(e.clone()) };
        let parent = format!("accounts/{ACME}");
        let request = ListDeliveriesRequest { parent, include_logs, ..Default::default() };
        let listed = deliveries.list_deliveries(request).await.unwrap().into_inner().deliveries;
        assert_eq!(listed, [runs.clone(), told.clone()]);
        let name = format!("accounts/{ACME}/conversations/c");
        let request = GetConversationRequest { name, include_logs, ..Default::default() };
        let history = deliveries.get_conversation(request).await.unwrap().into_inner().deliveries;
        assert_eq!(history, [told, runs.clone()]);
    }
    release.cancel();
}
