//! How far each lane has been published.

use std::time::Duration;

use chatfn_pg::Background;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    per_lane::PerLane,
    recent::{Following, Piece, Recent},
};
use crate::store;

/// Pause between looks while events arrive that other replicas recorded.
const SHORTEST_PAUSE: Duration = Duration::from_millis(2);
/// Pause between looks while nothing happens: how late an event may start that another replica recorded.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// The next free sequence number of every lane, as far as it is known here. All below it are committed.
///
/// This process's own committers tell at once ([`Heads::ring`]); what other replicas record is found by
/// polling one small table, 4 to 500 times a second. There is no NOTIFY: it would cost most of the
/// throughput. Cheap to clone.
///
/// What this process records itself is handed on with it, to lanes that run here.
#[derive(Debug, Clone)]
pub(crate) struct Heads {
    next: PerLane<i64>,
    recent: Recent,
}

impl Heads {
    /// Nothing known yet.
    pub(crate) fn new() -> Self {
        Self { next: PerLane::new(), recent: Recent::new() }
    }

    /// Whether a lane would take what is recorded in it, if it is told of it now by [`Heads::recorded`].
    pub(crate) fn takes_events(&self, lane: i16) -> bool {
        self.recent.wants(lane)
    }

    /// Events were recorded in a lane: makes them, and what is free after them, known. They must be durable.
    pub(crate) fn recorded(&self, lane: i16, piece: Piece) {
        let next = piece.next;
        // First, so that whoever hears the ring finds them.
        self.recent.push(lane, piece);
        self.ring(lane, next);
    }

    /// Keeps what is recorded in a lane from now on, for the lane's owner.
    pub(crate) fn keep(&self, lane: i16) -> Following {
        self.recent.follow(lane)
    }

    /// Makes the next free sequence number of a lane known; gives whether it was news.
    pub(crate) fn ring(&self, lane: i16, next: i64) -> bool {
        self.next.of(lane).is_some_and(|sender| {
            sender.send_if_modified(|current| {
                let news = next > *current;
                if news {
                    *current = next;
                }
                news
            })
        })
    }

    /// Follows the head of a lane.
    pub(crate) fn follow(&self, lane: i16) -> Option<watch::Receiver<i64>> {
        self.next.of(lane).map(watch::Sender::subscribe)
    }

    /// Looks for what other replicas record, until `stop`.
    pub(crate) async fn poll(self, reads: Background, stop: CancellationToken) {
        let mut pause = SHORTEST_PAUSE;
        let mut is_failing = false;
        while !stop.is_cancelled() {
            let looked = tokio::select! {
                looked = reads.ask(store::lanes::heads(reads.pool())) => looked,
                () = stop.cancelled() => return,
            };
            let news = match looked {
                Ok(heads) => {
                    is_failing = false;
                    heads.into_iter().fold(false, |news, (lane, next)| self.ring(lane, next) || news)
                }
                Err(error) => {
                    if !std::mem::replace(&mut is_failing, true) {
                        tracing::warn!(
                            "cannot look for events of other replicas: {}",
                            chatfn_pg::error::describe(&error)
                        );
                    }
                    false
                }
            };
            pause = if news { SHORTEST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
        }
    }
}
