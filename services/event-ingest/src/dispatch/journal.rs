//! Makes what lanes do durable, many at a time.
//!
//! As with the committers there is no timer: a writer takes whatever has queued while its last
//! transaction ran. What a lane records is written in the order in which the lane recorded it; a lane
//! always has the same writer. A write that fails is repeated until it succeeds or the lane is lost; one of which that is not known
//! cannot come later, after those that follow.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use chatfn_domain::reasons::Reason;
use chatfn_rpc::TaskGroup;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    failpoint,
    lanes::Lease,
    metrics::IngestMetrics,
    store::{
        Session, Sessions, Time,
        journal::{self, Batch, End, Fence, Intervene, Outcome, Park, ParkKind, Start, Void},
    },
};

/// Most entries in one transaction.
const MAX_ENTRIES: usize = 512;
/// Most bytes of reports in one transaction, unless one alone has more.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Entries that wait for one writer. A full queue makes its lanes wait.
const QUEUE: usize = 2048;
/// First and longest pause before a failed write is repeated.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// The end of an attempt, as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AttemptRecord {
    pub(super) number: u32,
    /// Encoded `RunReport`.
    pub(super) report: Option<Vec<u8>>,
    pub(super) platform_error: Option<Reason>,
    pub(super) platform_error_message: String,
}

/// What becomes of an event, as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NextRecord {
    /// It has its outcome: a terminal `DeliveryState`.
    Outcome { state: i16, reason: Option<Reason>, message: String, account: String, accept_time: Time },
    /// It gets another attempt after the delay, or waits for an operator.
    Park {
        kind: ParkKind,
        reason: Option<Reason>,
        message: String,
        account: String,
        conversation_id: String,
        delay: Duration,
    },
}

/// What a lane records of one event.
#[derive(Debug)]
pub(super) enum Record {
    /// An attempt is about to start; tells when that is durable.
    Start { number: u32, hold: Duration, durable: oneshot::Sender<()> },
    /// An attempt that was started never ran.
    Void { number: u32 },
    /// An attempt ended, if there was one, and what follows.
    Settle { attempt: Option<AttemptRecord>, next: NextRecord },
    /// What an operator asked for is done, if it is still wanted, and struck off; tells when that is durable.
    Intervene { is_wanted: bool, durable: oneshot::Sender<()> },
}

#[derive(Debug)]
enum Entry {
    Record { lease: Lease, cursor: i64, sequence: i64, record: Record },
    Flush { lease: Lease, cursor: i64, done: oneshot::Sender<()> },
}

impl Entry {
    fn lease(&self) -> &Lease {
        match self {
            Self::Record { lease, .. } | Self::Flush { lease, .. } => lease,
        }
    }

    fn event(&self) -> Option<(i16, i64)> {
        match self {
            Self::Record { lease, sequence, .. } => Some((lease.lane(), *sequence)),
            Self::Flush { .. } => None,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Record { record: Record::Settle { attempt: Some(attempt), .. }, .. } => {
                attempt.report.as_ref().map_or(0, Vec::len)
            }
            _ => 0,
        }
    }
}

/// The journal of this process. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Journal(Arc<[mpsc::Sender<Entry>]>);

impl Journal {
    /// Starts `writers` writers in `tasks`; they end, with empty queues, when the group stops.
    pub(crate) fn spawn(
        writers: usize,
        owner: Uuid,
        sessions: &Sessions,
        metrics: &IngestMetrics,
        tasks: &TaskGroup,
    ) -> Self {
        let writers = (0..writers.max(1)).map(|_| {
            let (sender, queue) = mpsc::channel(QUEUE);
            let (session, metrics) = (sessions.open_in_order(), metrics.clone());
            let writer = Writer { queue, carry: None, owner, session, is_failing: false, metrics };
            tasks.spawn("journal", |stop| writer.run(stop));
            sender
        });
        Self(writers.collect())
    }

    /// Queues a record; `cursor` is the lane's after it. Must be called in the lane's order of events.
    /// Waits while the queue is full.
    pub(super) async fn record(&self, lease: &Lease, cursor: i64, sequence: i64, record: Record) {
        self.send(Entry::Record { lease: lease.clone(), cursor, sequence, record }).await;
    }

