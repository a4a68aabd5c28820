//! What a lane decides about its events, and has recorded.

use std::{sync::Arc, time::Duration};

use chatfn_deployments::Deployment;
use chatfn_domain::{reasons::events, skill::skill_of};
use chatfn_proto::ingest::v1::DeliveryState;
use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::{sync::oneshot, time::Instant};

use super::{
    super::{
        budget::denial_pause,
        decide::{AttemptEnd, Next, TimeLimit, Why, after_attempt},
        gate::Permit,
        invoke::{CallEnd, run_budget},
        journal::{AttemptRecord, NextRecord, Record},
        queue::{Head, refusal_pause},
    },
    Lane, Refused,
    attempt::{self, Attempt, Done, End},
    event::{LaneEvent, left, passed},
};
use crate::{
    failpoint,
    metrics::{Attempted, reported},
    store::journal::ParkKind,
};

/// Pause while what is live is not known.
const NOT_READY_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause that an invoker may ask for.
const LONGEST_ASKED_PAUSE: Duration = Duration::from_secs(5);

impl Lane {
    /// Settles what may be next and needs no run; the rest becomes pending.
    pub(super) async fn prepare(&mut self) {
        while let Some(event) = self.next_to_check() {
            if let Some((event, deployment)) = self.check(event).await {
                let limit = event.time_limit(&deployment.settings.retry);
                self.pending.add(event, limit.map(|(at, _)| at));
            }
        }
    }

    /// What has waited too long to run, or may be next.
    fn next_to_check(&mut self) -> Option<LaneEvent> {
        let late = self.pending.take_late(Instant::now());
        late.or_else(|| self.queue.next_ready(|account| self.pending.has_room(account)))
    }

    /// Gives the event back, with the version to run, if it is to run now.
    async fn check(&mut self, mut event: LaneEvent) -> Option<(LaneEvent, Arc<Deployment>)> {
        let attempts = event.event.attempts;
        let Ok(deployment) = self.shared.deployments.function(&event.function()) else {
            let head = Head { died: event.event.died, denials: event.denials, ..event.head_after(attempts) };
            self.queue.wait(&event.conversation, head, Instant::now() + NOT_READY_PAUSE, false);
            return None;
        };
        let died = std::mem::take(&mut event.event.died).then(AttemptEnd::died);
        let deployment = match deployment.ok_or_else(|| not_deployed(&event)).and_then(|it| wants(it, &event))
        {
            Ok(deployment) => deployment,
            Err(why) => {
                let attempt = died.map(|end| attempt::record(attempts, end));
                self.finish(&event, attempt, DeliveryState::NoFunction, why).await;
                return None;
            }
        };
        if let Some(end) = died {
            self.conclude(&event, &deployment, attempts, end).await;
            return None;
        }
        let limit = event.time_limit(&deployment.settings.retry);
        if let Some(limit) = passed(limit) {
            self.expire(&event, None, limit).await;
            return None;
        }
        if event.denials > 0 {
            if !self.shared.budgets.pay(&event.function()) {
                self.shared.metrics.retry(true);
                let denials = event.denials.saturating_add(1);
                let pause = denial_pause(denials, rand::random());
                let pause = left(limit).map_or(pause, |(left, _)| pause.min(left));
                let head = Head { denials, ..event.head_after(attempts) };
                self.queue.wait(&event.conversation, head, Instant::now() + pause, false);
                return None;
            }
            self.shared.metrics.retry(false);
            event.denials = 0;
        }
        Some((event, deployment))
    }

