//! The life of one lane in this process.
//!
//! | module | part |
//! |---|---|
//! | `read` | what it reads |
//! | `event` | an event in its queue |
//! | `pending` | what waits for leave to run |
//! | `settle` | what it decides and has recorded |
//! | `attempt` | one attempt |
//! | `operators` | what operators ask of it |

mod attempt;
mod event;
mod operators;
mod pending;
mod read;
mod settle;

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use chatfn_deployments::Deployments;
use chatfn_domain::name::AccountId;
use chatfn_pg::Background;
use futures_util::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, OptionFuture},
    stream::FuturesUnordered,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::{event::LaneEvent, pending::Pending};
use super::{
    budget::RetryBudgets,
    gate::{Gate, Permit},
    heads::Heads,
    interventions::Interventions,
    invoke::Invoker,
    journal::Journal,
    notices::Notices,
    queue::LaneQueue,
    recent::Following,
};
use crate::{
    failpoint,
    lanes::Lease,
    metrics::{IngestMetrics, LaneTold},
};

/// What all lanes of a process share. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) reads: Background,
    pub(crate) deployments: Deployments,
    pub(crate) invoker: Invoker,
    pub(crate) gate: Gate,
    pub(crate) budgets: RetryBudgets,
    pub(crate) journal: Journal,
    pub(crate) heads: Heads,
    pub(crate) interventions: Interventions,
    pub(crate) notices: Notices,
    pub(crate) metrics: IngestMetrics,
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
    let told = shared.metrics.lanes().begin(lease.lane());
    let recent = shared.heads.keep(lease.lane());
    let lane = Lane {
        told,
        behind_since: None,
        shared,
        lease,
        queue: LaneQueue::new(cursor, read::ROOM),
        fresh_from: i64::MAX,
        recent,
        catch_up_at: Instant::now(),
        look_at: Instant::now(),
        pending: Pending::default(),
        refused: BTreeMap::new(),
        reopening: HashSet::new(),
        is_failing: false,
        may_be_asked: true,
        is_asked_ahead: false,
    };
    tokio::select! {
        biased;
        () = lost.lost() => Ended::Lost,
        () = lane.work(drain) => if lost.is_lost() { Ended::Lost } else { Ended::Drained },
    }
}

struct Lane {
    /// What it tells of itself.
    told: LaneTold,
    /// Since when there have been events that it has not read, with none in memory that could start.
    behind_since: Option<Instant>,
    shared: Shared,
    lease: Lease,
    queue: LaneQueue<LaneEvent>,
    /// What was recorded from this sequence number on, nobody has begun with but this owner.
    fresh_from: i64,
    /// What was just recorded here.
    recent: Following,
    /// When it may next catch up for an account.
    catch_up_at: Instant,
    /// When it may next look whose events it has not read.
    look_at: Instant,
    /// Events that may run as soon as the gate lets them.
    pending: Pending,
    /// Events that no invoker took yet, by sequence number.
    refused: BTreeMap<i64, Refused>,
    /// Events that are about to be reopened, by sequence number, as long as they have not ended again.
    reopening: HashSet<i64>,
    /// Whether the last read failed, which is told once.
    is_failing: bool,
    /// Whether operators may have asked for something.
    may_be_asked: bool,
    /// Whether they have, for events that reading has not reached.
    is_asked_ahead: bool,
}

/// An event that no invoker took when it was tried.
struct Refused {
    accepted: Instant,
    /// When it is being tried again, since when.
    tried: Option<Instant>,
}

impl Refused {
    /// Until when it counts as not started, if that ends: then it runs most likely.
    fn counts_until(&self) -> Option<Instant> {
        self.tried.map(|at| at + TRIED)
    }

    fn counts(&self, now: Instant) -> bool {
        self.counts_until().is_none_or(|until| until > now)
    }
}

/// Time within which an invoker that takes no run says so.
const TRIED: Duration = Duration::from_secs(1);

/// Something that a lane waits for, if it does.
type Waiting<T> = OptionFuture<BoxFuture<'static, T>>;

