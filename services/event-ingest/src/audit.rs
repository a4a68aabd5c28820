//! Keeps the books of the lanes that this replica runs, in the background: whether every event that a lane's cursor has
//! passed has its outcome, or is parked. An event for which neither holds would never run; `Reconcile` would find it, if
//! somebody asked.
//!
//! Each event is looked at about once, when the cursor has passed it, in bounded statements: at most four a minute while
//! nothing happens, and about one probe of a primary key for each event otherwise.

use std::{collections::HashMap, convert::Infallible, time::Duration};

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::{
    metrics::IngestMetrics,
    store::ledger::{self, Looked},
};

/// Time between looks, if the last one saw all that there was.
const PERIOD: Duration = Duration::from_secs(15);
/// The same if there is more to see.
const PAUSE: Duration = Duration::from_millis(500);
/// Events of a lane that one look covers.
const ROWS: i64 = 1_000;
/// Sequence numbers before the cursor from which on a lane is looked at that was just taken over.
const BACK: i64 = 10_000;

/// Looks until `stop`. Cancel safe: it only reads.
pub(crate) async fn run(
    metrics: IngestMetrics,
    pool: PgPool,
    stop: CancellationToken,
) -> Result<(), Infallible> {
    let mut auditor = Auditor { metrics, pool, lanes: HashMap::new() };
    let mut is_failing = false;
    loop {
        let looked = tokio::select! {
            looked = auditor.look() => looked,
            () = stop.cancelled() => return Ok(()),
        };
        let pause = match looked {
            Ok(is_complete) => {
                is_failing = false;
                if is_complete { PERIOD } else { PAUSE }
            }
            Err(error) => {
                if !std::mem::replace(&mut is_failing, true) {
                    tracing::warn!(
                        "cannot check whether every event is accounted for, and tries again: {}",
                        chatfn_pg::error::describe(&error)
                    );
                }
                PERIOD
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
}

struct Auditor {
    metrics: IngestMetrics,
    pool: PgPool,
    lanes: HashMap<i16, Progress>,
}

/// How far a lane has been looked at.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    /// The next look begins after this one.
    after: i64,
    /// Up to here events were counted as looked at.
    counted_to: i64,
    unreachable: i64,
}

impl Auditor {
    /// Looks once; gives whether it saw all that there was.
    async fn look(&mut self) -> Result<bool, sqlx::Error> {
        let owned = self.metrics.lanes().owned();
        self.lanes.retain(|lane, _| owned.contains(lane));
        let fresh: Vec<i16> = owned.iter().copied().filter(|lane| !self.lanes.contains_key(lane)).collect();
        if !fresh.is_empty() {
            for (lane, cursor) in ledger::cursors(&self.pool, &fresh).await? {
                let from = cursor.saturating_sub(BACK);
                self.lanes.insert(lane, Progress { after: from, counted_to: from, unreachable: 0 });
            }
        }
        let from: Vec<(i16, i64)> = self.lanes.iter().map(|(lane, it)| (*lane, it.after)).collect();
        let (mut is_complete, mut checked) = (true, 0);
        for looked in ledger::look(&self.pool, &from, ROWS).await? {
            is_complete &= looked.events < ROWS || looked.first_unreachable.is_some();
            checked += self.lanes.entry(looked.lane).or_default().take(looked);
        }
        let unreachable = self.lanes.values().map(|it| it.unreachable).sum();
        let parked = ledger::parked(&self.pool, &owned).await?;
        self.metrics.audited(checked, unreachable, parked);
        if unreachable > 0 {
            tracing::error!(
                events = unreachable,
                "{unreachable} events would never run: they have no outcome, and lie before their lane's cursor without being \
                 parked. Please report it; Reconcile tells whose they are"
            );
        }
        Ok(is_complete)
    }
}

impl Progress {
    /// Goes on; gives how many events were looked at for the first time.
    fn take(&mut self, looked: Looked) -> u64 {
        let Looked { last, events, first_unreachable, unreachable, .. } = looked;
        self.unreachable = unreachable;
        let is_again = last.is_none_or(|last| last <= self.counted_to);
        self.counted_to = self.counted_to.max(last.unwrap_or(0));
        // What nothing would run is looked at again, until it has its outcome.
        self.after = first_unreachable.map_or(last.unwrap_or(self.after), |first| first - 1);
        if is_again { 0 } else { u64::try_from(events).unwrap_or_default() }
    }
}

#[cfg(test)]
mod tests {
    use chatfn_pg::testing::TestDatabase;
    use chatfn_telemetry::Metrics;
    use sqlx::AssertSqlSafe;

    use super::*;

    const LANE: i16 = 7;

    async fn execute(pool: &PgPool, statement: String) {
        sqlx::query(AssertSqlSafe(statement)).execute(pool).await.unwrap();
    }

    #[tokio::test]
    async fn what_nothing_would_run_is_told_until_it_has_its_outcome() {
        let database = TestDatabase::create().await;
        let pool = database.pool().clone();
        execute(&pool, "SELECT ingest.prepare_day((now() AT TIME ZONE 'UTC')::date)".to_owned()).await;
        let (first,): (i64,) = sqlx::query_as(AssertSqlSafe(
            "SELECT ingest.first_sequence((now() AT TIME ZONE 'UTC')::date)".to_owned(),
        ))
        .fetch_one(&pool)
        .await
        .unwrap();
        let event = |number: i64, conversation: &str| {
            format!(
                "INSERT INTO ingest.events (lane, sequence, account, event_id, template, conversation_id, payload, content_hash)
                 VALUES ({LANE}, {}, 'acme', 'e{number}', 'chat.message', '{conversation}', '{{}}', '')",
                first + number
            )
        };
        let outcome = |number: i64| {
            format!(
                "INSERT INTO ingest.outcomes (lane, sequence, state, epoch, account, accept_time)
                 VALUES ({LANE}, {}, 3, 0, 'acme', now())",
                first + number
            )
        };
        for (number, conversation) in [(0, "done"), (1, "waits"), (2, "waits"), (3, "lost"), (4, "later")] {
            execute(&pool, event(number, conversation)).await;
        }
        execute(&pool, outcome(0)).await;
        execute(
            &pool,
            format!(
                "INSERT INTO ingest.parked (lane, sequence, account, conversation_id, next_attempt_time)
                 VALUES ({LANE}, {}, 'acme', 'waits', now())",
                first + 1
            ),
        )
        .await;
        // The last one lies after it.
        execute(&pool, format!("UPDATE ingest.lanes SET cursor = {} WHERE lane = {LANE}", first + 3)).await;

        let metrics = Metrics::new();
        let ingest = IngestMetrics::new(&metrics);
        let _lane = ingest.lanes().begin(LANE);
        let mut auditor = Auditor { metrics: ingest, pool: pool.clone(), lanes: HashMap::new() };
        let told = |name: &str, value: u64| {
            let text = metrics.encode();
            assert!(
                text.lines().any(|line| line == format!("{name} {value}")),
                "{name} is not {value} in\n{text}"
            );
        };
        for _ in 0..2 {
            assert!(auditor.look().await.unwrap());
            told("chatfn_ingest_ledger_unreachable_events", 1);
            told("chatfn_ingest_ledger_checked_events_total", 4);
            told("chatfn_ingest_ledger_parked_events{for=\"retry\"}", 1);
        }
        execute(&pool, outcome(3)).await;
        auditor.look().await.unwrap();
        told("chatfn_ingest_ledger_unreachable_events", 0);
        told("chatfn_ingest_ledger_checked_events_total", 4);

        execute(&pool, outcome(4)).await;
        execute(&pool, format!("UPDATE ingest.lanes SET cursor = {} WHERE lane = {LANE}", first + 4)).await;
        auditor.look().await.unwrap();
        told("chatfn_ingest_ledger_unreachable_events", 0);
        told("chatfn_ingest_ledger_checked_events_total", 5);
    }
}
