//! Brings changes of the deployments to the watchers of this process.
//!
//! One task ([`follow`]) reads what changed in Postgres since it last looked, and hands it to every watcher
//! through one bounded ring. It looks after a commit of this process ([`Hub::ring`]), when another process
//! says so ([`listen`]), and four times a second whatever anybody says: the last is the truth, the others
//! are hints. [`Watchers`] keeps who watches and what they have taken over.

mod follow;
mod listen;
mod watchers;

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use tokio::sync::{Notify, broadcast};

pub(crate) use self::{follow::follow, listen::listen, watchers::Watchers};
use crate::store::deployments::Deployment;

/// Where changes come from, for the watchers of this process.
#[derive(Debug)]
pub(crate) struct Hub {
    events: broadcast::Sender<Event>,
    bell: Notify,
    /// Number of the last revision that was published.
    seen: AtomicI64,
    pub(crate) watchers: Watchers,
}

/// What the watchers of this process hear of.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// What is live of a function changed.
    Changed(Arc<Deployment>),
    /// The revision went back: the database was replaced by an older one. Nobody can go on from where they are.
    WentBack,
    /// The database has not been seen for a while, and may have changes.
    Blind,
}

impl Hub {
    /// `capacity` is the number of changes that a watcher may be behind.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            events: broadcast::Sender::new(capacity),
            bell: Notify::new(),
            seen: AtomicI64::new(0),
            watchers: Watchers::default(),
        }
    }

    /// Says that something may have changed.
    pub(crate) fn ring(&self) {
        self.bell.notify_one();
    }

    /// Number of the last revision that this process has seen.
    pub(crate) fn seen(&self) -> i64 {
        self.seen.load(Ordering::Relaxed)
    }

    fn has_seen(&self, revision: i64) {
        self.seen.store(revision, Ordering::Relaxed);
    }

    /// Every change from now on. A receiver that falls behind by more than the hub's capacity is told so.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    fn publish(&self, event: Event) {
        // An error means that nobody watches.
        let _ = self.events.send(event);
    }
}
