//! Stored deliveries as the contract shows them.

use std::collections::HashMap;

use chatfn_domain::name::{DeliveryName, NameError};
use chatfn_proto::{
    ingest::v1::{Attempt, Delivery},
    invoker::v1::RunReport,
};
use prost::Message as _;

use crate::store::{
    Time,
    deliveries::{AttemptRow, DeliveryRow},
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
    in_full: bool,
) -> Result<Vec<Delivery>, ConvertError> {
    let mut by_event: HashMap<(i16, i64), Vec<AttemptRow>> = HashMap::new();
    for attempt in attempts {
        by_event.entry((attempt.lane, attempt.sequence)).or_default().push(attempt);
    }
    rows.into_iter()
        .map(|row| {
            let attempts = by_event.remove(&(row.lane, row.sequence)).unwrap_or_default();
            delivery(row, attempts, in_full)
        })
        .collect()
}

fn delivery(row: DeliveryRow, attempts: Vec<AttemptRow>, in_full: bool) -> Result<Delivery, ConvertError> {
    let is_running = attempts.last().is_some_and(|attempt| attempt.finish_time.is_none());
    let name = DeliveryName { account: row.account.parse()?, event_id: row.event_id.parse()? };
    Ok(Delivery {
        name: name.to_string(),
        event_id: row.event_id,
        template: row.template,
        conversation_id: row.conversation_id,
        state: row.state.into(),
        reason: row.reason,
        reason_message: row.reason_message,
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
