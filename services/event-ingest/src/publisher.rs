//! The way of events from a call to the committers: share of the calls, quota, checks, whether it was recorded days ago, queue.

use std::{collections::HashMap, sync::Arc, time::Instant};

use chatfn_domain::{
    caller::Caller,
    name::AccountId,
    shares::{Held, Stock},
};
use chatfn_proto::ingest::v1::Event;
use chatfn_rpc::{ApiError, CallContext};
use prost::Message as _;
use tonic::{Code, Status};

use crate::{
    committer::{self, Ack, Answer, Committers, Pending, Refused},
    earlier::{Looked, Looks},
    error,
    event::NewEvent,
    intake::{Intake, check_account},
    metrics::IngestMetrics,
    quota::{Exceeded, Quotas},
};

/// Takes events in. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Publisher(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    intake: Intake,
    quotas: Quotas,
    committers: Committers,
    calls: Stock<Holder>,
    looks: Looks,
    metrics: IngestMetrics,
}

/// Whom a call in progress is counted for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Holder {
    Account(AccountId),
    /// A stream over which no account's event has come yet: who opened it, by name.
    Caller(String),
}

/// A call is counted in so many parts, one for each account that it may be for at most: what is counted of a call for
/// several accounts is one call altogether.
const PARTS: usize = 500;

/// A call in progress, or what of it is for one account: counted until dropped.
#[derive(Debug)]
pub(crate) struct Call(Held<Holder>);

impl Call {
    /// Counts a stream for the account of the first event that comes over it.
    ///
    /// # Errors
    /// The account has its share of the calls; the stream stays its caller's.
    pub(crate) fn is_of(&mut self, account: &AccountId) -> Result<(), ApiError> {
        let is_counted = matches!(self.0.holder(), Holder::Account(_));
        if is_counted || self.0.pass_on(Holder::Account(account.clone())) {
            return Ok(());
        }
        Err(error::account_busy(account))
    }
}

impl Publisher {
    /// `max_calls` is how many calls the server has at a time: an account cannot have them all.
    pub(crate) fn new(
        intake: Intake,
        quotas: Quotas,
        committers: Committers,
        max_calls: usize,
        looks: Looks,
        metrics: IngestMetrics,
    ) -> Self {
        let calls = Stock::new(max_calls * PARTS);
        Self(Arc::new(Inner { intake, quotas, committers, calls, looks, metrics }))
    }

    /// Records events, each for itself; gives what became of each, in order.
    ///
    /// What an account has over its quota or its share is refused as a whole and before it is looked at. Quotas count
    /// what is published, whether it can be recorded or not.
    ///
    /// Cancel safe: what has been handed to the committers is recorded all the same.
    pub(crate) async fn publish(
        &self,
        events: Vec<Event>,
        context: &CallContext,
    ) -> Vec<Result<Ack, Status>> {
        let (_calls, refused) = self.admit(&events, context);
        // What follows must not be recorded before what could not be checked.
        let mut not_ready: Option<Status> = None;
        let mut good = Vec::with_capacity(events.len());
        let checked: Vec<Result<(), Status>> = events
            .into_iter()
            .map(|event| match (refused.get(&event.account), &not_ready) {
                (Some(error), _) => Err(error.clone().into()),
                (None, Some(status)) => Err(status.clone()),
                (None, None) => {
                    let checked = self.check(event, context).map(|event| good.push(event));
                    checked.inspect_err(|status| {
                        not_ready = (status.code() == Code::Unavailable).then(|| status.clone());
                    })
                }
            })
            .collect();
        let looked = self.look(good, context).await;
        let mut new = Vec::with_capacity(looked.len());
        let looked: Vec<Option<Answer>> = looked
            .into_iter()
            .map(|(event, answer)| {
                if answer.is_none() {
                    new.push(event);
                }
                answer
            })
            .collect();
        let mut looked = looked.into_iter();
        let mut submitted = self.0.committers.submit(new, context.deadline).into_iter();
        // All are handed over before the first answer is waited for.
        let mut results = Vec::with_capacity(checked.len());
        for checked in checked {
            let result = match checked {
                Err(status) => Err(status),
                Ok(()) => match looked.next().flatten() {
                    Some(answer) => answer.map_err(Status::from),
                    None => match submitted.next() {
                        Some(Ok(pending)) => pending.answer().await.map_err(Status::from),
                        Some(Err(error)) => Err(error.into()),
                        None => Err(error::draining().into()),
                    },
                },
            };
            results.push(result.inspect_err(|status| self.0.metrics.refused(status)));
        }
        results
    }