    /// Waits until all that the lane recorded before is durable, and its cursor with it.
    pub(super) async fn flush(&self, lease: &Lease, cursor: i64) {
        if self.begin_flush(lease, cursor).await.await.is_err() {
            lease.lose();
        }
    }

    /// Gives what tells when all that the lane recorded before is durable; fails if that will never be.
    pub(super) async fn begin_flush(&self, lease: &Lease, cursor: i64) -> oneshot::Receiver<()> {
        let (done, is_done) = oneshot::channel();
        self.send(Entry::Flush { lease: lease.clone(), cursor, done }).await;
        is_done
    }

    async fn send(&self, entry: Entry) {
        let lease = entry.lease().clone();
        let writer = &self.0[usize::from(lease.lane().unsigned_abs()) % self.0.len()];
        if writer.send(entry).await.is_err() {
            // The process is ending, and what is not recorded must not go on.
            lease.lose();
        }
    }
}

struct Writer {
    queue: mpsc::Receiver<Entry>,
    /// Taken from the queue, and not fit for the batch that was being collected.
    carry: Option<Entry>,
    owner: Uuid,
    session: Session,
    is_failing: bool,
    metrics: IngestMetrics,
}

impl Writer {
    async fn run(mut self, stop: CancellationToken) -> Result<(), Infallible> {
        loop {
            let first = match self.carry.take() {
                Some(entry) => Some(entry),
                None => tokio::select! {
                    first = self.queue.recv() => first,
                    () = stop.cancelled(), if !self.queue.is_closed() => {
                        self.queue.close();
                        continue;
                    }
                },
            };
            let Some(first) = first else { return Ok(()) };
            let entries = self.collect(first);
            self.write(entries).await;
        }
    }

    /// What has queued; of no event twice, since one transaction must not depend on its own writes.
    fn collect(&mut self, first: Entry) -> Vec<Entry> {
        let (mut entries, mut events, mut bytes) = (Vec::new(), HashSet::new(), 0);
        let mut next = Some(first);
        while let Some(entry) = next.take() {
            if entry.event().is_some_and(|event| !events.insert(event)) {
                self.carry = Some(entry);
                break;
            }
            bytes += entry.bytes();
            entries.push(entry);
            if entries.len() < MAX_ENTRIES && bytes < MAX_BYTES {
                next = self.queue.try_recv().ok();
            }
        }
        entries
    }

    async fn write(&mut self, entries: Vec<Entry>) {
        let mut parts = vec![entries];
        let mut pause = PAUSES.0;
        while let Some(mut entries) = parts.pop() {
            entries.retain(|entry| !entry.lease().is_lost());
            if entries.is_empty() {
                continue;
            }
            let asked = Instant::now();
            let (fences, batch) = rows(&entries);
            failpoint::edge("journal.collected");
            let written = tokio::time::timeout(
                self.session.limit(),
                journal::write(&mut self.session, self.owner, &fences, batch),
            )
            .await
            .unwrap_or(Err(sqlx::Error::PoolTimedOut));
            self.metrics.journaled(asked.elapsed());
            match written {
                Ok(held) => {
                    self.is_failing = false;
                    settle(entries, &held, asked, &self.metrics);
                }
                Err(error) if chatfn_pg::classify(&error).is_transient() => {
                    if !std::mem::replace(&mut self.is_failing, true) {
                        tracing::warn!(
                            "cannot record what became of events; trying again while the leases last: {}",
                            chatfn_pg::error::describe(&error)
                        );
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSES.1);
                    parts.push(entries);
                }
                Err(_) if entries.len() > 1 => {
                    let second = entries.split_off(entries.len() / 2);
                    parts.extend([second, entries]);
                }
                Err(error) => {
                    // A mistake of ours. The lane starts again from what is recorded, which counts the attempt.
                    tracing::error!(
                        lane = entries[0].lease().lane(),
                        "giving a lane up, because an entry cannot be recorded: {}",
                        chatfn_pg::error::describe(&error)
                    );
                    entries[0].lease().lose();
                }
            }
        }
    }
}

