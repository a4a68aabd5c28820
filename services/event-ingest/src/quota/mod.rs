//! How much each account may publish.
//!
//! Each replica counts for itself, in memory: an account that publishes to three replicas may publish three times as
//! much. What is refused costs one look into a table, so that a flood is refused before it costs anything.

mod bucket;
mod rates;

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use chatfn_domain::name::AccountId;
use tokio::time::Instant;

use self::bucket::Bucket;
pub(crate) use self::rates::Rates;
pub use self::rates::{QuotaConfig, QuotaError};

/// Accounts in the table from which on those that are not in use are looked for.
const FIRST_SWEEP: usize = 1024;

/// A quota that is used up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Exceeded {
    /// Of what: `events` or `bytes`.
    pub(crate) what: &'static str,
    /// How many of them the account may publish per second.
    pub(crate) rate: f64,
    /// Until something is left.
    pub(crate) pause: Duration,
}

/// The quotas of all accounts, and what is left of them.
#[derive(Debug)]
pub(crate) struct Quotas {
    rates: Rates,
    left: Mutex<Left>,
}

#[derive(Debug)]
struct Left {
    accounts: HashMap<AccountId, (Bucket, Bucket)>,
    sweep_at: usize,
}

impl Quotas {
    pub(crate) fn new(rates: Rates) -> Self {
        Self { rates, left: Mutex::new(Left { accounts: HashMap::new(), sweep_at: FIRST_SWEEP }) }
    }

    /// Counts `events` with `bytes` in all for `account`, or refuses all of them and counts nothing.
    ///
    /// As long as an account has anything left, it may overdraw, and pays back before it may publish again: so a call
    /// of any size is accepted at some time, and on average the rate holds exactly.
    ///
    /// # Errors
    /// What is used up, and when the account has something left again.
    pub(crate) fn charge(&self, account: &AccountId, events: usize, bytes: usize) -> Result<(), Exceeded> {
        let now = Instant::now();
        let rate = self.rates.of(account);
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if left.accounts.len() >= left.sweep_at {
            // A full bucket is as good as none.
            left.accounts.retain(|account, (events, bytes)| {
                let rate = self.rates.of(account);
                !(events.is_full(rate.events, now) && bytes.is_full(rate.bytes, now))
            });
            left.sweep_at = FIRST_SWEEP.max(left.accounts.len() * 2);
        }
        let full = || (Bucket::full(rate.events, now), Bucket::full(rate.bytes, now));
        let (event_bucket, byte_bucket) = left.accounts.entry(account.clone()).or_insert_with(full);
        for (what, bucket, rate) in
            [("events", &mut *event_bucket, rate.events), ("bytes", &mut *byte_bucket, rate.bytes)]
        {
            if let Some(pause) = bucket.wait(rate, now) {
                return Err(Exceeded { what, rate, pause });
            }
        }
        event_bucket.take(events);
        byte_bucket.take(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quotas(events_per_second: u32, kib_per_second: u32) -> Quotas {
        let config = QuotaConfig { events_per_second, kib_per_second, file: None };
        Quotas::new(config.load().unwrap())
    }

    fn account(name: &str) -> AccountId {
        name.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn on_average_the_rate_holds() {
        let quotas = quotas(100, 1 << 20);
        let (begun, mut accepted) = (Instant::now(), 0);
        while begun.elapsed() < Duration::from_secs(60) {
            match quotas.charge(&account("acme"), 7, 1) {
                Ok(()) => accepted += 7,
                Err(exceeded) => {
                    assert_eq!((exceeded.what, exceeded.rate), ("events", 100.0));
                    // A caller that does as it is told is accepted the next time.
                    tokio::time::advance(exceeded.pause).await;
                    assert!(quotas.charge(&account("acme"), 7, 1).is_ok());
                    accepted += 7;
                }
            }
        }
        // The first second's worth is there from the start.
        assert!((6_100 - 14..=6_100 + 14).contains(&accepted), "{accepted} in a minute");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_larger_than_the_quota_is_paid_back() {
        let quotas = quotas(10, 1 << 20);
        assert!(quotas.charge(&account("acme"), 500, 1).is_ok());
        let pause = quotas.charge(&account("acme"), 1, 1).unwrap_err().pause;
        assert!((Duration::from_secs(49)..Duration::from_secs(50)).contains(&pause), "{pause:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_count_too_and_accounts_for_themselves() {
        let quotas = quotas(1_000_000, 1);
        assert!(quotas.charge(&account("acme"), 1, 5 * 1024).is_ok());
        assert_eq!(quotas.charge(&account("acme"), 1, 1).unwrap_err().what, "bytes");
        assert!(quotas.charge(&account("other"), 1, 1).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn accounts_that_are_not_in_use_are_forgotten() {
        let quotas = quotas(10, 10);
        for n in 0..10 * FIRST_SWEEP {
            assert!(quotas.charge(&account(&format!("a{n}")), 1, 1).is_ok());
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        let left = quotas.left.lock().unwrap().accounts.len();
        assert!(left <= FIRST_SWEEP, "{left} accounts");
    }
}
