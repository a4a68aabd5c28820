//! One committer.

use std::{convert::Infallible, time::Instant};

use chatfn_rpc::Deadline;
use tokio_util::sync::CancellationToken;

use super::{
    Turnstile, Waiting,
    batch::{self, Batch},
};
use crate::{
    dispatch::Heads,
    error, failpoint,
    metrics::IngestMetrics,
    store::{self, Session, events::DedupeDays},
};

/// Most publications in one transaction: more gains little and makes the first wait for the last.
const MAX_ROWS: usize = 512;
/// Most bytes in one transaction, unless one event alone has more.
const MAX_BYTES: usize = 1024 * 1024;

pub(super) struct Committer {
    pub(super) turnstile: Turnstile,
    pub(super) session: Session,
    pub(super) heads: Heads,
    pub(super) dedupe: DedupeDays,
    pub(super) metrics: IngestMetrics,
}

impl Committer {
    /// Records what comes until `stop`, then what has come, then ends.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<(), Infallible> {
        loop {
            if let Some(first) = self.turnstile.next() {
                let batch = self.collect(first);
                if !batch.is_empty() {
                    self.commit(batch).await;
                }
            } else if stop.is_cancelled() {
                return Ok(());
            } else {
                tokio::select! {
                    () = self.turnstile.filled() => {}
                    // Closed before the last look, so that nothing comes after it.
                    () = stop.cancelled() => self.turnstile.close(),
                }
            }
        }
    }

    /// A batch of `first` and all that has queued.
    fn collect(&self, first: Waiting) -> Batch {
        let mut batch = Batch::default();
        let mut next = Some(first);
        while let Some(waiting) = next.take() {
            // Its caller has an error already, which must not turn out to be wrong if it can be helped.
            if waiting.deadline.is_some_and(Deadline::is_expired) {
                let _ = waiting.answer.send(Err(error::expired_in_queue()));
            } else {
                batch.add(waiting);
            }
            if batch.rows() < MAX_ROWS && batch.bytes() < MAX_BYTES {
                next = self.turnstile.next();
            }
        }
        batch
    }

    /// Records a batch and answers everybody in it. A row that the store refuses is found by halving the
    /// batch, so that it fails alone.
    async fn commit(&mut self, batch: Batch) {
        let mut batches = vec![batch];
        while let Some(mut batch) = batches.pop() {
            failpoint::edge("commit.collected");
            let begun = Instant::now();
            let recorded = tokio::time::timeout(
                self.session.limit(),
                store::events::insert(&mut self.session, &batch.events(), self.dedupe),
            )
            .await
            .unwrap_or(Err(sqlx::Error::PoolTimedOut));
            self.metrics.committed(batch.rows(), begun.elapsed());
            match recorded {
                Ok(inserted) => {
                    self.metrics.suppressed(inserted.suppressed);
                    batch.hand_on(&inserted, begun.into(), &self.heads);
                    failpoint::edge("commit.told");
                    batch.settle(&inserted.recorded, &self.metrics);
                    failpoint::edge("commit.acknowledged");
                }
                Err(problem) if is_about_rows(&problem) && batch.len() > 1 => {
                    let second = batch.split();
                    batches.extend([second, batch]);
                }
                Err(problem) if is_about_rows(&problem) => batch.fail(&error::store(problem)),
                Err(problem) => {
                    batches.push(batch);
                    self.refuse(std::mem::take(&mut batches), &problem);
                }
            }
        }
    }

    /// Refuses what the store has failed to record, and what waits behind it in the same conversations: recorded, it would
    /// come before the events that are published again.
    fn refuse(&self, batches: Vec<Batch>, problem: &sqlx::Error) {
        let failed: Vec<Waiting> = batches.into_iter().flat_map(Batch::into_waiting).collect();
        let conversations =
            failed.iter().map(|it| (it.event.account.clone(), it.event.conversation_id.clone())).collect();
        let behind = self.turnstile.take_of(&conversations);
        tracing::warn!(
            events = failed.len(),
            behind = behind.len(),
            "events were refused because the store failed: {}",
            chatfn_pg::error::describe(problem)
        );
        for waiting in failed.into_iter().chain(behind) {
            batch::send(waiting, Err(error::store_unavailable()));
        }
    }
}

/// Whether Postgres found fault with a row, not with the world: data exceptions, constraints, limits, and
/// what a trigger raises.
fn is_about_rows(error: &sqlx::Error) -> bool {
    let class = error.as_database_error().and_then(|error| error.code());
    class.is_some_and(|code| ["22", "23", "54", "P0"].iter().any(|class| code.starts_with(class)))
}
