//! Leave to ask the registry.

use std::sync::Arc;

use chatfn_domain::name::AccountId;
use tokio::sync::Notify;

use crate::places::{Place, Places};

/// Questions to the registry that are under way, divided among accounts.
pub(super) struct Questions {
    places: Arc<Places>,
    /// Tells those that wait that they may try again.
    ended: Arc<Notify>,
}

/// A question, as long as it is held.
pub(super) struct Question {
    // In this order: who is told finds the place free.
    _place: Place,
    _ended: Told,
}

/// Tells when it is dropped.
struct Told(Arc<Notify>);

impl Questions {
    /// One account has at most three quarters of `max`.
    pub(super) fn new(max: usize) -> Self {
        Self { places: Places::new("questions for secrets", max), ended: Arc::default() }
    }

    /// Waits until the account may ask: while all together ask as much as there may be, or while it has more than its
    /// share. It is for the caller to limit that. Cancel safe.
    pub(super) async fn begin(&self, account: &AccountId) -> Question {
        loop {
            // Before the attempt, so that no end is missed in between.
            let ended = self.ended.notified();
            if let Ok(place) = self.places.take(account) {
                return Question { _place: place, _ended: Told(Arc::clone(&self.ended)) };
            }
            ended.await;
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        // All of them: the first may be of an account that has too many.
        self.0.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn account(name: &str) -> AccountId {
        name.parse().unwrap()
    }

    #[tokio::test]
    async fn who_finds_no_place_waits_for_one() {
        let questions = Questions::new(8);
        let begin = async |name: &str| questions.begin(&account(name)).await;
        let mut flood: Vec<_> = (0..100).filter_map(|_| begin("flood").now_or_never()).collect();
        assert_eq!(flood.len(), 6, "what is free is kept for others");
        let mut greedy = Box::pin(begin("flood"));
        assert!(greedy.as_mut().now_or_never().is_none());
        let others = [begin("a").now_or_never().unwrap(), begin("b").now_or_never().unwrap()];
        let mut first = Box::pin(begin("c"));
        assert!(first.as_mut().now_or_never().is_none(), "all are taken");
        flood.pop();
        assert!(greedy.as_mut().now_or_never().is_none(), "it still has more than its share");
        let first = first.now_or_never().expect("room for who has none");
        flood.clear();
        let greedy = greedy.now_or_never().expect("no account is refused for good");
        drop((others, first, greedy));
        assert_eq!(questions.places.in_use(), 0);
    }
}
