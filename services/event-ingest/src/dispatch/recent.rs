//! What this process has just recorded, for the lanes that run here: what is still at hand need not be read from the store.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chatfn_domain::lane::LANES;
use tokio::time::Instant;

use crate::store::reading::StoredEvent;

/// Events that are kept of a lane. What comes when it has as many is read from the store, a good many at a time.
const MAX_EVENTS: usize = 256;
/// Bytes of their payloads and headers.
const MAX_BYTES: usize = 256 * 1024;

/// Events of one transaction in one lane.
#[derive(Debug)]
pub(crate) struct Piece {
    /// Sequence numbers that the transaction took: from this one …
    pub(crate) first: i64,
    /// … to before this one. Those that are no event's in `events` are no event's at all.
    pub(crate) next: i64,
    /// All that was recorded there, in its order, none with an outcome.
    pub(crate) events: Vec<StoredEvent>,
    /// Before the transaction began: what the events know of their age and time left is counted from here.
    pub(crate) begun: Instant,
}

/// Keeps, of each lane that is followed, what was recorded last. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Recent(Arc<[Mutex<Option<Pieces>>]>);

#[derive(Debug, Default)]
struct Pieces {
    /// By sequence number, without overlaps.
    pieces: VecDeque<Piece>,
    events: usize,
    bytes: usize,
}

/// A lane that is followed, until dropped.
#[derive(Debug)]
pub(crate) struct Following {
    recent: Recent,
    lane: i16,
}

/// What there is after a sequence number.
#[derive(Debug)]
pub(crate) enum After {
    /// Exactly this.
    Piece(Piece),
    /// What is kept begins with this sequence number: what comes before must be read.
    Gap(i64),
    /// Nothing is kept.
    Nothing,
}

impl Recent {
    /// Nothing is followed.
    pub(crate) fn new() -> Self {
        Self((0..LANES).map(|_| Mutex::new(None)).collect())
    }

    /// Keeps what is recorded in a lane from now on. A lane has one follower: its owner.
    pub(crate) fn follow(&self, lane: i16) -> Following {
        if let Some(mut pieces) = self.lock(lane) {
            *pieces = Some(Pieces::default());
        }
        Following { recent: self.clone(), lane }
    }

    /// Whether what is recorded in the lane now would be kept.
    pub(crate) fn wants(&self, lane: i16) -> bool {
        self.lock(lane).is_some_and(|pieces| {
            pieces.as_ref().is_some_and(|pieces| pieces.events < MAX_EVENTS && pieces.bytes < MAX_BYTES)
        })
    }

    /// Keeps events that are durable, if somebody follows and there is room. Pieces of a lane come in their order, as its
    /// transactions do.
    pub(crate) fn push(&self, lane: i16, piece: Piece) {
        let Some(mut pieces) = self.lock(lane) else { return };
        let Some(pieces) = pieces.as_mut() else { return };
        let (events, bytes) = size(&piece);
        let has_room = pieces.events + events <= MAX_EVENTS && pieces.bytes + bytes <= MAX_BYTES;
        let is_next = pieces.pieces.back().is_none_or(|last| last.next <= piece.first);
        if has_room && is_next {
            pieces.events += events;
            pieces.bytes += bytes;
            pieces.pieces.push_back(piece);
        }
    }

