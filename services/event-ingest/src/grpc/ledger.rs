//! How the counts add up.

use chatfn_domain::name::AccountName;
use chatfn_proto::{
    convert::parse,
    ingest::v1::{LedgerCount, ReconcileRequest, ReconcileResponse},
    validate::Violations,
};
use prost_types::Timestamp;
use sqlx::PgPool;
use tonic::Status;

use super::page;
use crate::{
    error,
    store::{Time, deliveries::Key, ledger},
};

/// Events that one page counts, at most.
const PAGE: i64 = 50_000;

/// Counts one page of an account's events.
pub(super) async fn reconcile(pool: &PgPool, request: ReconcileRequest) -> Result<ReconcileResponse, Status> {
    let parent: AccountName = parse("parent", &request.parent)?;
    let start = time("start_time", request.start_time.as_ref())?.unwrap_or(Time::MIN);
    let end = time("end_time", request.end_time.as_ref())?.unwrap_or(Time::MAX);
    let list = ["ledger", &request.parent, &start.micros().to_string(), &end.micros().to_string()];
    let after = page::position(&list, &request.page_token)?.unwrap_or(Key::at(start));
    let (counts, next) = ledger::page(pool, &parent.account, after, end, PAGE).await.map_err(error::store)?;
    Ok(ReconcileResponse {
        accepted_count: counts.iter().map(|count| count.count).sum(),
        unaccounted_count: counts.iter().map(|count| count.unaccounted).sum(),
        counts: counts
            .into_iter()
            .map(|count| LedgerCount {
                template: count.template,
                state: count.state.into(),
                count: count.count,
            })
            .collect(),
        covered_to_time: next.map(|key| key.accept_time.to_wire()),
        next_page_token: next.map(|key| page::token(&list, key)).unwrap_or_default(),
    })
}

/// The time of a field, if it is set.
pub(super) fn time(field: &str, time: Option<&Timestamp>) -> Result<Option<Time>, Violations> {
    time.map(|time| {
        Time::from_wire(time).ok_or_else(|| Violations::one(field, "must be a time of the years 1 to 9999"))
    })
    .transpose()
}
