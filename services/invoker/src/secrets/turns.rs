//! Whose report is searched next.

use std::{sync::Arc, thread::available_parallelism};

use chatfn_domain::name::AccountId;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use crate::lines::Lines;

/// Turns at the processors, one for each of them, so that the memory that they need is bounded together. An account
/// takes one at a time, and stands in line with one at most: it waits for itself, and for one turn of each other account.
///
/// Nobody gives up waiting because its run has ended: a report that was not searched must not be seen, one of which
/// nothing is left is of no use, and the line is short, since what a turn takes is bounded (`needles.rs`). A caller that
/// does not wait any longer drops the future.
pub(super) struct Turns {
    processors: Arc<Semaphore>,
    accounts: Lines,
}

/// A turn, as long as it is held.
pub(super) struct Taken {
    // In this order: who comes next in the account stands in line behind those that are waiting.
    _processor: OwnedSemaphorePermit,
    _account: OwnedMutexGuard<()>,
}

impl Turns {
    pub(super) fn new() -> Self {
        Self::at(available_parallelism().map_or(1, usize::from))
    }

    fn at(processors: usize) -> Self {
        Self { processors: Arc::new(Semaphore::new(processors)), accounts: Lines::default() }
    }

    /// Waits for a turn. Cancel safe.
    pub(super) async fn take(&self, account: &AccountId) -> Taken {
        let account = self.accounts.turn(account).await;
        let processor = Arc::clone(&self.processors).acquire_owned().await.expect("it is never closed");
        Taken { _processor: processor, _account: account }
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
    async fn an_account_waits_for_itself() {
        let turns = Turns::at(2);
        let (flood, other, third) = (account("flood"), account("other"), account("third"));
        let first = turns.take(&flood).await;
        let mut flooding: Vec<_> = (0..64).map(|_| Box::pin(turns.take(&flood))).collect();
        assert!(flooding.iter_mut().all(|it| it.now_or_never().is_none()), "one at a time");
        let second = turns.take(&other).now_or_never().expect("the other processor is free");
        let mut waits = Box::pin(turns.take(&third));
        assert!(waits.as_mut().now_or_never().is_none(), "both are taken");
        drop(first);
        assert!(flooding.iter_mut().all(|it| it.now_or_never().is_none()), "others are before it");
        let third = waits.now_or_never().expect("its turn");
        drop(second);
        assert!(flooding.remove(0).now_or_never().is_some());
        drop(third);
    }
}