    fn lock(&self, lane: i16) -> Option<MutexGuard<'_, Option<Pieces>>> {
        let pieces = self.0.get(usize::try_from(lane).ok()?)?;
        // Nothing under the lock panics half-way.
        Some(pieces.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Following {
    /// Takes what comes right after sequence number `after`. What it has passed is forgotten; so is what was recorded before
    /// `fresh_from`, when the lane had another owner, and was only told of since: that one may have begun with it.
    pub(crate) fn take(&self, after: i64, fresh_from: i64) -> After {
        let Some(mut pieces) = self.recent.lock(self.lane) else { return After::Nothing };
        let Some(pieces) = pieces.as_mut() else { return After::Nothing };
        while let Some(piece) = pieces.pieces.front() {
            let is_ahead = piece.next - 1 > after && piece.first >= fresh_from;
            if is_ahead && piece.first > after + 1 {
                return After::Gap(piece.first);
            }
            let (events, bytes) = size(piece);
            pieces.events -= events;
            pieces.bytes -= bytes;
            let Some(mut piece) = pieces.pieces.pop_front() else { break };
            if is_ahead {
                // A part of it may have been read meanwhile.
                piece.events.retain(|event| event.sequence > after);
                return After::Piece(piece);
            }
        }
        After::Nothing
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        if let Some(mut pieces) = self.recent.lock(self.lane) {
            *pieces = None;
        }
    }
}

fn size(piece: &Piece) -> (usize, usize) {
    let bytes = |event: &StoredEvent| event.payload.len() + event.headers.as_ref().map_or(0, Vec::len);
    (piece.events.len(), piece.events.iter().map(bytes).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{store::Time, testing::new_event};

    fn event(sequence: i64, payload: usize) -> StoredEvent {
        let mut event = new_event("a", &sequence.to_string(), vec![b' '; payload]);
        StoredEvent::new(&mut event, sequence, Time::from_micros(0), Time::from_micros(0))
    }

    fn piece(first: i64, next: i64) -> Piece {
        let events = (first..next).map(|sequence| event(sequence, 1)).collect();
        Piece { first, next, events, begun: Instant::now() }
    }

    fn sequences(after: After) -> Vec<i64> {
        match after {
            After::Piece(piece) => piece.events.iter().map(|event| event.sequence).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_follows_is_taken_and_what_is_missing_is_told() {
        let recent = Recent::new();
        recent.push(3, piece(1, 4));
        assert!(!recent.wants(3), "nobody follows");
        let following = recent.follow(3);
        assert!(matches!(following.take(0, 0), After::Nothing), "from before");
        // Another replica records 13 and 14.
        [piece(10, 13), piece(15, 16)].into_iter().for_each(|piece| recent.push(3, piece));
        assert!(matches!(following.take(8, 0), After::Gap(10)));
        assert_eq!(sequences(following.take(9, 0)), [10, 11, 12]);
        assert!(matches!(following.take(12, 0), After::Gap(15)));
        assert_eq!(sequences(following.take(14, 0)), [15]);
        assert!(matches!(following.take(15, 0), After::Nothing));
        assert!(!recent.wants(4));
        drop(following);
        assert!(!recent.wants(3));
    }

    #[test]
    fn what_was_read_meanwhile_does_not_come_again() {
        let recent = Recent::new();
        let following = recent.follow(0);
        [piece(1, 3), piece(3, 6), piece(6, 8)].into_iter().for_each(|piece| recent.push(0, piece));
        assert_eq!(sequences(following.take(4, 0)), [5]);
        assert!(matches!(following.take(7, 0), After::Nothing));
    }

    #[test]
    fn what_an_earlier_owner_may_have_begun_with_is_read() {
        let recent = Recent::new();
        let following = recent.follow(0);
        [piece(1, 4), piece(4, 6)].into_iter().for_each(|piece| recent.push(0, piece));
        assert!(matches!(following.take(0, 4), After::Gap(4)));
        assert_eq!(sequences(following.take(3, 4)), [4, 5]);
    }

    #[test]
    fn it_is_bounded_and_goes_on_after_it_was_full() {
        let recent = Recent::new();
        let following = recent.follow(0);
        (0..300).for_each(|n| recent.push(0, piece(n, n + 1)));
        assert!(!recent.wants(0));
        let taken = (0..300).map_while(|n| match following.take(n - 1, 0) {
            After::Piece(piece) => Some(piece.events.len()),
            _ => None,
        });
        assert_eq!(taken.sum::<usize>(), MAX_EVENTS);
        recent.push(0, Piece { events: vec![event(300, MAX_BYTES + 1)], ..piece(300, 301) });
        assert!(matches!(following.take(299, 0), After::Nothing), "too large");
        recent.push(0, piece(301, 302));
        assert!(matches!(following.take(299, 0), After::Gap(301)));
    }
}
