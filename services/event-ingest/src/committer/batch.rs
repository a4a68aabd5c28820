//! Events that are recorded together.

use std::{
    collections::{BTreeMap, HashMap},
    iter,
};

use chatfn_domain::name::{AccountId, EventId};
use chatfn_rpc::ApiError;
use tokio::time::Instant;

use super::{Answer, Waiting};
use crate::{
    dispatch::{Heads, Piece},
    event::NewEvent,
    metrics::IngestMetrics,
    store::{
        events::{Earlier, Inserted, Recorded},
        reading::StoredEvent,
    },
};

/// Events that are recorded in one transaction, each id once: the publications of one id in a batch form
/// a group, of which the first is recorded and the others are compared with what was.
#[derive(Default)]
pub(super) struct Batch {
    groups: Vec<Group>,
    by_id: HashMap<(AccountId, EventId), usize>,
    rows: usize,
    bytes: usize,
}

struct Group {
    first: Waiting,
    others: Vec<Waiting>,
}

impl Batch {
    pub(super) fn add(&mut self, waiting: Waiting) {
        self.rows += 1;
        self.bytes += waiting.event.size();
        let id = (waiting.event.account.clone(), waiting.event.event_id.clone());
        match self.by_id.get(&id) {
            Some(group) => self.groups[*group].others.push(waiting),
            None => {
                self.by_id.insert(id, self.groups.len());
                self.groups.push(Group { first: waiting, others: Vec::new() });
            }
        }
    }

