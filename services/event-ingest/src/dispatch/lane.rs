//! The life of one lane in this process.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use chatfn_deployments::{Deployment, Deployments};
use chatfn_domain::name::FunctionName;
use chatfn_proto::ingest::v1::DeliveryState;
use chatfn_rpc::Deadline;
use futures_util::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, OptionFuture},
    stream::FuturesUnordered,
};
use sqlx::PgPool;
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    decide::{AttemptEnd, Next, after_attempt},
    gate::{Gate, Permit, Verdict},
    heads::Heads,
    invoke::{CallEnd, Invoker, encode, run_budget},
    journal::{AttemptRecord, Journal, NextRecord, Record},
    queue::{ConversationKey, Head, LaneQueue, Load, Queued, refusal_pause},
};
use crate::{
    lanes::Lease,
    store::reading::{self, Range, Resume, Resumed, StoredEvent},
};

/// Rows of one read, and events of a lane that are kept in memory.
const WINDOW: usize = 256;
/// Bytes of one read, and bytes of a lane's events in memory from which on it reads no further.
const READ_BYTES: i64 = 1024 * 1024;
/// The same of reading on in one conversation, apart from its first event.
const LOAD_BYTES: i64 = READ_BYTES / LOADS as i64;
/// Sequence numbers that one read covers: bounds the work where most events are finished.
const READ_SPAN: i64 = 10_000;
/// Conversations with unfinished events that a lane keeps track of; beyond, it reads no further.
const MAX_CONVERSATIONS: usize = 4096;
/// Conversations that are read on in together.
const LOADS: usize = 16;
/// Events that wait for leave to run.
const PENDING: usize = 32;
/// Pause after a failed read.
const READ_PAUSE: Duration = Duration::from_millis(200);
/// Pause while what is live is not known.
const NOT_READY_PAUSE: Duration = Duration::from_secs(1);

/// What all lanes of a process share. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) pool: PgPool,
    pub(crate) deployments: Deployments,
    pub(crate) invoker: Invoker,
    pub(crate) gate: Gate,
    pub(crate) journal: Journal,
    pub(crate) heads: Heads,
}

/// How a lane's life ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Nothing runs, and all is recorded: the lease can be released.
    Drained,
    /// The lease was lost; runs were cut off.
    Lost,
}

/// Runs the events of a lane until `drain` fires, then waits for those that run; or until the lease is lost,
/// then cuts them off at once.
pub(crate) async fn run_lane(shared: Shared, lease: Lease, cursor: i64, drain: CancellationToken) -> Ended {
    let lost = lease.clone();
    let lane =
        Lane { shared, lease, queue: LaneQueue::new(cursor), pending: VecDeque::new(), is_failing: false };
    tokio::select! {
        biased;
        () = lost.lost() => Ended::Lost,
        () = lane.work(drain) => if lost.is_lost() { Ended::Lost } else { Ended::Drained },
    }
}

/// An event in the queue of a lane.
#[derive(Debug, Clone)]
struct LaneEvent {
    event: StoredEvent,
    conversation: ConversationKey,
    deliver_at: Option<Instant>,
    refusals: u32,
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

    fn remember(&mut self, head: &Head) {
        self.event.attempts = head.attempts;
        self.event.died = head.died;
        self.refusals = head.refusals;
    }
}

impl LaneEvent {
    /// `asked`: when the store was asked for it.
    fn new(event: StoredEvent, asked: Instant) -> Self {
        Self {
            conversation: Arc::new((event.account.clone(), event.conversation_id.clone())),
            deliver_at: event.deliver_within.map(|left| Deadline::from_start(asked, left).instant()),
            refusals: 0,
            event,
        }
    }

    fn function(&self) -> FunctionName {
        FunctionName { account: self.event.account.clone(), template: self.event.template.clone() }
    }

    fn is_expired(&self) -> bool {
        self.deliver_at.is_some_and(|at| at <= Instant::now())
    }
}

/// An attempt that is over.
struct Done {
    event: LaneEvent,
    deployment: Arc<Deployment>,
    number: u32,
    /// `None`: `deliver_by` passed before the call.
    end: Option<CallEnd>,
}

type Scanned = Result<(Vec<StoredEvent>, i64), sqlx::Error>;
type Loaded = (Vec<Load>, Result<Vec<Resumed>, sqlx::Error>);

struct Lane {
    shared: Shared,
    lease: Lease,
    queue: LaneQueue<LaneEvent>,
    /// Events that may run as soon as the gate lets them.
    pending: VecDeque<LaneEvent>,
    /// Whether the last read failed, which is told once.
    is_failing: bool,
}

