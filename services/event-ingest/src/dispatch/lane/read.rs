//! What a lane reads: what is parked, what comes, and conversations that go on.

use std::{sync::Arc, time::Duration};

use chatfn_rpc::Deadline;
use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::{sync::watch, time::Instant};

use super::{
    super::{
        queue::{CatchUp, Head, Load, Parked, Room},
        recent::{After, Piece},
    },
    Lane,
    event::LaneEvent,
};
use crate::store::{
    journal::ParkKind,
    lanes,
    reading::{self, Ahead, ParkedEvent, PassedOver, Range, Resume, Resumed, StoredEvent},
};

/// Rows of one read, and events of a lane in memory from which on it reads no further: of those that could start, or no event
/// would start before a slow one has ended. So memory is bounded by this, one read, one of reading on, and what the queue
/// keeps behind events that run.
const WINDOW: usize = 256;
/// The same of their bytes.
const READ_BYTES: i64 = 1024 * 1024;
/// Conversations that are read on in together.
const LOADS: usize = 16;
/// The same as [`READ_BYTES`] of reading on in one conversation, apart from its first event.
const LOAD_BYTES: i64 = READ_BYTES / LOADS as i64;
/// Events of one conversation that are looked at in reading on: the same as [`READ_SPAN`] of it.
const LOOKED_AT: i64 = 2000;
/// Sequence numbers that one read covers: bounds the work where most events are finished.
const READ_SPAN: i64 = 10_000;
/// What there is room for, in memory. A place is small.
pub(super) const ROOM: Room =
    Room { places: 16_384, events: WINDOW, bytes: READ_BYTES as usize, ahead: 2 * LOADS, aside: 512 };
/// Pause between two reads for accounts that catch up.
const CATCH_UP_PAUSE: Duration = Duration::from_millis(50);
/// Pause between two looks whose events come next, and events that one looks at.
const LOOK_PAUSE: Duration = Duration::from_millis(500);
const LOOK_ROWS: i64 = 2000;
/// Pause after a failed read before another one.
const READ_PAUSE: Duration = Duration::from_millis(200);

pub(super) type Scanned = (Instant, Result<(Vec<StoredEvent>, i64), sqlx::Error>);
pub(super) type Looked = Result<Ahead, sqlx::Error>;
pub(super) type CaughtUp = Result<PassedOver, sqlx::Error>;
pub(super) type Loaded = (Instant, Vec<Load>, Result<Vec<Resumed>, sqlx::Error>);

/// Reads; a failure is told after a pause, which holds up nothing but the next read.
pub(super) async fn or_pause<T>(
    read: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let read = read.await;
    if read.is_err() {
        tokio::time::sleep(READ_PAUSE).await;
    }
    read
}

impl Lane {
    /// Finds out what earlier owners have left, before anything runs.
    pub(super) async fn take_over(&mut self) {
        // Asked after the take-over: nothing that an earlier owner wrote comes later, and what it had read was recorded before.
        loop {
            let reads = &self.shared.reads;
            match or_pause(reads.ask(lanes::head(reads.pool(), self.lease.lane()))).await {
                Ok(head) => {
                    self.fresh_from = head;
                    break;
                }
                Err(error) => self.read_failed(&error),
            }
        }
        self.take_parked().await;
    }

    /// Reads what is parked since before the take-over: all of it.
    async fn take_parked(&mut self) {
        let rows = i64::try_from(WINDOW).unwrap_or(i64::MAX);
        let (mut after, mut reopened) = (0, Vec::new());
        loop {
            let (lane, epoch) = (self.lease.lane(), self.lease.epoch());
            let reads = &self.shared.reads;
            match or_pause(reads.ask(reading::parked(reads.pool(), lane, epoch, after, rows))).await {
                Ok(parked) => {
                    self.is_failing = false;
                    let now = Instant::now();
                    let is_last = parked.len() < WINDOW;
                    for event in parked {
                        after = event.sequence;
                        if event.kind == ParkKind::Reopened {
                            reopened.push(event);
                        } else {
                            self.add_parked(event, now);
                        }
                    }
                    if is_last {
                        break;
                    }
                }
                Err(error) => self.read_failed(&error),
            }
        }
        reopened.into_iter().for_each(|event| self.add_parked(event, Instant::now()));
    }