    /// Counts a call and what it publishes. Gives the counted calls, and by account why its events are refused.
    fn admit(&self, events: &[Event], context: &CallContext) -> (Vec<Call>, HashMap<String, ApiError>) {
        let mut published: HashMap<&str, (usize, usize)> = HashMap::new();
        // What a caller may not publish is refused by the check, and must not use up another account's quota.
        for event in events.iter().filter(|event| check_account(event, context).is_ok()) {
            let (count, bytes) = published.entry(&event.account).or_default();
            *count += 1;
            *bytes += event.encoded_len();
        }
        let parts = (PARTS / published.len().max(1)).max(1);
        let (mut calls, mut refused) = (Vec::new(), HashMap::new());
        for (name, (count, bytes)) in published {
            // The check says what is wrong with a name that is none.
            let Ok(account) = name.parse::<AccountId>() else { continue };
            let admitted = self.begin_call(&account, parts).and_then(|call| {
                let charged = self.0.quotas.charge(&account, count, bytes);
                charged.map_err(|exceeded| error::quota_exceeded(&account, exceeded)).map(|()| call)
            });
            match admitted {
                Ok(call) => calls.push(call),
                Err(error) => _ = refused.insert(name.to_owned(), error),
            }
        }
        (calls, refused)
    }

    /// Counts parts of a call for an account, as long as that has not more than its share of them.
    fn begin_call(&self, account: &AccountId, parts: usize) -> Result<Call, ApiError> {
        let holder = Holder::Account(account.clone());
        self.0.calls.take(holder, parts).map(Call).ok_or_else(|| error::account_busy(account))
    }

    /// Counts a stream for its caller's account; for the caller itself, if that acts for several, as long as no event has
    /// told the account. Nobody can have all calls with streams over which nothing comes.
    pub(crate) fn begin_stream(&self, context: &CallContext) -> Result<Call, ApiError> {
        let caller = context.caller.as_ref();
        if let Some(account) = caller.and_then(Caller::account) {
            return self.begin_call(account, PARTS);
        }
        let subject = caller.map_or("", Caller::subject);
        let holder = Holder::Caller(subject.to_owned());
        self.0.calls.take(holder, PARTS).map(Call).ok_or_else(|| error::caller_busy(subject))
    }

    /// What is counted.
    pub(crate) fn metrics(&self) -> &IngestMetrics {
        &self.0.metrics
    }

    /// Counts one event for its account.
    pub(crate) fn charge(&self, account: &AccountId, event: &Event) -> Result<(), Exceeded> {
        self.0.quotas.charge(account, 1, event.encoded_len())
    }

    /// Checks one event.
    pub(crate) fn check(&self, event: Event, context: &CallContext) -> Result<NewEvent, Status> {
        self.0.intake.check(event, context)
    }

    /// Whether [`Publisher::look`] has anything to look for.
    pub(crate) fn is_look_due(&self, event: &NewEvent) -> bool {
        self.0.looks.is_due(event)
    }

    /// Looks whether checked events were recorded days ago. Gives each, with its answer if it is not to be recorded.
    pub(crate) async fn look(
        &self,
        events: Vec<NewEvent>,
        context: &CallContext,
    ) -> Vec<(NewEvent, Option<Answer>)> {
        let begun = Instant::now();
        let looked = self.0.looks.look(&events, context.deadline).await;
        let answers = events.into_iter().zip(looked).map(|(event, looked)| {
            let answer = match looked {
                Looked::New => None,
                Looked::Recorded(of) => {
                    Some(committer::answer(&event, of, true, begun.elapsed(), &self.0.metrics))
                }
                Looked::Refused(error) => Some(Err(error)),
            };
            (event, answer)
        });
        answers.collect()
    }

    /// Hands one checked event over, or gives it back.
    pub(crate) fn submit(&self, event: NewEvent, context: &CallContext) -> Result<Pending, Refused> {
        self.0.committers.submit_one(event, context.deadline)
    }
}
