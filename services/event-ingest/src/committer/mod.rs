//! Records events durably before they are acknowledged.
//!
//! Publishing calls hand their events to a few committers and wait. A committer takes whatever has queued
//! while its last transaction ran and records it in one transaction: nobody waits for a timer, and a
//! burst shares its flush to disk. The work runs in the committer's own task, so a caller that goes away
//! while it waits changes nothing: its events are recorded or not, and publishing again tells.
//!
//! All events of a lane, hence of a conversation, go through the same committer, which keeps their order.

mod batch;
mod task;

use std::sync::Arc;

use chatfn_domain::name::DeliveryName;
use chatfn_rpc::{ApiError, Deadline, TaskGroup};
use sqlx::PgPool;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::{config::CommitterConfig, dispatch::Heads, error, event::NewEvent};

/// Says that an event is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ack {
    pub(crate) delivery: DeliveryName,
    /// Whether an earlier call recorded it.
    pub(crate) duplicate: bool,
    pub(crate) sequence: i64,
}

pub(crate) type Answer = Result<Ack, ApiError>;

/// An event in a committer's queue.
struct Waiting {
    event: NewEvent,
    /// Not recorded after this: its caller has been told that the time is up.
    deadline: Option<Deadline>,
    answer: oneshot::Sender<Answer>,
    /// Its share of the memory that all queues may take.
    _memory: OwnedSemaphorePermit,
}

/// The committers. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Committers {
    queues: Arc<[mpsc::Sender<Waiting>]>,
    memory: Arc<Semaphore>,
}

impl Committers {
    /// Starts the committers in `tasks`; they end, with empty queues, when the group stops.
    pub(crate) fn spawn(config: &CommitterConfig, pool: &PgPool, heads: &Heads, tasks: &TaskGroup) -> Self {
        let queues = (0..config.committers.max(1)).map(|_| {
            let (sender, queue) = mpsc::channel(config.queue);
            let committer = task::Committer { queue, pool: pool.clone(), heads: heads.clone() };
            tasks.spawn("committer", |stop| committer.run(stop));
            sender
        });
        let memory = config.queue_kib.min(Semaphore::MAX_PERMITS);
        Self { queues: queues.collect(), memory: Arc::new(Semaphore::new(memory)) }
    }

    /// Records events; gives an answer for each, in order. Events of one lane are taken into the queue
    /// together or not at all, so that an overload leaves no hole in a conversation.
    ///
    /// Cancel safe: what was taken into a queue is recorded unless its deadline passes first.
    pub(crate) async fn record(&self, events: Vec<NewEvent>, deadline: Option<Deadline>) -> Vec<Answer> {
        let mut shares: Vec<Vec<(usize, NewEvent)>> = self.queues.iter().map(|_| Vec::new()).collect();
        let mut answers: Vec<Option<oneshot::Receiver<Answer>>> = events.iter().map(|_| None).collect();
        for (index, event) in events.into_iter().enumerate() {
            shares[usize::from(event.lane().unsigned_abs()) % self.queues.len()].push((index, event));
        }
        let mut refusal = error::overloaded();
        for (queue, share) in self.queues.iter().zip(shares) {
            match self.enqueue(queue, share, deadline) {
                Ok(receivers) => {
                    for (index, receiver) in receivers {
                        answers[index] = Some(receiver);
                    }
                }
                Err(error) => refusal = error,
            }
        }
        let mut results = Vec::with_capacity(answers.len());
        for answer in answers {
            results.push(match answer {
                // A committer answers all that it takes, unless the process is ending.
                Some(answer) => answer.await.unwrap_or_else(|_| Err(error::draining())),
                None => Err(refusal.clone()),
            });
        }
        results
    }

    fn enqueue(
        &self,
        queue: &mpsc::Sender<Waiting>,
        share: Vec<(usize, NewEvent)>,
        deadline: Option<Deadline>,
    ) -> Result<Vec<(usize, oneshot::Receiver<Answer>)>, ApiError> {
        if share.is_empty() {
            return Ok(Vec::new());
        }
        let needed: usize = share.iter().map(|(_, event)| kib(event)).sum();
        let needed = u32::try_from(needed).map_err(|_| error::overloaded())?;
        let mut memory =
            self.memory.clone().try_acquire_many_owned(needed).map_err(|_| error::overloaded())?;
        let slots = queue.try_reserve_many(share.len()).map_err(|problem| match problem {
            mpsc::error::TrySendError::Full(()) => error::overloaded(),
            mpsc::error::TrySendError::Closed(()) => error::draining(),
        })?;
        let mut receivers = Vec::with_capacity(share.len());
        for (slot, (index, event)) in slots.zip(share) {
            let (answer, receiver) = oneshot::channel();
            // The sum of all shares was acquired above.
            let Some(memory) = memory.split(kib(&event)) else { break };
            slot.send(Waiting { event, deadline, answer, _memory: memory });
            receivers.push((index, receiver));
        }
        Ok(receivers)
    }
}

fn kib(event: &NewEvent) -> usize {
    event.size().div_ceil(1024)
}
