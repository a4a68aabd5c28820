//! Who watches, and what they have taken over.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use chatfn_proto::registry::v1::Propagation;
use tokio::{sync::watch, time::Instant};

/// The watchers of this process.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    connected: Mutex<Connected>,
    /// Notified when a watcher acknowledges or leaves.
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Connected {
    next: u64,
    /// Revision that each watcher has taken over; -1 before its first acknowledgement.
    acknowledged: HashMap<u64, i64>,
}

impl Watchers {
    /// A watcher has come. It leaves when the registration is dropped.
    pub(crate) fn register(&self) -> Registration<'_> {
        let mut connected = self.lock();
        let id = connected.next;
        connected.next += 1;
        connected.acknowledged.insert(id, -1);
        Registration { watchers: self, id }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.lock().acknowledged.len()
    }

    /// How many changes up to `revision` the one furthest behind has not taken over.
    pub(crate) fn behind(&self, revision: i64) -> i64 {
        let connected = self.lock();
        connected.acknowledged.values().map(|seen| revision - (*seen).max(0)).max().unwrap_or(0).max(0)
    }

    /// Waits until every watcher that is connected now has taken `revision` over or has left, at most until
    /// the instant `until`. Cancel safe.
    pub(crate) async fn propagation(&self, revision: i64, until: Instant) -> Propagation {
        let mut changed = self.changed.subscribe();
        let mut waiting: Vec<u64> = self.lock().acknowledged.keys().copied().collect();
        let watchers = waiting.len();
        let mut acknowledged = 0;
        loop {
            {
                let connected = self.lock();
                waiting.retain(|id| match connected.acknowledged.get(id) {
                    Some(seen) if *seen >= revision => {
                        acknowledged += 1;
                        false
                    }
                    Some(_) => true,
                    None => false,
                });
            }
            let is_over = waiting.is_empty()
                || !matches!(tokio::time::timeout_at(until, changed.changed()).await, Ok(Ok(())));
            if is_over {
                return Propagation { watchers: i32::try_from(watchers).unwrap_or(i32::MAX), acknowledged };
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Connected> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One watcher, for as long as it watches.
#[derive(Debug)]
pub(crate) struct Registration<'a> {
    watchers: &'a Watchers,
    id: u64,
}

impl Registration<'_> {
    /// The watcher has taken over everything up to `revision`.
    pub(crate) fn acknowledge(&self, revision: i64) {
        if let Some(seen) = self.watchers.lock().acknowledged.get_mut(&self.id) {
            *seen = revision.max(*seen);
        }
        self.watchers.changed.send_replace(());
    }
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        self.watchers.lock().acknowledged.remove(&self.id);
        self.watchers.changed.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn after(millis: u64) -> Instant {
        Instant::now() + Duration::from_millis(millis)
    }

    /// Longer than any test takes.
    fn patiently() -> Instant {
        after(60_000)
    }

    #[tokio::test]
    async fn counts_those_that_acknowledge_in_time() {
        let watchers = Watchers::default();
        let (fast, slow) = (watchers.register(), watchers.register());
        fast.acknowledge(7);
        slow.acknowledge(6);
        assert_eq!((watchers.count(), watchers.behind(9), watchers.behind(6)), (2, 3, 0));
        let reached = watchers.propagation(7, after(5)).await;
        assert_eq!(reached, Propagation { watchers: 2, acknowledged: 1 });
        slow.acknowledge(7);
        slow.acknowledge(3);
        let reached = watchers.propagation(7, patiently()).await;
        assert_eq!(reached, Propagation { watchers: 2, acknowledged: 2 });
    }

    #[tokio::test]
    async fn does_not_wait_for_those_that_leave_or_come_later() {
        let watchers = Watchers::default();
        assert_eq!(watchers.propagation(1, patiently()).await, Propagation::default());
        let (first, second) = (watchers.register(), watchers.register());
        let meanwhile = async {
            let third = watchers.register();
            first.acknowledge(1);
            drop(second);
            third
        };
        let (reached, _third) = tokio::join!(watchers.propagation(1, patiently()), meanwhile);
        assert_eq!(reached, Propagation { watchers: 2, acknowledged: 1 });
    }
}