impl Lane {
    async fn work(mut self, drain: CancellationToken) {
        let Some(mut head) = self.shared.heads.follow(self.lease.lane()) else { return };
        self.take_parked().await;
        let mut runs = FuturesUnordered::new();
        let mut entering: OptionFuture<BoxFuture<'static, Permit>> = None.into();
        let mut scan: OptionFuture<BoxFuture<'static, (Instant, Scanned)>> = None.into();
        let mut load: OptionFuture<BoxFuture<'static, (Instant, Loaded)>> = None.into();
        let (mut is_entering, mut is_scanning, mut is_loading) = (false, false, false);
        loop {
            if drain.is_cancelled() {
                if runs.is_empty() {
                    break;
                }
                entering = None.into();
                is_entering = false;
            } else {
                self.prepare().await;
                if !is_entering && !self.pending.is_empty() {
                    let gate = self.shared.gate.clone();
                    entering = Some(async move { gate.enter().await }.boxed()).into();
                    is_entering = true;
                }
                if !is_scanning && let Some(range) = self.next_range(&mut head) {
                    let pool = self.shared.pool.clone();
                    let read = async move { (Instant::now(), reading::scan(&pool, range).await) };
                    scan = Some(read.boxed()).into();
                    is_scanning = true;
                }
                if !is_loading && self.has_room() && self.queue.has_loads(Instant::now()) {
                    load = Some(self.read_on()).into();
                    is_loading = true;
                }
            }
            // A due conversation is looked for above, once there is room and nothing else is being loaded.
            // While draining it would be due over and over again.
            let may_load = !is_loading && !drain.is_cancelled() && self.has_room();
            let due = self.queue.next_due().filter(|_| may_load);
            let due: OptionFuture<_> = due.map(tokio::time::sleep_until).into();
            tokio::select! {
                Some(done) = runs.next() => self.settle(done).await,
                Some(permit) = &mut entering => {
                    is_entering = false;
                    entering = None.into();
                    if let Some(run) = self.start(permit).await {
                        runs.push(run);
                    }
                }
                Some((asked, scanned)) = &mut scan => {
                    is_scanning = false;
                    scan = None.into();
                    self.scanned(asked, scanned).await;
                }
                Some((asked, loaded)) = &mut load => {
                    is_loading = false;
                    load = None.into();
                    self.loaded(asked, loaded).await;
                }
                // The senders live as long as `shared`.
                _ = head.changed() => {}
                Some(()) = due => {}
                () = drain.cancelled(), if !drain.is_cancelled() => {}
            }
        }
        self.shared.journal.flush(&self.lease, self.queue.cursor()).await;
    }

    /// Reads what waits for another attempt since before the take-over: all of it, before anything runs.
    async fn take_parked(&mut self) {
        let rows = i64::try_from(WINDOW).unwrap_or(i64::MAX);
        let mut after = 0;
        loop {
            let (lane, epoch) = (self.lease.lane(), self.lease.epoch());
            match reading::parked(&self.shared.pool, lane, epoch, after, rows).await {
                Ok(parked) => {
                    self.is_failing = false;
                    let now = Instant::now();
                    let is_last = parked.len() < WINDOW;
                    for event in parked {
                        after = event.sequence;
                        let head = Head {
                            sequence: event.sequence,
                            attempts: event.attempts,
                            died: event.died,
                            refusals: 0,
                        };
                        let conversation = Arc::new((event.account, event.conversation_id));
                        self.queue.add_parked(
                            conversation,
                            head,
                            Deadline::from_start(now, event.due_in).instant(),
                        );
                    }
                    if is_last {
                        return;
                    }
                }
                Err(error) => self.read_failed(&error).await,
            }
        }
    }

