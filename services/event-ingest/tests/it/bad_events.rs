//! Events that cannot be recorded, each between two that can; and what only just can.

use std::time::SystemTime;

use chatfn_domain::event::{MAX_PAYLOAD_BYTES, MAX_PAYLOAD_DEPTH};
use chatfn_proto::ingest::v1::{Acknowledgement, DeliveryState, Event, EventHeader, event::PayloadKind};
use chatfn_rpc::ErrorReport;
use prost_types::{Struct, Timestamp, Value, value::Kind};
use tonic::{Code, Status};

use crate::{
    harness::{World, event},
    publisher::Publisher,
};

const INVALID: &str = "INVALID_REQUEST";
const NOT_JSON: &str = "PAYLOAD_NOT_JSON";
const TOO_DEEP: &str = "PAYLOAD_TOO_DEEP";
const OUT_OF_RANGE: &str = "OCCUR_TIME_OUT_OF_RANGE";

/// The first second of year 1, and the last one of year 9999.
const FIRST: i64 = -62_135_596_800;
const LAST: i64 = 253_402_300_799;

/// Makes something of an event.
type Change = fn(&mut Event);

/// What is wrong with an event: the reason that its publisher is told, the field that is named, and how to make it so.
const MISTAKES: &[(&str, &str, Change)] = &[
    (INVALID, "event.account", |it| it.account = String::new()),
    (INVALID, "event.account", |it| it.account = "a".repeat(64)),
    (INVALID, "event.account", |it| it.account = "acme\0".to_owned()),
    (INVALID, "event.event_id", |it| it.event_id = String::new()),
    (INVALID, "event.event_id", |it| it.event_id = "x".repeat(129)),
    (INVALID, "event.event_id", |it| it.event_id = "no id".to_owned()),
    (INVALID, "event.event_id", |it| it.event_id = "bad\0".to_owned()),
    (INVALID, "event.conversation_id", |it| it.conversation_id = String::new()),
    (INVALID, "event.conversation_id", |it| it.conversation_id = "c".repeat(129)),
    (INVALID, "event.conversation_id", |it| it.conversation_id = "c\n".to_owned()),
    (INVALID, "event.template", |it| it.template = "chat".to_owned()),
    (INVALID, "event.template", |it| it.template = format!("chat.{}", "x".repeat(60))),
    ("TEMPLATE_NOT_FOUND", "", |it| it.template = "chat.nothing".to_owned()),
    (INVALID, "event.headers", |it| it.headers = vec![header("k", ""); 65]),
    (INVALID, "event.headers[0].key", |it| it.headers = vec![header("", "v")]),
    (INVALID, "event.headers[0].key", |it| it.headers = vec![header(&"k".repeat(257), "v")]),
    (INVALID, "event.headers[1].value", |it| {
        it.headers = vec![header("k", "v"), header("k", &"v".repeat(8193))];
    }),
    (INVALID, "event.payload_kind", |it| it.payload_kind = None),
    (INVALID, "event.payload_json", |it| it.payload_kind = json(&of_size(MAX_PAYLOAD_BYTES + 1))),
    (INVALID, "event.payload", |it| {
        it.payload_kind = value(Kind::StringValue("x".repeat(MAX_PAYLOAD_BYTES)));
    }),
    (NOT_JSON, "event.payload", |it| it.payload_kind = value(Kind::NumberValue(f64::NAN))),
    (NOT_JSON, "event.payload_json", |it| it.payload_kind = json("")),
    (NOT_JSON, "event.payload_json", |it| it.payload_kind = json("{")),
    (NOT_JSON, "event.payload_json", |it| it.payload_kind = json("[]")),
    (NOT_JSON, "event.payload_json", |it| it.payload_kind = json("null")),
    (NOT_JSON, "event.payload_json", |it| it.payload_kind = json("{} {}")),
    (NOT_JSON, "event.payload_json", |it| it.payload_kind = json("\u{feff}{}")),
    (NOT_JSON, "event.payload_json", |it| it.payload_kind = json(r#"{"text":NaN}"#)),
    // NUL as it is, in a text and after the payload.
    (NOT_JSON, "event.payload_json", |it| it.payload_kind = json("{\"text\":\"a\0b\"}")),
    (NOT_JSON, "event.payload_json", |it| it.payload_kind = json("{}\0")),
    // Half a character: its first half, its second half, both the wrong way round.
    (NOT_JSON, "event.payload_json", |it| it.payload_kind = json(r#"{"text":"\ud83d"}"#)),
    (NOT_JSON, "event.payload_json", |it| it.payload_kind = json(r#"{"text":"\ude00"}"#)),
    (NOT_JSON, "event.payload_json", |it| it.payload_kind = json(r#"{"text":"\ude00\ud83d"}"#)),
    (TOO_DEEP, "event.payload_json", |it| it.payload_kind = json(&nested(MAX_PAYLOAD_DEPTH + 1))),
    (TOO_DEEP, "event.payload_json", |it| it.payload_kind = json(&nested(10_000))),
    ("PAYLOAD_SCHEMA", "event.payload.text", |it| it.payload_kind = json(r#"{"text":5}"#)),
    (INVALID, "event.occur_time", |it| it.occur_time = at(FIRST - 1, 0)),
    (INVALID, "event.occur_time", |it| it.occur_time = at(LAST + 1, 0)),
    (INVALID, "event.occur_time", |it| it.occur_time = at(i64::MIN, 0)),
    (INVALID, "event.occur_time", |it| it.occur_time = at(0, -1)),
    (OUT_OF_RANGE, "event.occur_time", |it| it.occur_time = at(FIRST, 0)),
    (OUT_OF_RANGE, "event.occur_time", |it| it.occur_time = at(LAST, 0)),
    (OUT_OF_RANGE, "event.occur_time", |it| it.occur_time = hours_from_now(-31 * 24)),
    (OUT_OF_RANGE, "event.occur_time", |it| it.occur_time = hours_from_now(16)),
    (INVALID, "event.deliver_by", |it| it.deliver_by = at(FIRST - 1, 0)),
    (INVALID, "event.deliver_by", |it| it.deliver_by = at(LAST + 1, 0)),
    (INVALID, "event.deliver_by", |it| it.deliver_by = at(i64::MAX, 0)),
    (INVALID, "event.deliver_by", |it| it.deliver_by = at(0, 1_000_000_000)),
];

/// What may be in an event that runs, though only just or although one would not expect it.
const FITTING: &[Change] = &[
    |it| it.event_id = "x".repeat(128),
    |it| it.conversation_id = "c".repeat(128),
    |it| it.headers = vec![header("k\0", "a\0b")],
    |it| it.headers = vec![header(&"k".repeat(256), &"v".repeat(8192))],
    |it| it.headers = vec![header("k", ""); 64],
    |it| it.payload_kind = json(&of_size(MAX_PAYLOAD_BYTES)),
    |it| it.payload_kind = json(&nested(MAX_PAYLOAD_DEPTH)),
    |it| it.payload_kind = json(r#"{"text":"\u0000\ud83d\ude00"}"#),
    |it| it.occur_time = hours_from_now(1 - 30 * 24),
    |it| it.occur_time = hours_from_now(14),
    |it| it.deliver_by = at(LAST, 999_999_000),
];

fn header(key: &str, value: &str) -> EventHeader {
    EventHeader { key: key.to_owned(), value: value.to_owned() }
}

fn at(seconds: i64, nanos: i32) -> Option<Timestamp> {
    Some(Timestamp { seconds, nanos })
}

fn hours_from_now(hours: i64) -> Option<Timestamp> {
    let now = Timestamp::from(SystemTime::now());
    at(now.seconds + hours * 3600, 999_999_000)
}

fn json(text: &str) -> Option<PayloadKind> {
    Some(PayloadKind::PayloadJson(text.to_owned()))
}

/// A payload as a value, with this as its text.
fn value(kind: Kind) -> Option<PayloadKind> {
    let fields = [("text".to_owned(), Value { kind: Some(kind) })];
    Some(PayloadKind::Payload(Struct { fields: fields.into_iter().collect() }))
}

/// A payload of so many bytes.
fn of_size(bytes: usize) -> String {
    let around = r#"{"text":""}"#.len();
    format!(r#"{{"text":"{}"}}"#, "x".repeat(bytes - around))
}

/// A payload that is nested so deep.
fn nested(levels: usize) -> String {
    format!(r#"{{"a":{}{}}}"#, "[".repeat(levels - 1), "]".repeat(levels - 1))
}

/// Every bad event between two good ones, all of one conversation.
fn events() -> Vec<Event> {
    let mut events = vec![event("c", "good0")];
    for (n, (_, _, spoil)) in MISTAKES.iter().enumerate() {
        let mut bad = event("c", &format!("bad{n}"));
        spoil(&mut bad);
        events.extend([bad, event("c", &format!("good{}", n + 1))]);
    }
    events
}

/// Checks what came of them: each bad one was refused for its reason, and the others were recorded and run as if they had
/// been alone.
async fn check(world: &World, answers: Vec<Result<Acknowledgement, Status>>) {
    assert_eq!(answers.len(), 2 * MISTAKES.len() + 1);
    for (n, good) in answers.iter().step_by(2).enumerate() {
        assert!(good.as_ref().is_ok_and(|ack| !ack.duplicate), "good{n}: {good:?}");
    }
    for (n, (bad, (reason, field, _))) in answers.iter().skip(1).step_by(2).zip(MISTAKES).enumerate() {
        let Err(status) = bad else { panic!("bad{n} is accepted; {reason} {field} was expected") };
        let report = ErrorReport::from_status(status);
        let code = match *reason {
            "TEMPLATE_NOT_FOUND" => Code::NotFound,
            OUT_OF_RANGE => Code::OutOfRange,
            _ => Code::InvalidArgument,
        };
        assert_eq!((report.code, report.reason.as_deref()), (code, Some(*reason)), "bad{n}: {report:?}");
        let named: Vec<&str> = report.fields.iter().map(|it| it.field.as_str()).collect();
        assert!(if field.is_empty() { named.is_empty() } else { named == [*field] }, "bad{n}: {report:?}");
        if *reason == "PAYLOAD_SCHEMA" {
            let what = format!("payload.text: {}", report.fields[0].description);
            assert!(report.message.contains(&what), "{report:?}");
        }
    }
    let good: Vec<String> = (0..=MISTAKES.len()).map(|n| format!("good{n}")).collect();
    world.replica.reaches(&good[MISTAKES.len()], DeliveryState::Succeeded).await;
    let ran: Vec<String> = world.invoker.runs().into_iter().map(|run| run.event_id).collect();
    assert_eq!(ran, good);
    // Of whatever account: some of them have none that could be asked for.
    let stored: Vec<String> = sqlx::query_scalar("SELECT event_id FROM ingest.events ORDER BY sequence")
        .fetch_all(world.database.pool())
        .await
        .unwrap();
    assert_eq!(stored, good);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_events_do_not_sink_their_neighbours_in_a_call() {
    let world = World::start().await;
    let answers = world.replica.publish_all(events()).await;
    check(&world, answers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_events_do_not_sink_their_neighbours_in_a_stream() {
    let world = World::start().await;
    let mut publisher = Publisher::open(&world.replica).await;
    let mut answers = Vec::new();
    for (event, n) in events().into_iter().zip(1..) {
        publisher.send(n, event).await;
        // Those that are good are recorded while the next ones come.
        if n > 4 {
            answers.push(publisher.answer(n - 4).await);
        }
    }
    for n in (1..).skip(answers.len()).take(4) {
        answers.push(publisher.answer(n).await);
    }
    assert!(publisher.finish().end().await.is_ok());
    check(&world, answers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_just_fits_is_recorded_and_run_as_it_came() {
    let world = World::start().await;
    let sent = FITTING.iter().enumerate().map(|(n, change)| {
        let mut event = event(&format!("c{n}"), &format!("e{n}"));
        change(&mut event);
        event
    });
    let sent: Vec<Event> = sent.collect();
    for (n, answer) in world.replica.publish_all(sent.clone()).await.into_iter().enumerate() {
        assert!(answer.is_ok(), "e{n}: {answer:?}");
    }
    for (n, event) in sent.into_iter().enumerate() {
        let told = world.replica.reaches(&event.event_id, DeliveryState::Succeeded).await;
        assert_eq!((told.occur_time, told.deliver_by), (event.occur_time, event.deliver_by), "e{n}");
        let runs = world.invoker.runs_of(&event.event_id);
        assert_eq!((runs.len(), &runs[0].conversation_id), (1, &event.conversation_id), "e{n}");
        let headers: Vec<_> = event.headers.into_iter().map(|it| (it.key, it.value)).collect();
        assert!(runs[0].headers == headers, "e{n}");
        assert!(json(&runs[0].payload_json) == event.payload_kind, "e{n}");
    }
}
