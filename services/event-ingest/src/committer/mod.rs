//! Records events durably before they are acknowledged.
//!
//! Publishing calls hand their events to a few committers and wait. A committer takes whatever has queued
//! while its last transaction ran and records it in one transaction: nobody waits for a timer, and a
//! burst shares its flush to disk. The work runs in the committer's own task, so a caller that goes away
//! while it waits changes nothing: its events are recorded or not, and publishing again tells.
//!
//! All events of a lane, hence of a conversation, go through the same committer, which keeps their order.
//! Accounts take turns in a committer, and none can fill the queue: a flood delays and refuses itself.

mod batch;
mod line;
mod queue;
mod task;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chatfn_domain::name::{AccountId, DeliveryName};
use chatfn_rpc::{ApiError, Deadline, TaskGroup};
use tokio::sync::oneshot;

pub(crate) use self::queue::Refused;
use self::queue::{Queue, Turnstile, Waiting};
use crate::{
    config::CommitterConfig,
    dispatch::Heads,
    error,
    event::NewEvent,
    metrics::{IngestMetrics, Recorded},
    store::{
        Sessions,
        events::{DedupeDays, Earlier},
    },
};

/// Says that an event is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ack {
    pub(crate) delivery: DeliveryName,
    /// Whether an earlier call recorded it.
    pub(crate) duplicate: bool,
    pub(crate) sequence: i64,
}

pub(crate) type Answer = Result<Ack, ApiError>;

/// An answer that will come. Dropping it changes nothing about the event.
#[derive(Debug)]
pub(crate) struct Pending(oneshot::Receiver<Answer>);

impl Pending {
    /// An answer that is there.
    pub(crate) fn ready(answer: Answer) -> Self {
        let (sender, receiver) = oneshot::channel();
        let _ = sender.send(answer);
        Self(receiver)
    }

    /// Waits for the answer.
    pub(crate) async fn answer(self) -> Answer {
        // A committer answers all that it takes, unless it is dropped meanwhile.
        self.0.await.unwrap_or_else(|_| Err(error::ended_while_recording()))
    }
}

/// The answer to who publishes an event, when `of` is recorded under its id: by this call or, if it is a `duplicate`, by an earlier one.
/// Counts it, with the time that it took.
pub(crate) fn answer(
    event: &NewEvent,
    of: Earlier,
    duplicate: bool,
    took: Duration,
    metrics: &IngestMetrics,
) -> Answer {
    let delivery = DeliveryName { account: event.account.clone(), event_id: event.event_id.clone() };
    if event.hash == of.hash {
        metrics.recorded(if duplicate { Recorded::Duplicate } else { Recorded::Accepted }, took);
        Ok(Ack { delivery, duplicate, sequence: of.sequence })
    } else {
        metrics.recorded(Recorded::Reused, took);
        Err(error::event_id_reused(&delivery))
    }
}

/// The committers. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Committers {
    queue: Arc<Queue>,
}

impl Committers {
    /// Starts the committers in `tasks`; they end, with empty queues, when the group stops.
    pub(crate) fn spawn(
        config: &CommitterConfig,
        dedupe: DedupeDays,
        sessions: &Sessions,
        heads: &Heads,
        metrics: &IngestMetrics,
        tasks: &TaskGroup,
    ) -> Self {
        let queue = Queue::new(config);
        for line in 0..config.committers.max(1) {
            let turnstile = Turnstile::new(Arc::clone(&queue), line);
            let committer = task::Committer {
                turnstile,
                session: sessions.open(),
                heads: heads.clone(),
                dedupe,
                metrics: metrics.clone(),
            };
            tasks.spawn("committer", |stop| committer.run(stop));
        }
        Self { queue }
    }

    /// How many events wait or are being recorded, and the room that they take in KiB.
    pub(crate) fn in_use(&self) -> (usize, usize) {
        self.queue.in_use()
    }

    /// Hands events over to be recorded: one account's together or not at all, so that an overload leaves no hole in
    /// a conversation. Gives what to wait for, in the order of `events`.
    ///
    /// What was handed over is recorded unless `deadline` passes first, whether or not somebody waits for it.
    pub(crate) fn submit(
        &self,
        events: Vec<NewEvent>,
        deadline: Option<Deadline>,
    ) -> Vec<Result<Pending, ApiError>> {
        let mut answers: Vec<Option<Result<Pending, ApiError>>> = events.iter().map(|_| None).collect();
        let mut by_account: BTreeMap<AccountId, (Vec<usize>, Vec<NewEvent>)> = BTreeMap::new();
        for (index, event) in events.into_iter().enumerate() {
            let (indexes, events) = by_account.entry(event.account.clone()).or_default();
            indexes.push(index);
            events.push(event);
        }
        for (account, (indexes, events)) in by_account {
            match self.queue.push(&account, events, deadline) {
                Ok(receivers) => {
                    for (index, receiver) in indexes.into_iter().zip(receivers) {
                        answers[index] = Some(Ok(Pending(receiver)));
                    }
                }
                Err(refused) => {
                    for index in indexes {
                        answers[index] = Some(Err(refused.error.clone()));
                    }
                }
            }
        }
        answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(error::draining()))).collect()
    }

    /// Hands one event over, or gives it back.
    pub(crate) fn submit_one(&self, event: NewEvent, deadline: Option<Deadline>) -> Result<Pending, Refused> {
        let account = event.account.clone();
        let mut receivers = self.queue.push(&account, vec![event], deadline)?;
        Ok(Pending(receivers.swap_remove(0)))
    }
}
