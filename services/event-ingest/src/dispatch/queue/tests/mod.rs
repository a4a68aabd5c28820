//! What a queue does, in cases that are worth telling apart; `model` has all the others.

mod aside;
mod loads;
mod model;

use super::*;

#[derive(Debug, Clone, PartialEq)]
struct Event {
    sequence: i64,
    conversation: ConversationKey,
    bytes: usize,
    attempts: u32,
}

impl Event {
    /// Of one of five sizes.
    fn of(sequence: i64, conversation: ConversationKey) -> Self {
        let bytes = usize::try_from(sequence % 5).unwrap() * LARGE + 1;
        Self { sequence, conversation, bytes, attempts: 0 }
    }
}

impl Queued for Event {
    fn sequence(&self) -> i64 {
        self.sequence
    }

    fn conversation(&self) -> ConversationKey {
        self.conversation.clone()
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn head(&self) -> Head {
        head(self.sequence, self.attempts)
    }

    fn remember(&mut self, head: &Head) {
        self.attempts = head.attempts;
    }
}

fn key(number: u8) -> ConversationKey {
    Arc::new((format!("a{}", number % 2).parse().unwrap(), format!("c{number}").parse().unwrap()))
}

fn event(sequence: i64, conversation: u8) -> Event {
    Event::of(sequence, key(conversation))
}

/// So large that not everything finds room behind what runs.
const LARGE: usize = BEHIND_BYTES / 10;

/// Little, so that some of what is read finds none.
const ROOM: Room = Room { places: 4, events: 4, bytes: 8 * LARGE, ahead: 2, aside: 3 };

fn places(places: usize) -> Room {
    Room { places, ..ROOM }
}

/// Whoever it is.
fn all(_: &AccountId) -> bool {
    true
}

fn head(sequence: i64, attempts: u32) -> Head {
    Head { sequence, attempts, died: false, refusals: 0, denials: 0 }
}

#[test]
fn a_waiting_conversation_takes_no_room_and_stops_nobody() {
    let now = Instant::now();
    let mut queue = LaneQueue::new(0, ROOM);
    queue.offer((1..=100).map(|sequence| event(sequence, 0)).collect(), 100);
    assert!(queue.in_memory <= PER_CONVERSATION);
    let first = queue.next_ready(all).unwrap();
    queue.wait(&first.conversation, head(first.sequence, 1), now + Duration::from_secs(60), true);
    assert_eq!((queue.in_memory, queue.bytes_in_memory), (0, 0));
    assert_eq!(queue.cursor(), 100);
    queue.offer(vec![event(101, 1)], 101);
    assert_eq!(queue.next_ready(all).unwrap().sequence, 101);
    assert!(!queue.has_loads(now));
    assert!(queue.has_loads(now + Duration::from_secs(60)));
}

#[test]
fn what_follows_on_slow_events_takes_no_room_from_others_and_is_not_forgotten() {
    let now = Instant::now();
    let mut queue = LaneQueue::new(0, places(100));
    queue.offer((1..=8).map(|sequence| event(sequence, 0)).collect(), 8);
    let slow = queue.next_ready(all).unwrap();
    let kept = queue.in_memory;
    assert!((1..7).contains(&kept), "what came with it is kept as far as there is room: {kept}");
    assert_eq!(queue.may_start(), (0, 0));
    queue.offer((9..=50).map(|sequence| event(sequence, 0)).chain([event(51, 1)]).collect(), 51);
    assert_eq!(queue.may_start(), (1, event(51, 1).bytes()));
    assert!(queue.bytes_in_memory <= BEHIND_BYTES + event(51, 1).bytes());
    assert_eq!(queue.next_ready(all).unwrap().sequence, 51);

    queue.finished(&slow.conversation, 1);
    let mut ran = vec![1];
    loop {
        if let Some(event) = queue.next_ready(all) {
            assert_eq!(queue.may_start(), (0, 0));
            queue.finished(&event.conversation, event.sequence);
            ran.push(event.sequence);
        } else if let Some(load) = queue.take_loads(now, 1).pop() {
            let to = load.to.min(50);
            let found: Vec<_> = (load.from..=to).map(|it| event(it, 0)).take(load.rows).collect();
            queue.loaded(&load, found.clone(), found.len() < load.rows);
        } else {
            break;
        }
    }
    assert_eq!(ran, (1..=50).collect::<Vec<_>>());
    assert_eq!((queue.behind.events, queue.behind.bytes), (0, 0));
}

#[test]
fn many_slow_conversations_have_a_share_of_the_memory_together() {
    let mut queue = LaneQueue::new(0, places(1000));
    // The smallest that there are.
    let event = |n: u8, conversation| event(i64::from(n) * 5, conversation);
    for conversation in 0..20 {
        let first = conversation * 10;
        queue.offer((first..first + 10).map(|n| event(n, conversation)).collect(), i64::from(first + 9) * 5);
        assert!(queue.next_ready(all).is_some());
        assert_eq!(queue.may_start(), (0, 0));
    }
    assert_eq!((queue.in_memory, queue.room_behind()), (BEHIND, 0));
}

#[test]
fn a_halted_conversation_waits_for_an_operator_and_stops_nobody() {
    let now = Instant::now();
    let mut queue = LaneQueue::new(0, ROOM);
    queue.offer(vec![event(1, 0), event(2, 0), event(3, 1)], 3);
    let first = queue.next_ready(all).unwrap();
    queue.halt(&first.conversation, head(1, 3), now);
    assert_eq!(queue.next_ready(all).unwrap().sequence, 3);
    assert!(!queue.has_loads(now + Duration::from_secs(1_000_000)));
    assert!(queue.is_halted_at(&key(0), 1) && !queue.is_halted_at(&key(0), 2));
    queue.resume(&key(0), 2);
    assert!(!queue.has_loads(now), "it is halted at another event");
    queue.resume(&key(0), 1);
    let load = queue.take_loads(now, 1).remove(0);
    assert_eq!((load.from, load.to), (1, 3));
}

#[test]
fn an_account_of_which_everything_is_halted_leaves_places_to_others_and_catches_up() {
    let now = Instant::now();
    let mut queue = LaneQueue::new(0, places(100));
    // Accounts are a0 and a1 by turns.
    queue.offer((0..120).map(|n| event(i64::from(n) + 1, n * 2)).collect(), 120);
    let mut halted = Vec::new();
    while let Some(event) = queue.next_ready(all) {
        queue.halt(&event.conversation, head(event.sequence, 1), now);
        halted.push(event);
    }
    assert_eq!((halted.len(), queue.conversations()), (50, 50), "half of the places");
    assert_eq!(queue.cursor(), 50, "the next owner finds what was passed over");
    queue.offer(vec![event(121, 1), event(122, 200)], 122);
    assert_eq!(queue.next_ready(all).unwrap().sequence, 121, "the other account goes on");
    assert!(queue.next_ready(all).is_none(), "an account does not overtake itself");
    assert!(!queue.can_catch_up());

    for event in &halted[..20] {
        queue.finished(&event.conversation, event.sequence);
    }
    let wanted = queue.begin_catch_up().unwrap();
    assert_eq!((wanted.from, wanted.to), (51, 122));
    assert!(!queue.can_catch_up(), "one at a time");
    let found = (51..=120u8).map(|sequence| (i64::from(sequence), key((sequence - 1) * 2)));
    queue.catch_up(found.chain([(122, key(200))]).collect(), 122);
    let loads = queue.take_loads(now, usize::MAX);
    assert_eq!(loads.iter().map(|load| load.from).collect::<Vec<_>>(), (51..=70).collect::<Vec<_>>());
    assert_eq!(queue.cursor(), 50);
}

#[test]
fn an_event_that_is_taken_up_again_while_its_conversation_is_read_is_not_forgotten() {
    let now = Instant::now();
    let mut queue: LaneQueue<Event> = LaneQueue::new(3, ROOM);
    queue.add_parked(key(0), head(1, 1), Parked::Halted);
    queue.finished(&key(0), 1);
    let load = queue.take_loads(now, 1).remove(0);
    assert_eq!((load.from, load.to), (2, 3));
    // The store was read before this was durable.
    queue.reopen(&key(0), 3);
    queue.loaded(&load, Vec::new(), true);
    let load = queue.take_loads(now, 1).remove(0);
    assert_eq!((load.from, load.to), (3, 3));
}

#[test]
fn what_the_lane_has_not_been_read_to_is_not_read_by_conversation() {
    let now = Instant::now();
    let mut queue = LaneQueue::new(0, ROOM);
    queue.offer(vec![event(1, 0)], 1);
    let first = queue.next_ready(all).unwrap();
    queue.wait(&first.conversation, head(1, 1), now, true);
    let load = queue.take_loads(now, 1).remove(0);
    assert_eq!((load.from, load.to, load.rows), (1, 1, 1));
    // As many as were wanted: whether there are more is not known.
    queue.loaded(&load, vec![event(1, 0)], false);
    let first = queue.next_ready(all).unwrap();
    queue.finished(&first.conversation, 1);
    // Else an event after it would run, and be offered again by the next read, before its outcome is durable.
    assert!(!queue.has_loads(now));
    assert_eq!(queue.cursor(), 1);
}

#[test]
fn what_waits_for_a_detour_takes_no_room() {
    let now = Instant::now();
    let mut queue = LaneQueue::new(1, ROOM);
    let event = |sequence| event(sequence, 0);
    queue.offer((2..=6).map(event).collect(), 6);
    let running = queue.next_ready(all).unwrap();
    assert_eq!((running.sequence, queue.in_memory), (2, 4));
    queue.reopen(&key(0), 1);
    queue.finished(&key(0), 2);
    // Nothing is loaded without room, and what is in memory goes only when the detour is over.
    assert_eq!((queue.in_memory, queue.bytes_in_memory), (0, 0));
    let load = queue.take_loads(now, 1).remove(0);
    assert_eq!((load.from, load.to), (1, 1));
    queue.loaded(&load, vec![event(1)], true);
    assert_eq!(queue.next_ready(all).unwrap().sequence, 1);
    queue.finished(&key(0), 1);
    let load = queue.take_loads(now, 1).remove(0);
    assert_eq!((load.from, load.to), (3, 6));
    queue.loaded(&load, (3..=6).map(event).collect(), true);
    for sequence in 3..=6 {
        assert_eq!(queue.next_ready(all).unwrap().sequence, sequence);
        queue.finished(&key(0), sequence);
    }
    assert_eq!((queue.cursor(), queue.conversations()), (6, 0));
}