    async fn read_failed(&mut self, error: &sqlx::Error) {
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::warn!(
                lane = self.lease.lane(),
                "cannot read events of lane {}; trying again: {}",
                self.lease.lane(),
                chatfn_pg::error::describe(error)
            );
        }
        tokio::time::sleep(READ_PAUSE).await;
    }

    fn has_room(&self) -> bool {
        let pending: usize = self.pending.iter().map(Queued::bytes).sum();
        let bytes = i64::try_from(self.queue.bytes_in_memory() + pending).unwrap_or(i64::MAX);
        self.queue.in_memory() + self.pending.len() < WINDOW && bytes < READ_BYTES
    }

    /// What to read next; `None` if nothing is there, or if there is no room for it.
    fn next_range(&self, head: &mut watch::Receiver<i64>) -> Option<Range> {
        let newest = *head.borrow_and_update() - 1;
        let after = self.queue.read_to();
        let can_read = self.has_room() && self.queue.conversations() < MAX_CONVERSATIONS;
        (newest > after && can_read).then(|| Range {
            lane: self.lease.lane(),
            epoch: self.lease.epoch(),
            after,
            to: newest.min(after + READ_SPAN),
            rows: i64::try_from(WINDOW).unwrap_or(i64::MAX),
            bytes: READ_BYTES,
        })
    }

    async fn scanned(&mut self, asked: Instant, scanned: Scanned) {
        match scanned {
            Ok((events, to)) => {
                self.is_failing = false;
                self.queue.offer(events.into_iter().map(|event| LaneEvent::new(event, asked)).collect(), to);
            }
            Err(error) => self.read_failed(&error).await,
        }
    }

    /// Reads on in conversations that are due, or of which not everything was kept.
    fn read_on(&mut self) -> BoxFuture<'static, (Instant, Loaded)> {
        let loads = self.queue.take_loads(Instant::now(), LOADS);
        let wanted: Vec<Resume> = loads
            .iter()
            .map(|load| Resume {
                account: load.conversation.0.clone(),
                conversation_id: load.conversation.1.clone(),
                from: load.from,
                to: load.to,
                rows: i64::try_from(load.rows).unwrap_or(i64::MAX),
                bytes: LOAD_BYTES,
            })
            .collect();
        let (pool, lane, epoch) = (self.shared.pool.clone(), self.lease.lane(), self.lease.epoch());
        async move {
            let asked = Instant::now();
            let found = reading::resume(&pool, lane, epoch, &wanted).await;
            (asked, (loads, found))
        }
        .boxed()
    }

    async fn loaded(&mut self, asked: Instant, (loads, found): Loaded) {
        match found {
            Ok(found) => {
                self.is_failing = false;
                for (load, Resumed { events, is_complete }) in loads.iter().zip(found) {
                    let events = events.into_iter().map(|event| LaneEvent::new(event, asked)).collect();
                    self.queue.loaded(load, events, is_complete);
                }
            }
            Err(error) => {
                for load in loads {
                    self.queue.put_back(load);
                }
                self.read_failed(&error).await;
            }
        }
    }

    /// Settles what may be next and needs no run; the rest becomes pending.
    async fn prepare(&mut self) {
        while self.pending.len() < PENDING {
            let Some(event) = self.queue.next_ready() else { return };
            if let Some((event, _)) = self.check(event).await {
                self.pending.push_back(event);
            }
        }
    }

    /// Gives the event back, with the version to run, if it is to run now.
    async fn check(&mut self, mut event: LaneEvent) -> Option<(LaneEvent, Arc<Deployment>)> {
        let Ok(deployment) = self.shared.deployments.function(&event.function()) else {
            let head = Head { died: event.event.died, ..self.head(&event, event.event.attempts, 0) };
            self.queue.wait(&event.conversation, head, Instant::now() + NOT_READY_PAUSE, false);
            return None;
        };
        let died = std::mem::take(&mut event.event.died).then(AttemptEnd::died);
        let attempts = event.event.attempts;
        let Some(deployment) = deployment else {
            let attempt = died.map(|end| attempt_record(attempts, end));
            let message = format!("{} is not deployed", event.function());
            self.finish(&event, attempt, DeliveryState::NoFunction, "NO_FUNCTION", message).await;
            return None;
        };
        if let Some(end) = died {
            self.conclude(&event, &deployment, attempts, end).await;
            return None;
        }
        if event.is_expired() {
            self.expire(&event, None).await;
            return None;
        }
        Some((event, deployment))
    }

    /// Starts the first pending event that is still to run.
    async fn start(&mut self, permit: Permit) -> Option<BoxFuture<'static, Done>> {
        // What was checked may have changed while it waited.
        let (event, deployment) = loop {
            let event = self.pending.pop_front()?;
            if let Some(checked) = self.check(event).await {
                break checked;
            }
        };
        let number = event.event.attempts + 1;
        let budget = run_budget(deployment.settings.timeout);
        let (durable, is_durable) = oneshot::channel();
        let start = Record::Start { number, hold: self.lease.hold_for(budget), durable };
        self.record(&event, start).await;
        let run = run(
            self.shared.invoker.clone(),
            self.lease.clone(),
            event,
            deployment,
            number,
            budget,
            is_durable,
            permit,
        );
        Some(run.boxed())
    }

    async fn settle(&mut self, done: Done) {
        let Done { event, deployment, number, end } = done;
        match end {
            Some(CallEnd::Ended(end)) => self.conclude(&event, &deployment, number, end).await,
            Some(CallEnd::Refused { retry_after, .. }) => {
                let pause = refusal_pause(event.refusals, rand::random());
                let pause = retry_after.map_or(pause, |asked| pause.max(asked.min(Duration::from_secs(5))));
                let head = self.head(&event, number - 1, event.refusals + 1);
                self.queue.wait(&event.conversation, head, Instant::now() + pause, false);
                self.record(&event, Record::Void { number }).await;
            }
            None => self.expire(&event, Some(number)).await,
        }
    }

    /// Records an attempt and what follows from it.
    async fn conclude(&mut self, event: &LaneEvent, deployment: &Deployment, number: u32, end: AttemptEnd) {
        let left = event.deliver_at.map(|at| at.saturating_duration_since(Instant::now()));
        let next = after_attempt(number, &end, &deployment.settings.retry, left, rand::random());
        let attempt = Some(attempt_record(number, end));
        match next {
            Next::Succeeded => self.finish(event, attempt, DeliveryState::Succeeded, "", String::new()).await,
            Next::DeadLettered { reason, message } => {
                self.finish(event, attempt, DeliveryState::DeadLettered, reason, message).await;
            }
            Next::Expired => {
                let message = "deliver_by comes before the next attempt could start".to_owned();
                self.finish(event, attempt, DeliveryState::Expired, "DELIVER_BY_PASSED", message).await;
            }
            Next::Retry(delay) => {
                let head = self.head(event, number, 0);
                self.queue.wait(&event.conversation, head, Instant::now() + delay, true);
                let next = NextRecord::Park {
                    account: event.event.account.to_string(),
                    conversation_id: event.event.conversation_id.to_string(),
                    delay,
                };
                self.record(event, Record::Settle { attempt, next }).await;
            }
        }
    }

    /// `void`: an attempt that was started and never made.
    async fn expire(&mut self, event: &LaneEvent, void: Option<u32>) {
        if let Some(number) = void {
            self.record(event, Record::Void { number }).await;
        }
        let message = "deliver_by passed before a run could start".to_owned();
        self.finish(event, None, DeliveryState::Expired, "DELIVER_BY_PASSED", message).await;
    }

    async fn finish(
        &mut self,
        event: &LaneEvent,
        attempt: Option<AttemptRecord>,
        state: DeliveryState,
        reason: &'static str,
        message: String,
    ) {
        self.queue.finished(&event.conversation, event.event.sequence);
        let next = NextRecord::Outcome {
            state: i16::try_from(i32::from(state)).unwrap_or_default(),
            reason,
            message,
            account: event.event.account.to_string(),
            accept_time: event.event.accept_time,
        };
        self.record(event, Record::Settle { attempt, next }).await;
    }

    async fn record(&self, event: &LaneEvent, record: Record) {
        let cursor = self.queue.cursor();
        self.shared.journal.record(&self.lease, cursor, event.event.sequence, record).await;
    }

    fn head(&self, event: &LaneEvent, attempts: u32, refusals: u32) -> Head {
        Head { sequence: event.event.sequence, attempts, died: false, refusals }
    }
}

