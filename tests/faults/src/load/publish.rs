//! One publication, until its answer says something.

use std::{
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use chatfn_proto::ingest::v1::{
    Acknowledgement, Event, PublishEventRequest, PublishEventsRequest, event::PayloadKind, publish_result,
};
use chatfn_rpc::ErrorReport;
use serde_json::json;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::Publishers;
use crate::history::{Answer, Kind, Publication, Repeat, now};

/// Pause between tries.
pub(super) const PAUSE: Duration = Duration::from_millis(50);

/// When the first event was published.
static START: LazyLock<SystemTime> = LazyLock::new(SystemTime::now);
/// How long before that some events happened: between the days that [`crate::database`] has opened, and before those in which every id is
/// looked for.
const EARLIER: Duration = Duration::from_secs(20 * 24 * 3600);

/// Which replica is asked first: half of the events each. Not by the mark, too: it may hold the same digits.
fn first(publication: &Publication) -> usize {
    publication.event.bytes().map(usize::from).sum()
}

/// Whether it happened days ago, which one in four did: whoever takes it looks whether it was recorded then.
fn is_old(publication: &Publication) -> bool {
    (first(publication) / 2).is_multiple_of(4)
}

impl Publishers {
    /// Publishes an event, again with the other replica when the answer says nothing, and writes down what came of it.
    pub async fn publish(&self, publication: Publication) -> Publication {
        let publication = self.answered(publication).await;
        self.records.add(publication.clone());
        publication
    }

    /// The same, without writing it down.
    pub(super) async fn answered(&self, mut publication: Publication) -> Publication {
        let event = event(&publication);
        publication.sent = now();
        let answer = self.ask(first(&publication), &event).await;
        publication.answered = now();
        publication.answer = match answer {
            Ok(_) => Answer::Acknowledged,
            Err(Some(status)) => Answer::Refused(reason(&status)),
            Err(None) => Answer::Unknown,
        };
        publication
    }

    /// Publishes an acknowledged event once more: it must be told that it was there.
    pub(super) async fn publish_again(&self, publication: &Publication) {
        if publication.answer != Answer::Acknowledged {
            return;
        }
        let wrong = match self.ask(0, &event(publication)).await {
            Ok(acknowledgement) if acknowledgement.duplicate => None,
            Ok(_) => Some("published again, it was taken for new".to_owned()),
            Err(Some(status)) => Some(format!("published again, it was refused: {}", reason(&status))),
            Err(None) => return,
        };
        self.records.add_repeat(Repeat { event: publication.event.clone(), wrong });
    }

    /// Publishes something else under the id of an acknowledged event: it must be refused.
    pub(super) async fn publish_other(&self, publication: &Publication) {
        if publication.answer != Answer::Acknowledged {
            return;
        }
        let other = Publication { mark: "something else".to_owned(), ..publication.clone() };
        let wrong = match self.ask(0, &event(&other)).await {
            Ok(_) => Some("something else was taken for it".to_owned()),
            Err(Some(status)) if status.code() == Code::AlreadyExists => None,
            Err(Some(status)) => Some(format!("something else was refused as {}", reason(&status))),
            Err(None) => return,
        };
        self.records.add_repeat(Repeat { event: publication.event.clone(), wrong });
    }

    /// Publishes events in one call, of which the malformed ones must be refused and the others acknowledged.
    pub(super) async fn publish_batch(&self, mut batch: Vec<Publication>, variant: u32) {
        let events: Vec<Event> = (variant..)
            .zip(&batch)
            .map(|(variant, publication)| match publication.kind {
                Kind::Malformed => with_payload(publication, &malformed(variant)),
                _ => event(publication),
            })
            .collect();
        batch.iter_mut().for_each(|publication| publication.sent = now());
        let start = Instant::now();
        let mut turn = 0;
        // One answer per event, the last that says something.
        let mut answers = vec![None; batch.len()];
        while start.elapsed() < self.patience && answers.iter().any(Option::is_none) {
            let mut client = self.ingest(turn);
            turn += 1;
            let request = PublishEventsRequest { events: events.clone() };
            let Ok(response) = client.publish_events(request).await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            for (answer, result) in answers.iter_mut().zip(response.into_inner().results) {
                match result.result {
                    Some(publish_result::Result::Acknowledgement(_)) => *answer = Some(Answer::Acknowledged),
                    Some(publish_result::Result::Error(error)) if is_final(Code::from(error.code)) => {
                        *answer = Some(Answer::Refused(error.message));
                    }
                    _ => {}
                }
            }
            if answers.iter().any(Option::is_none) {
                tokio::time::sleep(PAUSE).await;
            }
        }
        for (mut publication, answer) in batch.into_iter().zip(answers) {
            publication.answered = now();
            publication.answer = answer.unwrap_or(Answer::Unknown);
            self.records.add(publication);
        }
    }

    /// The first answer that says something, or the refusal; `None`: there was none.
    async fn ask(&self, turn: usize, event: &Event) -> Result<Acknowledgement, Option<Status>> {
        let start = Instant::now();
        let mut turn = turn;
        while start.elapsed() < self.patience {
            let mut client = self.ingest(turn);
            turn += 1;
            match client.publish_event(PublishEventRequest { event: Some(event.clone()) }).await {
                Ok(response) => {
                    if let Some(acknowledgement) = response.into_inner().acknowledgement {
                        return Ok(acknowledgement);
                    }
                }
                Err(status) if is_final(status.code()) => return Err(Some(status)),
                Err(_) => {}
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(None)
    }
}

/// Whether asking again changes nothing.
pub(super) fn is_final(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::AlreadyExists
            | Code::NotFound
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
    )
}

fn reason(status: &Status) -> String {
    let report = ErrorReport::from_status(status);
    report.reason.unwrap_or_else(|| format!("{:?}: {}", status.code(), status.message()))
}

/// What is published, with the payload that its lambda goes by.
pub(super) fn event(publication: &Publication) -> Event {
    let payload = json!({"kind": publication.kind.name(), "mark": publication.mark});
    with_payload(publication, &payload.to_string())
}

/// Payloads that must not be taken.
fn malformed(variant: u32) -> String {
    match variant % 5 {
        0 => "{".to_owned(),
        1 => "[]".to_owned(),
        2 => r#"{"mark": "\ud800"}"#.to_owned(),
        3 => format!("{{\"mark\":{}", "[".repeat(10_000)),
        _ => format!("{{\"mark\":\"{}\"}}", "x".repeat(256 * 1024)),
    }
}

fn with_payload(publication: &Publication, payload: &str) -> Event {
    let deliver_by = publication.deliver_by.map(|at| prost_types::Timestamp {
        seconds: i64::try_from(at / 1_000_000).unwrap_or(i64::MAX),
        nanos: i32::try_from(at % 1_000_000 * 1_000).unwrap_or_default(),
    });
    Event {
        account: publication.account.clone(),
        event_id: publication.event.clone(),
        template: publication.template.name().to_owned(),
        conversation_id: publication.conversation.clone(),
        payload_kind: Some(PayloadKind::PayloadJson(payload.to_owned())),
        deliver_by,
        occur_time: is_old(publication).then(|| (*START - EARLIER).into()),
        ..Event::default()
    }
}
