//! Stored deliveries as the contract shows them.

use std::collections::HashMap;

use chatfn_domain::name::{AccountId, DeliveryName, NameError, ReplayName};
use chatfn_proto::{
    convert::to_duration,
    ingest::v1::{Attempt, Delivery, DeliveryState, PastState, Replay, ReplayFilter, ReplayState},
    invoker::v1::RunReport,
};
use prost::Message as _;
use uuid::Uuid;

use crate::store::{
    Time,
    deliveries::{AttemptRow, DeliveryRow, PastRow},
    replays::ReplayRow,
};

/// A row that this release cannot show.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConvertError {
    /// A stored name is none.
    #[error("a stored event has a malformed name")]
    Name(#[from] NameError),
    /// A stored report cannot be decoded.
    #[error("the report of an attempt cannot be decoded")]
    Report(#[from] prost::DecodeError),
}

/// Deliveries with their attempts; without logs and outbound calls unless `in_full`.
pub(super) fn deliveries(
    rows: Vec<DeliveryRow>,
    attempts: Vec<AttemptRow>,
    past: Vec<PastRow>,
    in_full: bool,
) -> Result<Vec<Delivery>, ConvertError> {
    let mut attempts = by_event(attempts, |row| (row.lane, row.sequence));
    let mut past = by_event(past, |row| (row.lane, row.sequence));
    rows.into_iter()
        .map(|row| {
            let event = (row.lane, row.sequence);
            let attempts = attempts.remove(&event).unwrap_or_default();
            delivery(row, attempts, past.remove(&event).unwrap_or_default(), in_full)
        })
        .collect()
}

fn by_event<T>(rows: Vec<T>, event: impl Fn(&T) -> (i16, i64)) -> HashMap<(i16, i64), Vec<T>> {
    let mut by_event: HashMap<_, Vec<T>> = HashMap::new();
    for row in rows {
        by_event.entry(event(&row)).or_default().push(row);
    }
    by_event
}

fn delivery(
    row: DeliveryRow,
    attempts: Vec<AttemptRow>,
    past: Vec<PastRow>,
    in_full: bool,
) -> Result<Delivery, ConvertError> {
    let is_running = attempts.last().is_some_and(|attempt| attempt.finish_time.is_none());
    let name = DeliveryName { account: row.account.parse()?, event_id: row.event_id.parse()? };
    let latency = row.finish_time.map(|finish| to_duration(finish.since(row.accept_time)));
    // What it waited for is over when it runs.
    let says_why = !(is_running && row.state == DeliveryState::Retrying as i16);
    Ok(Delivery {
        name: name.to_string(),
        event_id: row.event_id,
        template: row.template,
        conversation_id: row.conversation_id,
        state: row.state.into(),
        reason: if says_why { row.reason } else { String::new() },
        reason_message: if says_why { row.reason_message } else { String::new() },
        sequence: row.sequence,
        occur_time: row.occur_time.map(Time::to_wire),
        accept_time: Some(row.accept_time.to_wire()),
        finish_time: row.finish_time.map(Time::to_wire),
        deliver_by: row.deliver_by.map(Time::to_wire),
        next_attempt_time: row.next_attempt_time.filter(|_| !is_running).map(Time::to_wire),
        attempts: attempts
            .into_iter()
            .map(|attempt| self::attempt(attempt, in_full))
            .collect::<Result<_, _>>()?,
        latency,
        past_states: past.into_iter().map(|row| past_state(&name, row)).collect(),
    })
}

fn past_state(name: &DeliveryName, row: PastRow) -> PastState {
    PastState {
        state: row.state.into(),
        reason: row.reason,
        reason_message: row.reason_message,
        finish_time: Some(row.finish_time.to_wire()),
        attempt_count: row.attempts.unsigned_abs(),
        action: row.action.into(),
        actor: row.actor,
        action_time: Some(row.action_time.to_wire()),
        replay: row.replay.map(|id| replay_name(&name.account, id)).unwrap_or_default(),
    }
}

fn replay_name(account: &AccountId, id: Uuid) -> String {
    ReplayName { account: account.clone(), replay: id.into() }.to_string()
}

/// A stored replay.
pub(super) fn replay(row: ReplayRow) -> Result<Replay, ConvertError> {
    let state = match (row.finish_time, &row.cancel_actor) {
        (None, _) => ReplayState::Running,
        (Some(_), Some(_)) => ReplayState::Canceled,
        (Some(_), None) if row.failures > 0 => ReplayState::Failed,
        (Some(_), None) => ReplayState::Done,
    };
    let (failure_message, waiting_message) = match state {
        _ if row.failures > 0 => (row.failure, String::new()),
        ReplayState::Running => (String::new(), row.failure),
        // What it waited for when it was canceled is over.
        _ => Default::default(),
    };
    Ok(Replay {
        name: replay_name(&row.account.parse()?, row.replay),
        filter: Some(ReplayFilter {
            states: row.states.into_iter().map(i32::from).collect(),
            template: row.template.unwrap_or_default(),
            conversation_id: row.conversation_id.unwrap_or_default(),
            start_time: Some(row.start_time).filter(|time| *time > Time::MIN).map(Time::to_wire),
            end_time: Some(row.end_time.to_wire()),
        }),
        events_per_second: row.events_per_second,
        rerun: row.rerun,
        actor: row.actor,
        create_time: Some(row.create_time.to_wire()),
        state: state.into(),
        finish_time: row.finish_time.map(Time::to_wire),
        cancel_actor: row.cancel_actor.unwrap_or_default(),
        failure_message,
        waiting_message,
        requested_count: row.requested,
        reopened_count: row.reopened,
        covered_to_time: Some(row.after_time).filter(|time| *time > Time::MIN).map(Time::to_wire),
    })
}

fn attempt(row: AttemptRow, in_full: bool) -> Result<Attempt, ConvertError> {
    let mut report = row.report.as_deref().map(RunReport::decode).transpose()?;
    if let Some(report) = report.as_mut().filter(|_| !in_full) {
        report.logs.clear();
        report.outbound_calls.clear();
    }
    Ok(Attempt {
        number: row.number.unsigned_abs(),
        start_time: Some(row.start_time.to_wire()),
        report,
        platform_error: row.platform_error,
        platform_error_message: row.platform_error_message,
    })
}
