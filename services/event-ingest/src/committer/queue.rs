//! What waits to be recorded, over all committers.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use chatfn_domain::{
    name::{AccountId, ConversationId},
    shares::Shares,
};
use chatfn_rpc::{ApiError, Deadline};
use tokio::sync::{Notify, oneshot};

use super::{
    Answer,
    line::{Line, Waits},
};
use crate::{config::CommitterConfig, error, event::NewEvent};

/// An event that waits, or that is being recorded.
pub(super) struct Waiting {
    pub(super) event: NewEvent,
    /// Not recorded after this: its caller has been told that the time is up.
    pub(super) deadline: Option<Deadline>,
    /// When it was queued.
    pub(super) since: Instant,
    pub(super) answer: oneshot::Sender<Answer>,
    /// Its room in the queue.
    pub(super) room: Room,
}

impl Waits for Waiting {
    fn event(&self) -> &NewEvent {
        &self.event
    }
}

/// The queues of all committers, bounded together; each account has its share of the bounds, and its turns.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// One for each committer.
    wake: Box<[Notify]>,
}

#[derive(Debug)]
struct State {
    is_closed: bool,
    events: Shares,
    kib: Shares,
    lines: Vec<Line<Waiting>>,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").finish_non_exhaustive()
    }
}

/// Why nothing was queued, and what was to be.
pub(crate) struct Refused {
    pub(crate) error: ApiError,
    pub(crate) events: Vec<NewEvent>,
}

impl Queue {
    pub(super) fn new(config: &CommitterConfig) -> Arc<Self> {
        let lines = config.committers.max(1);
        Arc::new(Self {
            state: Mutex::new(State {
                is_closed: false,
                events: Shares::new(config.queue),
                kib: Shares::new(config.queue_kib),
                lines: (0..lines).map(|_| Line::default()).collect(),
            }),
            wake: (0..lines).map(|_| Notify::new()).collect(),
        })
    }

    /// Queues events of one account, all or none.
    pub(super) fn push(
        self: &Arc<Self>,
        account: &AccountId,
        events: Vec<NewEvent>,
        deadline: Option<Deadline>,
    ) -> Result<Vec<oneshot::Receiver<Answer>>, Refused> {
        let mut receivers = Vec::with_capacity(events.len());
        let mut woken = vec![false; self.wake.len()];
        let since = Instant::now();
        {
            let mut state = self.lock();
            let needed = events.iter().map(kib).sum();
            if state.is_closed {
                return Err(Refused { error: error::draining(), events });
            }
            if !(state.events.allow(account, events.len()) && state.kib.allow(account, needed)) {
                return Err(Refused { error: error::overloaded(), events });
            }
            state.events.take(account, events.len());
            state.kib.take(account, needed);
            for event in events {
                let (answer, receiver) = oneshot::channel();
                // All events of a lane, hence of a conversation, in one line.
                let line = usize::from(event.lane().unsigned_abs()) % self.wake.len();
                let room = Room { queue: Arc::clone(self), account: event.account.clone(), kib: kib(&event) };
                state.lines[line].push(Waiting { event, deadline, since, answer, room });
                woken[line] = true;
                receivers.push(receiver);
            }
        }
        for (wake, _) in self.wake.iter().zip(woken).filter(|(_, woken)| *woken) {
            wake.notify_one();
        }
        Ok(receivers)
    }

    /// How many events are held, and the room that they take in KiB.
    pub(super) fn in_use(&self) -> (usize, usize) {
        let state = self.lock();
        (state.events.in_use(), state.kib.in_use())
    }

    /// Nothing more comes in.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn kib(event: &NewEvent) -> usize {
    event.size().div_ceil(1024)
}

/// The line of one committer.
pub(super) struct Turnstile {
    queue: Arc<Queue>,
    line: usize,
}

impl Turnstile {
    pub(super) fn new(queue: Arc<Queue>, line: usize) -> Self {
        Self { queue, line }
    }

    /// The next event, if one waits.
    pub(super) fn next(&self) -> Option<Waiting> {
        self.queue.lock().lines[self.line].pop()
    }

    /// Takes back whatever waits of these conversations.
    pub(super) fn take_of(&self, conversations: &HashSet<(AccountId, ConversationId)>) -> Vec<Waiting> {
        let is_one = |event: &NewEvent| {
            conversations.contains(&(event.account.clone(), event.conversation_id.clone()))
        };
        self.queue.lock().lines[self.line].take(is_one)
    }

    /// Completes when there may be something. Cancel safe.
    pub(super) async fn filled(&self) {
        self.queue.wake[self.line].notified().await;
    }

    /// Nothing more comes in.
    pub(super) fn close(&self) {
        self.queue.close();
    }
}

impl Drop for Turnstile {
    /// Without a committer nobody would be answered any more. What it has taken is dropped unanswered; what waits was not begun
    /// with, and is told so.
    fn drop(&mut self) {
        self.close();
        let left = self.queue.lock().lines[self.line].take(|_| true);
        // Outside of the lock, which each of them takes.
        for Waiting { answer, room, .. } in left {
            drop(room);
            let _ = answer.send(Err(error::draining()));
        }
    }
}

/// The room that an event takes, until dropped.
pub(super) struct Room {
    queue: Arc<Queue>,
    account: AccountId,
    kib: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.events.give_back(&self.account, 1);
        state.kib.give_back(&self.account, self.kib);
    }
}
