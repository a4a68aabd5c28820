//! Events that wait for leave to run.

use std::collections::HashMap;

use chatfn_domain::name::AccountId;
use tokio::time::Instant;

use super::{super::queue::Queued, event::LaneEvent};

/// Events from which on there are no more, and bytes of them.
const EVENTS: usize = 512;
const BYTES: usize = 4 * 1024 * 1024;

/// The events: of each account the one that is next. The gate has turns for accounts, so each of them waits by itself.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Each with when its time is up.
    events: HashMap<AccountId, (LaneEvent, Option<Instant>)>,
    bytes: usize,
}

impl Pending {
    /// Whether there is one of an account.
    pub(super) fn has(&self, account: &AccountId) -> bool {
        self.events.contains_key(account)
    }

    /// Whether an event of an account may be added.
    pub(super) fn has_room(&self, account: &AccountId) -> bool {
        !self.has(account) && self.events.len() < EVENTS && self.bytes < BYTES
    }

    /// Adds an event, whose time is up at `limit`. There must be room for it.
    pub(super) fn add(&mut self, event: LaneEvent, limit: Option<Instant>) {
        self.bytes += event.bytes();
        self.events.insert(event.event.account.clone(), (event, limit));
    }

    /// Takes that of an account.
    pub(super) fn take(&mut self, account: &AccountId) -> Option<LaneEvent> {
        let (event, _) = self.events.remove(account)?;
        self.bytes -= event.bytes();
        Some(event)
    }

    /// Takes one whose time is up.
    pub(super) fn take_late(&mut self, now: Instant) -> Option<LaneEvent> {
        let mut late = self.events.iter().filter(|(_, (_, limit))| limit.is_some_and(|at| at <= now));
        let account = late.next()?.0.clone();
        self.take(&account)
    }

    /// When the next event's time is up.
    pub(super) fn next_limit(&self) -> Option<Instant> {
        self.events.values().filter_map(|(_, limit)| *limit).min()
    }

    /// The accounts.
    pub(super) fn accounts(&self) -> impl Iterator<Item = &AccountId> {
        self.events.keys()
    }

    /// The events.
    pub(super) fn events(&self) -> impl Iterator<Item = &LaneEvent> {
        self.events.values().map(|(event, _)| event)
    }
}