    /// Publications, repeated ids included.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Memory that the events take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of events to record.
    pub(super) fn len(&self) -> usize {
        self.groups.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The events to record.
    pub(super) fn events(&self) -> Vec<&NewEvent> {
        self.groups.iter().map(|group| &group.first.event).collect()
    }

    /// Splits off the second half.
    pub(super) fn split(&mut self) -> Self {
        let groups = self.groups.split_off(self.groups.len() / 2);
        // The index only serves adding, which is over.
        Self { groups, ..Self::default() }
    }

    /// Tells the lanes what was recorded in them; gives them the events that they take, so that these are not read again.
    /// The transaction began at `begun`, or a little later.
    pub(super) fn hand_on(&mut self, inserted: &Inserted, begun: Instant, heads: &Heads) {
        let mut pieces: BTreeMap<i16, Piece> = BTreeMap::new();
        for (lane, taken) in &inserted.lanes {
            // Which of them were suppressed, only the store knows.
            if inserted.suppressed == 0 && heads.takes_events(*lane) {
                pieces
                    .insert(*lane, Piece { first: taken.start, next: taken.end, events: Vec::new(), begun });
            } else {
                heads.ring(*lane, taken.end);
            }
        }
        for (group, recorded) in self.groups.iter_mut().zip(&inserted.recorded) {
            if let Recorded::New { sequence } = *recorded
                && let Some(piece) = pieces.get_mut(&group.first.event.lane())
            {
                piece.events.push(StoredEvent::new(
                    &mut group.first.event,
                    sequence,
                    inserted.accept_time,
                    inserted.began,
                ));
            }
        }
        for (lane, piece) in pieces {
            heads.recorded(lane, piece);
        }
    }

    /// Answers everybody from what was recorded, given in the order of [`Batch::events`].
    pub(super) fn settle(self, recorded: &[Recorded], metrics: &IngestMetrics) {
        for (group, recorded) in self.groups.into_iter().zip(recorded) {
            let (sequence, hash, is_new) = match recorded {
                Recorded::New { sequence } => (*sequence, group.first.event.hash, true),
                Recorded::Existing(Earlier { sequence, hash }) => (*sequence, *hash, false),
            };
            let answer = |Waiting { event, since, .. }: &Waiting, duplicate: bool| {
                let of = Earlier { sequence, hash };
                super::answer(event, of, duplicate, since.elapsed(), metrics)
            };
            let first = answer(&group.first, !is_new);
            send(group.first, first);
            for other in group.others {
                let answered = answer(&other, true);
                send(other, answered);
            }
        }
    }

    /// Everything in it that is to be answered.
    pub(super) fn into_waiting(self) -> impl Iterator<Item = Waiting> {
        self.groups.into_iter().flat_map(|group| iter::once(group.first).chain(group.others))
    }

    /// Answers everybody with `error`.
    pub(super) fn fail(self, error: &ApiError) {
        self.into_waiting().for_each(|waiting| send(waiting, Err(error.clone())));
    }
}

pub(super) fn send(waiting: Waiting, answer: Answer) {
    // Before the answer: whoever has it may count on the room.
    drop(waiting.room);
    // A caller that has gone away needs no answer.
    let _ = waiting.answer.send(answer);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{
        super::{
            Pending,
            queue::{Queue, Turnstile},
        },
        *,
    };
    use crate::{config::CommitterConfig, dispatch::After, store::Time, testing::new_event};

    fn event(n: usize) -> NewEvent {
        let deliver_by = Some(Time::from_micros(3_000_000));
        NewEvent { deliver_by, ..new_event("a", &n.to_string(), n.to_string().into_bytes()) }
    }

    /// Three events of a lane, the second of which was recorded before.
    fn batch() -> (Batch, i16, Inserted) {
        let queue = Queue::new(&CommitterConfig { committers: 1, ..CommitterConfig::default() });
        let events: Vec<_> = (0..3).map(event).collect();
        let lane = events[0].lane();
        let account = events[0].account.clone();
        assert!(queue.push(&account, events, None).is_ok());
        let turnstile = Turnstile::new(Arc::clone(&queue), 0);
        let mut batch = Batch::default();
        std::iter::from_fn(|| turnstile.next()).for_each(|waiting| batch.add(waiting));
        let recorded = vec![
            Recorded::New { sequence: 10 },
            Recorded::Existing(Earlier { sequence: 4, hash: [0; 32] }),
            Recorded::New { sequence: 12 },
        ];
        let accept_time = Time::from_micros(1_000_000);
        (
            batch,
            lane,
            // It waited for the lane for half a second.
            Inserted {
                recorded,
                lanes: BTreeMap::from([(lane, 10..13)]),
                suppressed: 0,
                accept_time,
                began: Time::from_micros(500_000),
            },
        )
    }

    #[tokio::test]
    async fn what_was_recorded_is_handed_on_and_told() {
        let (mut batch, lane, inserted) = batch();
        let heads = Heads::new();
        let (kept, head) = (heads.keep(lane), heads.follow(lane).unwrap());
        batch.hand_on(&inserted, Instant::now(), &heads);
        assert_eq!(*head.borrow(), 13);
        let After::Piece(piece) = kept.take(9, 0) else { panic!("it was handed on") };
        assert_eq!((piece.first, piece.next), (10, 13));
        let of: Vec<_> = piece.events.iter().map(|it| (it.sequence, it.payload.as_slice())).collect();
        assert_eq!(of, [(10, b"0".as_slice()), (12, b"2".as_slice())]);
        assert_eq!(piece.events[0].deliver_within, Some(std::time::Duration::from_millis(2500)));
    }

    #[tokio::test]
    async fn a_committer_that_is_dropped_says_of_what_it_has_taken_that_it_may_be_recorded() {
        let queue = Queue::new(&CommitterConfig { committers: 1, ..CommitterConfig::default() });
        let events: Vec<_> = (0..2).map(event).collect();
        let account = events[0].account.clone();
        let receivers = queue.push(&account, events, None).ok().expect("there is room");
        let turnstile = Turnstile::new(Arc::clone(&queue), 0);
        let mut batch = Batch::default();
        batch.add(turnstile.next().expect("one waits"));
        drop((batch, turnstile));
        let mut reasons = Vec::new();
        for receiver in receivers {
            reasons.push(Pending(receiver).answer().await.expect_err("refused").reason().name());
        }
        assert_eq!(reasons, ["SERVER_DRAINING", "DRAINING"]);
        assert_eq!(queue.in_use(), (0, 0));
    }

    #[tokio::test]
    async fn what_may_be_suppressed_is_told_and_not_handed_on() {
        let (mut batch, lane, inserted) = batch();
        let heads = Heads::new();
        let (kept, head) = (heads.keep(lane), heads.follow(lane).unwrap());
        batch.hand_on(&Inserted { suppressed: 1, ..inserted }, Instant::now(), &heads);
        assert_eq!(*head.borrow(), 13);
        assert!(matches!(kept.take(9, 0), After::Nothing));
    }
}