    /// Starts the pending event of the permit's account, if it is still to run.
    pub(super) async fn start(&mut self, permit: Permit) -> Option<BoxFuture<'static, Done>> {
        let event = self.pending.take(permit.account())?;
        // What was checked may have changed while it waited.
        let (event, deployment) = self.check(event).await?;
        if let Some(refused) = self.refused.get_mut(&event.event.sequence) {
            refused.tried = Some(Instant::now());
        }
        let number = event.event.attempts + 1;
        let budget = run_budget(deployment.settings.timeout);
        let (durable, is_durable) = oneshot::channel();
        let start = Record::Start { number, hold: self.lease.hold_for(budget), durable };
        self.record(event.event.sequence, start).await;
        let limit = event.time_limit(&deployment.settings.retry);
        let attempt = Attempt { event, deployment, number, budget, limit };
        let run = attempt.run(
            self.shared.invoker.clone(),
            self.lease.clone(),
            is_durable,
            permit,
            self.shared.metrics.clone(),
        );
        Some(run.boxed())
    }

    pub(super) async fn settle(&mut self, done: Done) {
        let Done { event, deployment, number, end } = done;
        match end {
            End::Called(CallEnd::Ended(end)) => self.conclude(&event, &deployment, number, end).await,
            End::Called(CallEnd::Refused { retry_after, .. }) => {
                self.shared.metrics.attempted(Attempted::NotTaken);
                if let Some(accepted) = event.accepted.filter(|_| number == 1) {
                    self.refused.insert(event.event.sequence, Refused { accepted, tried: None });
                }
                let pause = refusal_pause(event.refusals, rand::random());
                let pause = retry_after.map_or(pause, |asked| pause.max(asked.min(LONGEST_ASKED_PAUSE)));
                let head =
                    Head { refusals: event.refusals.saturating_add(1), ..event.head_after(number - 1) };
                self.queue.wait(&event.conversation, head, Instant::now() + pause, false);
                self.record(event.event.sequence, Record::Void { number }).await;
            }
            End::Late(limit) => {
                self.shared.metrics.attempted(Attempted::Late);
                self.expire(&event, Some(number), limit).await;
            }
        }
    }

    /// Records an attempt and what follows from it.
    async fn conclude(&mut self, event: &LaneEvent, deployment: &Deployment, number: u32, end: AttemptEnd) {
        self.refused.remove(&event.event.sequence);
        self.shared.metrics.attempted(match &end {
            AttemptEnd::Reported(report) => reported(report),
            AttemptEnd::Unknown { .. } => Attempted::Unknown,
        });
        let policy = &deployment.settings.retry;
        let (now, time_left) = (event.attempts_now(number), left(event.time_limit(policy)));
        let next = after_attempt(now, &end, policy, time_left, rand::random());
        let function = event.function();
        match &next {
            _ if now == 1 => self.shared.budgets.first_attempt(&function),
            Next::Succeeded => self.shared.budgets.retry_succeeded(&function),
            _ => {}
        }
        let attempt = Some(attempt::record(number, end));
        match next {
            Next::Succeeded => {
                self.finish(event, attempt, DeliveryState::Succeeded, Why::default()).await;
            }
            Next::DeadLettered(why) => {
                self.shared.notices.dead_lettered(&event.conversation, &event.event.event_id, why.reason);
                self.finish(event, attempt, DeliveryState::DeadLettered, why).await;
            }
            Next::Expired(why) => self.finish(event, attempt, DeliveryState::Expired, why).await,
            Next::Halted(why) if failpoint::mutant("no_halt") => {
                self.finish(event, attempt, DeliveryState::DeadLettered, why).await;
            }
            Next::Halted(why) => {
                self.shared.notices.halted(&event.conversation, &event.event.event_id, why.reason);
                self.queue.halt(&event.conversation, event.head_after(number), Instant::now());
                self.park(event, attempt, ParkKind::Halted, why, Duration::ZERO).await;
            }
            Next::Retry { pause, is_charged } => {
                let is_denied = is_charged && !self.shared.budgets.pay(&function);
                self.shared.metrics.retry(is_denied);
                let (pause, why) = if is_denied {
                    let pause = pause.max(denial_pause(1, rand::random()));
                    (time_left.map_or(pause, |(left, _)| pause.min(left)), retry_budget_spent())
                } else {
                    (pause, Why::default())
                };
                let head = Head { denials: is_denied.into(), ..event.head_after(number) };
                self.queue.wait(&event.conversation, head, Instant::now() + pause, true);
                self.park(event, attempt, ParkKind::Retry, why, pause).await;
            }
        }
    }

    /// `void`: an attempt that was started and never made.
    async fn expire(&mut self, event: &LaneEvent, void: Option<u32>, limit: TimeLimit) {
        if let Some(number) = void {
            self.record(event.event.sequence, Record::Void { number }).await;
        }
        self.finish(event, None, DeliveryState::Expired, limit.expired(false)).await;
    }

    async fn finish(
        &mut self,
        event: &LaneEvent,
        attempt: Option<AttemptRecord>,
        state: DeliveryState,
        why: Why,
    ) {
        self.refused.remove(&event.event.sequence);
        self.reopening.remove(&event.event.sequence);
        self.queue.finished(&event.conversation, event.event.sequence);
        let next = NextRecord::Outcome {
            state: i16::try_from(i32::from(state)).unwrap_or_default(),
            reason: why.reason,
            message: why.message,
            account: event.event.account.to_string(),
            accept_time: event.event.accept_time,
        };
        self.record(event.event.sequence, Record::Settle { attempt, next }).await;
    }

    /// The queue has it waiting already.
    async fn park(
        &self,
        event: &LaneEvent,
        attempt: Option<AttemptRecord>,
        kind: ParkKind,
        why: Why,
        delay: Duration,
    ) {
        let next = NextRecord::Park {
            kind,
            reason: why.reason,
            message: why.message,
            account: event.event.account.to_string(),
            conversation_id: event.event.conversation_id.to_string(),
            delay,
        };
        self.record(event.event.sequence, Record::Settle { attempt, next }).await;
    }

    pub(super) async fn record(&self, sequence: i64, record: Record) {
        let is_early = failpoint::mutant("cursor_before_outcome");
        let cursor = if is_early { self.queue.read_to() } else { self.queue.cursor() };
        self.shared.journal.record(&self.lease, cursor, sequence, record).await;
    }
}

fn not_deployed(event: &LaneEvent) -> Why {
    Why { reason: Some(events::NO_FUNCTION), message: format!("{} is not deployed", event.function()) }
}

/// The version, if it is for events like this one.
fn wants(deployment: Arc<Deployment>, event: &LaneEvent) -> Result<Arc<Deployment>, Why> {
    let skills = &deployment.settings.skills;
    if skills.is_empty() {
        return Ok(deployment);
    }
    let payload = serde_json::from_slice(&event.event.payload).ok();
    let skill = payload.as_ref().and_then(skill_of);
    if skill.as_ref().is_some_and(|skill| skills.contains(skill)) {
        return Ok(deployment);
    }
    let has = skill.map_or("no skill".to_owned(), |skill| {
        format!("skill {:?}", skill.chars().take(64).collect::<String>())
    });
    let message =
        format!("the event has {has}, and {} runs for the skills of its settings only", event.function());
    Err(Why { reason: Some(events::SKILL_NOT_LISTED), message })
}

fn retry_budget_spent() -> Why {
    Why {
        reason: Some(events::RETRY_BUDGET_SPENT),
        message:
            "so many events of this function fail that this one waits with its next attempt until retries \
                  succeed, or until few enough fail"
                .to_owned(),
    }
}
