//! An event on its way through a lane.

use std::{sync::Arc, time::Duration};

use chatfn_domain::{name::FunctionName, retry::RetryPolicy};
use chatfn_rpc::Deadline;
use tokio::time::Instant;

use super::super::{
    decide::TimeLimit,
    queue::{ConversationKey, Head, Queued},
};
use crate::store::reading::StoredEvent;

/// An event in the queue of a lane.
#[derive(Debug, Clone)]
pub(super) struct LaneEvent {
    pub(super) event: StoredEvent,
    pub(super) conversation: ConversationKey,
    /// Its own `deliver_by`.
    pub(super) deliver_at: Option<Instant>,
    /// When the store was asked for it.
    asked: Instant,
    /// When it was accepted, by this process' clock; `None` since an operator took it up again.
    pub(super) accepted: Option<Instant>,
    /// See [`Head`].
    pub(super) refusals: u32,
    /// See [`Head`].
    pub(super) denials: u32,
}

impl Queued for LaneEvent {
    fn sequence(&self) -> i64 {
        self.event.sequence
    }

    fn conversation(&self) -> ConversationKey {
        self.conversation.clone()
    }

    fn bytes(&self) -> usize {
        self.event.payload.len() + self.event.headers.as_ref().map_or(0, Vec::len)
    }

    fn head(&self) -> Head {
        let Self { event, refusals, denials, .. } = self;
        Head {
            sequence: event.sequence,
            attempts: event.attempts,
            died: event.died,
            refusals: *refusals,
            denials: *denials,
        }
    }

    fn remember(&mut self, head: &Head) {
        self.event.attempts = head.attempts;
        self.event.died = head.died;
        self.refusals = head.refusals;
        self.denials = head.denials;
    }
}

impl LaneEvent {
    /// `asked`: when the store was asked for it.
    pub(super) fn new(event: StoredEvent, asked: Instant) -> Self {
        Self {
            conversation: Arc::new((event.account.clone(), event.conversation_id.clone())),
            deliver_at: event.deliver_within.map(|left| Deadline::from_start(asked, left).instant()),
            asked,
            accepted: event.age.and_then(|age| asked.checked_sub(age)),
            refusals: 0,
            denials: event.is_denied.into(),
            event,
        }
    }

    pub(super) fn function(&self) -> FunctionName {
        FunctionName { account: self.event.account.clone(), template: self.event.template.clone() }
    }

    /// Its place in its conversation, with so many attempts made.
    pub(super) fn head_after(&self, attempts: u32) -> Head {
        Head { sequence: self.event.sequence, attempts, died: false, refusals: 0, denials: 0 }
    }

    /// How many attempts `number` are since it was published or an operator took it up again.
    pub(super) fn attempts_now(&self, number: u32) -> u32 {
        number.saturating_sub(self.event.attempts_before).max(1)
    }

    /// After when no attempt of it starts, and by what rule.
    pub(super) fn time_limit(&self, policy: &RetryPolicy) -> Option<(Instant, TimeLimit)> {
        let by_age = match (policy.max_age, self.event.age) {
            (Some(max), Some(age)) => {
                Some(Deadline::from_start(self.asked, max.saturating_sub(age)).instant())
            }
            _ => None,
        };
        let limits =
            [self.deliver_at.map(|at| (at, TimeLimit::DeliverBy)), by_age.map(|at| (at, TimeLimit::MaxAge))];
        limits.into_iter().flatten().min_by_key(|(at, _)| *at)
    }
}

/// A time limit that has passed.
pub(super) fn passed(limit: Option<(Instant, TimeLimit)>) -> Option<TimeLimit> {
    limit.filter(|(at, _)| *at <= Instant::now()).map(|(_, limit)| limit)
}

/// What is left until a time limit.
pub(super) fn left(limit: Option<(Instant, TimeLimit)>) -> Option<(Duration, TimeLimit)> {
    limit.map(|(at, limit)| (at.saturating_duration_since(Instant::now()), limit))
}