/// One attempt, from its durable start to the invoker's answer.
#[expect(clippy::too_many_arguments, reason = "they are the parts of one attempt, used here alone")]
async fn run(
    invoker: Invoker,
    lease: Lease,
    event: LaneEvent,
    deployment: Arc<Deployment>,
    number: u32,
    budget: Duration,
    durable: oneshot::Receiver<()>,
    permit: Permit,
) -> Done {
    if durable.await.is_err() {
        // Not recorded: the lease is lost, which ends this future.
        lease.lost().await;
    }
    if event.is_expired() {
        return Done { event, deployment, number, end: None };
    }
    let mut deadline = Deadline::after(budget).min(Deadline::at(lease.until()));
    if let Some(at) = event.deliver_at {
        deadline = deadline.min(Deadline::at(at));
    }
    let end = invoker.invoke(&event.event, &deployment, number, deadline).await;
    match &end {
        CallEnd::Refused { verdict, .. } => permit.leave(*verdict),
        CallEnd::Ended(AttemptEnd::Reported(_)) => permit.leave(Verdict::Took),
        // Whether the invoker is up shows at the next run.
        CallEnd::Ended(AttemptEnd::Unknown { .. }) => drop(permit),
    }
    Done { event, deployment, number, end: Some(end) }
}

fn attempt_record(number: u32, end: AttemptEnd) -> AttemptRecord {
    match end {
        AttemptEnd::Reported(report) => AttemptRecord {
            number,
            report: Some(encode(report)),
            platform_error: "",
            platform_error_message: String::new(),
        },
        AttemptEnd::Unknown { reason, message } => {
            AttemptRecord { number, report: None, platform_error: reason, platform_error_message: message }
        }
    }
}