impl Lane {
    async fn work(mut self, drain: CancellationToken) {
        let lane = self.lease.lane();
        let (Some(mut head), Some(mut asked)) =
            (self.shared.heads.follow(lane), self.shared.interventions.follow(lane))
        else {
            return;
        };
        self.take_over().await;
        failpoint::edge("lane.begun");
        let mut runs = FuturesUnordered::new();
        let mut entering = FuturesUnordered::new();
        let mut entering_for = HashSet::new();
        let mut scan: Waiting<read::Scanned> = None.into();
        let mut look_ahead: Waiting<read::Looked> = None.into();
        let mut load: Waiting<read::Loaded> = None.into();
        let mut catch_up: Waiting<read::CaughtUp> = None.into();
        let mut asking: Waiting<operators::Step> = None.into();
        let (mut is_scanning, mut is_looking, mut is_loading, mut is_asking) = (false, false, false, false);
        loop {
            // What comes to be due later than this is looked at in the next turn, if not in this one.
            let now = Instant::now();
            if drain.is_cancelled() {
                if runs.is_empty() {
                    break;
                }
                entering.clear();
                entering_for.clear();
            } else {
                // First, so that what comes of it is prepared.
                let to_read = if is_scanning { None } else { Some(self.take_recent(&mut head)) };
                self.prepare().await;
                for account in self.pending.accounts() {
                    if !entering_for.contains(account) {
                        entering_for.insert(account.clone());
                        entering.push(self.enter(account.clone()));
                    }
                }
                self.queue.load_due(now);
                let may_read = !is_scanning && !self.queue.is_full();
                let pending = &self.pending;
                self.queue.make_room(may_read, !is_loading, |account| pending.has(account));
                if !is_looking && let Some(read) = self.look_ahead(*head.borrow() - 1) {
                    look_ahead = Some(read).into();
                    is_looking = true;
                }
                if let Some(read) = to_read.and_then(|newest| self.scan(newest)) {
                    scan = Some(read).into();
                    is_scanning = true;
                }
                if !is_loading
                    && self.queue.has_room()
                    && self.queue.has_loads(Instant::now())
                    && let Some(read) = self.read_on()
                {
                    load = Some(read).into();
                    is_loading = true;
                }
                if let Some(read) = self.catch_up().await {
                    catch_up = Some(read).into();
                }
                if !is_asking && let Some(look) = self.look_for_interventions() {
                    asking = Some(look).into();
                    is_asking = true;
                }
            }
            self.tell(*head.borrow());
            // While draining it would be due over and over again.
            let due = self.queue.next_due().filter(|_| !drain.is_cancelled());
            let due: OptionFuture<_> = due.map(tokio::time::sleep_until).into();
            let look_at = self.queue.look_ahead(*head.borrow() - 1).map(|_| self.look_at);
            let look_at = look_at.filter(|at| !is_looking && *at > now);
            let look = look_at.into_iter().chain(self.look_again(now)).min();
            let look: OptionFuture<_> = look.map(tokio::time::sleep_until).into();
            let may_catch_up = !drain.is_cancelled() && self.queue.can_catch_up();
            let behind: OptionFuture<_> =
                may_catch_up.then(|| tokio::time::sleep_until(self.catch_up_at)).into();
            tokio::select! {
                // Interventions first: the queue must know that an event is reopened before it hears of its end.
                biased;
                Some(step) = &mut asking => {
                    let next = self.intervene(step).await;
                    is_asking = next.is_some();
                    asking = next.into();
                }
                Some(done) = runs.next() => self.settle(done).await,
                Some(permit) = entering.next() => {
                    entering_for.remove(permit.account());
                    if let Some(run) = self.start(permit).await {
                        runs.push(run);
                    }
                }
                Some(scanned) = &mut scan => {
                    is_scanning = false;
                    scan = None.into();
                    self.scanned(scanned);
                }
                Some(looked) = &mut look_ahead => {
                    is_looking = false;
                    look_ahead = None.into();
                    self.looked_ahead(looked);
                }
                Some(loaded) = &mut load => {
                    is_loading = false;
                    load = None.into();
                    self.loaded(loaded);
                }
                Some(caught_up) = &mut catch_up => {
                    catch_up = None.into();
                    self.caught_up(caught_up);
                }
                // The senders live as long as `shared`.
                _ = head.changed() => {}
                _ = asked.changed() => self.may_be_asked = true,
                Some(()) = due => {}
                Some(()) = behind => {}
                Some(()) = look => {}
                () = drain.cancelled(), if !drain.is_cancelled() => {}
            }
        }
        self.shared.journal.flush(&self.lease, self.queue.cursor()).await;
        failpoint::edge("lane.flushed");
    }

    /// Waits for leave to run an event of the account.
    fn enter(&self, account: AccountId) -> BoxFuture<'static, Permit> {
        let gate = self.shared.gate.clone();
        async move { gate.enter(&account).await }.boxed()
    }

    /// When something is to be looked at again that waits to run.
    fn look_again(&self, now: Instant) -> Option<Instant> {
        let refused = self.refused.values().filter_map(Refused::counts_until).filter(|at| *at > now);
        // Late ones have been looked at, but while draining.
        refused.chain(self.pending.next_limit().filter(|at| *at > now)).min()
    }

    /// Tells how the lane is, where `head` is the next sequence number that is free.
    fn tell(&mut self, head: i64) {
        let now = Instant::now();
        let may_start = self.pending.events().chain(self.queue.next_in_turn());
        let may_start =
            may_start.filter(|event| event.event.attempts == 0).filter_map(|event| event.accepted);
        let refused = self.refused.values().find(|it| it.counts(now)).map(|it| it.accepted);
        let oldest = may_start.chain(refused).min();
        let is_behind = oldest.is_none() && head - 1 > self.queue.read_to();
        self.behind_since = if is_behind { self.behind_since.or_else(|| Some(Instant::now())) } else { None };
        let [all, waiting, halted] = self.queue.conversation_counts();
        self.told.tell(oldest.or(self.behind_since), all, waiting, halted);
    }
}