    fn add_parked(&mut self, event: ParkedEvent, now: Instant) {
        let due = Deadline::from_start(now, event.due_in).instant();
        let parked = match event.kind {
            ParkKind::Retry => Parked::Waits(due),
            ParkKind::Halted => Parked::Halted,
            ParkKind::Reopened => Parked::Reopened(due),
        };
        let head = Head {
            sequence: event.sequence,
            attempts: event.attempts,
            died: event.died,
            refusals: 0,
            denials: event.is_denied.into(),
        };
        self.queue.add_parked(Arc::new((event.account, event.conversation_id)), head, parked);
    }

    pub(super) fn read_failed(&mut self, error: &sqlx::Error) {
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::warn!(
                lane = self.lease.lane(),
                "cannot read events of lane {}; trying again: {}",
                self.lease.lane(),
                chatfn_pg::error::describe(error)
            );
        }
    }

    /// Takes what was just recorded here, as far as nothing is missing before it and there is room. Not while a read goes on, which
    /// may be of the same. Gives up to where is to be read.
    pub(super) fn take_recent(&mut self, head: &mut watch::Receiver<i64>) -> i64 {
        // Before the look at what is kept: what is recorded later is looked for later.
        let newest = *head.borrow_and_update() - 1;
        while self.can_read() {
            match self.recent.take(self.queue.read_to(), self.fresh_from) {
                After::Piece(Piece { next, events, begun, .. }) => self.offer(events, next - 1, begun),
                After::Gap(first) => return newest.min(first - 1),
                After::Nothing => break,
            }
        }
        newest
    }

    /// Reads what comes next up to `newest`; `None` if nothing is there, or if there is no room for it.
    pub(super) fn scan(&self, newest: i64) -> Option<BoxFuture<'static, Scanned>> {
        let after = self.queue.read_to();
        if newest <= after || !self.can_read() {
            return None;
        }
        let range = Range {
            lane: self.lease.lane(),
            epoch: self.lease.epoch(),
            after,
            to: newest.min(after + READ_SPAN),
            newest,
            rows: i64::try_from(WINDOW).unwrap_or(i64::MAX),
            bytes: READ_BYTES,
            fresh_from: self.fresh_from,
        };
        let reads = self.shared.reads.clone();
        Some(
            async move { (Instant::now(), or_pause(reads.ask(reading::scan(reads.pool(), range))).await) }
                .boxed(),
        )
    }

    pub(super) fn scanned(&mut self, (asked, scanned): Scanned) {
        match scanned {
            Ok((events, to)) => {
                self.is_failing = false;
                self.offer(events, to, asked);
            }
            Err(error) => self.read_failed(&error),
        }
    }

    /// Looks whose events come next up to `newest`, if there is no room for them.
    pub(super) fn look_ahead(&self, newest: i64) -> Option<BoxFuture<'static, Looked>> {
        let after = self.queue.look_ahead(newest).filter(|_| self.look_at <= Instant::now())?;
        let (reads, lane) = (self.shared.reads.clone(), self.lease.lane());
        let read = async move {
            or_pause(reads.ask(reading::ahead(reads.pool(), lane, after, newest, LOOK_ROWS))).await
        };
        Some(read.boxed())
    }

    pub(super) fn looked_ahead(&mut self, looked: Looked) {
        match looked {
            Ok(Ahead { accounts, looked_to }) => self.queue.looked_ahead(accounts, looked_to),
            Err(error) => self.read_failed(&error),
        }
        self.look_at = Instant::now() + LOOK_PAUSE;
    }

    fn can_read(&self) -> bool {
        self.queue.has_room() && !self.queue.is_full()
    }

    fn offer(&mut self, events: Vec<StoredEvent>, to: i64, asked: Instant) {
        self.queue.offer(events.into_iter().map(|event| LaneEvent::new(event, asked)).collect(), to);
        self.may_be_asked |= std::mem::take(&mut self.is_asked_ahead);
    }

    /// Reads what was passed over of an account, if there is room for it by now.
    pub(super) async fn catch_up(&mut self) -> Option<BoxFuture<'static, CaughtUp>> {
        if self.catch_up_at > Instant::now() || !self.queue.can_catch_up() {
            return None;
        }
        let CatchUp { account, from, to } = self.queue.begin_catch_up()?;
        let part = reading::Part {
            lane: self.lease.lane(),
            from,
            to,
            looked_at: READ_SPAN,
            rows: i64::try_from(WINDOW).unwrap_or(i64::MAX),
        };
        // Outcomes that are on their way must be found.
        let durable = self.shared.journal.begin_flush(&self.lease, self.queue.cursor()).await;
        let (reads, lost) = (self.shared.reads.clone(), self.lease.clone());
        let read = async move {
            if durable.await.is_err() {
                lost.lose();
                lost.lost().await;
            }
            or_pause(reads.ask(reading::passed_over(reads.pool(), &account, part))).await
        };
        Some(read.boxed())
    }

    pub(super) fn caught_up(&mut self, read: CaughtUp) {
        match read {
            Ok(PassedOver { events, looked_to }) => {
                self.is_failing = false;
                let events =
                    events.into_iter().map(|(sequence, account, id)| (sequence, Arc::new((account, id))));
                self.queue.catch_up(events.collect(), looked_to);
            }
            Err(error) => {
                self.queue.give_up_catch_up();
                self.read_failed(&error);
            }
        }
        self.catch_up_at = Instant::now() + CATCH_UP_PAUSE;
    }

    /// Reads on in conversations that are due, or of which not everything was kept.
    pub(super) fn read_on(&mut self) -> Option<BoxFuture<'static, Loaded>> {
        let loads = self.queue.take_loads(Instant::now(), LOADS);
        if loads.is_empty() {
            return None;
        }
        // What there will be no room for is not read, or it would be read again and again.
        let most = 1 + self.queue.room_behind() / loads.len().max(1);
        let wanted: Vec<Resume> = loads
            .iter()
            .map(|load| Resume {
                account: load.conversation.0.clone(),
                conversation_id: load.conversation.1.clone(),
                from: load.from,
                to: load.to,
                looked_at: LOOKED_AT,
                rows: i64::try_from(load.rows.min(most)).unwrap_or(i64::MAX),
                bytes: LOAD_BYTES,
            })
            .collect();
        let (reads, lane, epoch) = (self.shared.reads.clone(), self.lease.lane(), self.lease.epoch());
        let read = async move {
            let asked = Instant::now();
            let found = or_pause(reads.ask_all(2, reading::resume(reads.pool(), lane, epoch, &wanted))).await;
            (asked, loads, found)
        };
        Some(read.boxed())
    }

    pub(super) fn loaded(&mut self, (asked, loads, found): Loaded) {
        match found {
            Ok(found) => {
                self.is_failing = false;
                for (load, Resumed { events, is_complete, looked_to }) in loads.iter().zip(found) {
                    if events.is_empty() && !is_complete {
                        self.queue.found_nothing(load, looked_to);
                        continue;
                    }
                    let events = events.into_iter().map(|event| LaneEvent::new(event, asked)).collect();
                    self.queue.loaded(load, events, is_complete);
                }
            }
            Err(error) => {
                for load in loads {
                    self.queue.put_back(load);
                }
                self.read_failed(&error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_what_failed_is_told_later() {
        let start = Instant::now();
        assert!(or_pause(async { Ok(()) }).await.is_ok());
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert!(or_pause(async { Err::<(), _>(sqlx::Error::PoolTimedOut) }).await.is_err());
        assert!(start.elapsed() >= READ_PAUSE);
    }
}
