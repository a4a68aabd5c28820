//! Has an account wait for itself before it waits for others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use chatfn_domain::name::AccountId;
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

/// A line for each account, in which one at a time has its turn. Who takes a turn before standing in a line of all accounts
/// stands there with no other of its account: each waits for itself, and for one of each other account.
#[derive(Debug, Default)]
pub(crate) struct Lines(Mutex<HashMap<AccountId, Weak<Turn<()>>>>);

impl Lines {
    /// Waits for the account's turn, which lasts until what this gives is dropped. Cancel safe.
    pub(crate) async fn turn(&self, account: &AccountId) -> OwnedMutexGuard<()> {
        self.line(account).lock_owned().await
    }

    fn line(&self, account: &AccountId) -> Arc<Turn<()>> {
        // Nothing panics while it is locked.
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = lines.get(account).and_then(Weak::upgrade) {
            return line;
        }
        // So there are no more than accounts that have any now.
        lines.retain(|_, line| line.strong_count() > 0);
        let line = Arc::default();
        lines.insert(account.clone(), Arc::downgrade(&line));
        line
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn an_account_waits_for_itself_alone() {
        let lines = Lines::default();
        let [one, other]: [AccountId; 2] = ["one", "other"].map(|name| name.parse().unwrap());
        let first = lines.turn(&one).now_or_never().expect("nobody else is there");
        let mut second = Box::pin(lines.turn(&one));
        assert!(second.as_mut().now_or_never().is_none());
        drop(lines.turn(&other).now_or_never().expect("another account"));
        drop(first);
        drop(second.now_or_never().expect("its turn"));
        drop(lines.turn(&other).await);
        assert_eq!(lines.0.lock().unwrap().len(), 1, "those that have none are forgotten");
    }
}