/// Tells the lanes what was written.
fn settle(entries: Vec<Entry>, held: &HashSet<i16>, asked: Instant, metrics: &IngestMetrics) {
    for entry in entries {
        let lease = entry.lease();
        if !held.contains(&lease.lane()) {
            if !lease.is_lost() {
                tracing::warn!(lane = lease.lane(), epoch = lease.epoch(), "another replica has the lane");
            }
            lease.lose();
            continue;
        }
        match entry {
            Entry::Record { lease, record: Record::Start { hold, durable, .. }, .. } => {
                lease.extend(asked, hold);
                let _ = durable.send(());
            }
            Entry::Record { record: Record::Intervene { durable, .. }, .. } => {
                let _ = durable.send(());
            }
            Entry::Record { record: Record::Settle { next, .. }, .. } => match next {
                NextRecord::Outcome { state, .. } => metrics.ended(state),
                NextRecord::Park { kind: ParkKind::Halted, .. } => metrics.halted(),
                NextRecord::Park { .. } => {}
            },
            Entry::Record { record: Record::Void { .. }, .. } => {}
            Entry::Flush { done, .. } => {
                let _ = done.send(());
            }
        }
    }
}

/// Entries as rows. The last entry of a lane has its cursor.
fn rows(entries: &[Entry]) -> (Vec<Fence>, Batch) {
    let mut fences: HashMap<i16, Fence> = HashMap::new();
    let mut batch = Batch::default();
    for entry in entries {
        let (lane, epoch) = (entry.lease().lane(), entry.lease().epoch());
        let is_exact = failpoint::mutant("cursor_before_outcome");
        let fence =
            fences.entry(lane).or_insert(Fence { lane, epoch, cursor: 0, is_exact, hold: Duration::ZERO });
        match entry {
            Entry::Flush { cursor, .. } => {
                fence.cursor = *cursor;
                fence.is_exact = true;
            }
            Entry::Record { cursor, sequence, record, .. } => {
                fence.cursor = *cursor;
                if let Record::Start { hold, .. } = record {
                    fence.hold = fence.hold.max(*hold);
                }
                add(&mut batch, (lane, *sequence, epoch), record);
            }
        }
    }
    (fences.into_values().collect(), batch)
}

fn add(batch: &mut Batch, (lane, sequence, epoch): (i16, i64, i64), record: &Record) {
    let signed = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    match record {
        Record::Start { .. } if failpoint::mutant("attempts_in_memory") => {}
        Record::Start { number, .. } => {
            batch.starts.push(Start { lane, sequence, epoch, number: signed(*number) });
        }
        Record::Intervene { is_wanted, .. } => {
            batch.interventions.push(Intervene { lane, sequence, epoch, is_wanted: *is_wanted });
        }
        Record::Void { number } => batch.voids.push(Void { lane, sequence, number: signed(*number) }),
        Record::Settle { attempt, next } => {
            if let Some(attempt) = attempt {
                batch.ends.push(End {
                    lane,
                    sequence,
                    epoch,
                    number: signed(attempt.number),
                    report: attempt.report.clone(),
                    platform_error: attempt.platform_error.map_or("", Reason::name).to_owned(),
                    platform_error_message: storable(&attempt.platform_error_message),
                });
            }
            match next {
                NextRecord::Outcome { state, reason, message, account, accept_time } => {
                    batch.outcomes.push(Outcome {
                        lane,
                        sequence,
                        epoch,
                        state: *state,
                        reason: reason.map_or("", Reason::name).to_owned(),
                        reason_message: storable(message),
                        account: account.clone(),
                        accept_time: *accept_time,
                    });
                }
                NextRecord::Park { kind, reason, message, account, conversation_id, delay } => {
                    batch.parks.push(Park {
                        lane,
                        sequence,
                        kind: *kind,
                        reason: reason.map_or("", Reason::name).to_owned(),
                        reason_message: storable(message),
                        account: account.clone(),
                        conversation_id: conversation_id.clone(),
                        delay: *delay,
                    });
                }
            }
        }
    }
}

/// Postgres has no text with NUL in it, and what a lambda throws may have.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}
