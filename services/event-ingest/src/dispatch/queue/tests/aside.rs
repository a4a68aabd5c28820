//! Accounts that are set aside.

use super::*;

const ROOM: Room = Room { places: 100, events: 16, bytes: 1600, ahead: 4, aside: 32 };

/// An event, the only one of its conversation.
fn event(account: &str, sequence: i64) -> Event {
    let conversation = Arc::new((account.parse().unwrap(), format!("c{sequence}").parse().unwrap()));
    Event { sequence, conversation, bytes: 1, attempts: 0 }
}

fn offer(queue: &mut LaneQueue<Event>, account: &str, sequences: std::ops::RangeInclusive<i64>) {
    let to = *sequences.end();
    queue.offer(sequences.map(|sequence| event(account, sequence)).collect(), to);
}

/// Loads what may be, as often as that is something; gives how many.
fn load(queue: &mut LaneQueue<Event>) -> usize {
    let mut loaded = 0;
    loop {
        let loads = queue.take_loads(Instant::now(), 2);
        if loads.is_empty() {
            return loaded;
        }
        for load in loads {
            let found = event(load.conversation.0.as_str(), load.from);
            queue.loaded(&load, vec![found], true);
            loaded += 1;
        }
    }
}

/// Runs what is ready, of whoever it is, and loads what may be; gives their numbers.
fn run_all(queue: &mut LaneQueue<Event>) -> Vec<i64> {
    let mut ran = Vec::new();
    load(queue);
    while let Some(event) = queue.next_ready(|_| true) {
        ran.push(event.sequence);
        queue.finished(&event.conversation, event.sequence);
        load(queue);
    }
    ran
}

#[test]
fn an_account_with_more_than_there_is_room_for_leaves_room_and_keeps_its_order() {
    let mut queue = LaneQueue::new(0, ROOM);
    offer(&mut queue, "hog", 1..=16);
    assert!(queue.set_aside(|_| false));
    assert_eq!((queue.may_start().0, queue.cursor()), (8, 0));
    offer(&mut queue, "hog", 17..=20);
    assert_eq!(queue.may_start().0, 8, "what comes of it takes no room");
    assert_eq!(load(&mut queue), 0, "it is not its turn");
    offer(&mut queue, "other", 21..=22);
    assert_eq!(queue.may_start().0, 10, "of the others, it does");
    let ran = run_all(&mut queue);
    assert_eq!(ran[..4], [1, 21, 2, 22]);
    assert_eq!(ran[4..], (3..=20).collect::<Vec<_>>());
    assert_eq!((queue.cursor(), queue.conversations(), queue.aside.len()), (22, 0, 0));
    offer(&mut queue, "hog", 23..=24);
    assert_eq!(queue.may_start().0, 2, "that is over");
}

#[test]
fn what_is_large_counts_and_attempts_are_not_forgotten() {
    let mut queue = LaneQueue::new(0, ROOM);
    offer(&mut queue, "small", 1..=10);
    let large = (11..=14).map(|sequence| Event { bytes: 400, attempts: 3, ..event("large", sequence) });
    queue.offer(large.collect(), 14);
    assert!(queue.set_aside(|_| false));
    assert_eq!(queue.may_start(), (12, 810));
    let attempts: Vec<_> = std::iter::from_fn(|| {
        load(&mut queue);
        let event = queue.next_ready(|account| account.as_str() == "large")?;
        queue.finished(&event.conversation, event.sequence);
        Some((event.sequence, event.attempts))
    })
    .collect();
    assert_eq!(attempts, [(11, 3), (12, 3), (13, 3), (14, 3)]);
}

/// A lane with conversations of so many accounts, of which one event each waits to run, as `Pending` has it.
struct Lane {
    queue: LaneQueue<Event>,
    pending: BTreeMap<AccountId, Event>,
    loaded: usize,
    ran: i64,
}

impl Lane {
    /// Runs the pending event of one of the accounts.
    fn run(&mut self, which: usize) {
        let Some(account) = self.pending.keys().nth(which % self.pending.len().max(1)).cloned() else {
            return;
        };
        let event = self.pending.remove(&account).unwrap();
        self.ran += 1;
        self.queue.finished(&event.conversation, event.sequence);
        self.settle(false);
    }

    /// What a lane does by itself until it has to wait.
    fn settle(&mut self, is_more: bool) {
        for _ in 0..1_000 {
            while let Some(event) = self.queue.next_ready(|account| !self.pending.contains_key(account)) {
                self.pending.insert(event.conversation.0.clone(), event);
            }
            self.queue.make_room(is_more, true, |account| self.pending.contains_key(account));
            let loads =
                if self.queue.has_room() { self.queue.take_loads(Instant::now(), 16) } else { Vec::new() };
            if loads.is_empty() {
                return;
            }
            for load in loads {
                self.loaded += 1;
                let conversation = load.conversation.clone();
                let found =
                    Event { sequence: load.from, conversation, bytes: load_bytes(load.from), attempts: 0 };
                self.queue.loaded(&load, vec![found], true);
            }
        }
        panic!("it never comes to rest: {} loads", self.loaded);
    }
}

fn load_bytes(sequence: i64) -> usize {
    usize::try_from(sequence % 7).unwrap() * 60
}

#[test]
fn what_is_loaded_is_not_set_aside_for_what_is_loaded() {
    for accounts in 1..60 {
        let room = Room { places: 10_000, events: 64, bytes: 64 * 200, ahead: 8, aside: 100 };
        let mut lane = Lane { queue: LaneQueue::new(0, room), pending: BTreeMap::new(), loaded: 0, ran: 0 };
        let mut sequence = 0;
        // As much as there is room for, until there is no more.
        while sequence < accounts * 20 {
            let next = format!("a{}", (sequence + 1) % accounts).parse().unwrap();
            lane.queue.looked_ahead(vec![(next, sequence + 1)], sequence + 1);
            lane.settle(true);
            if !lane.queue.has_room() {
                // Nothing is read before something runs.
                lane.run(0);
                continue;
            }
            while lane.queue.has_room() && sequence < accounts * 20 {
                sequence += 1;
                let event = event(&format!("a{}", sequence % accounts), sequence);
                lane.queue.offer(vec![Event { bytes: load_bytes(sequence), ..event }], sequence);
            }
        }
        lane.settle(false);
        // The accounts in turn, as the gate has them.
        while !lane.pending.is_empty() {
            for turn in 0..lane.pending.len() {
                lane.run(turn);
            }
        }
        let ran = lane.ran;
        assert_eq!((ran, lane.queue.conversations()), (accounts * 20, 0), "of {accounts} accounts");
        assert!(lane.loaded as i64 <= 2 * ran, "{} loads for {ran} events of {accounts}", lane.loaded);
    }
}

/// Or accounts with large events whose runs hang would shut out all others.
#[test]
fn what_could_start_next_is_set_aside_behind_a_pending_event() {
    let mut queue = LaneQueue::new(0, ROOM);
    let accounts = ["a", "b", "c", "d"];
    let large = |(sequence, account): (i64, &&str)| Event { bytes: 400, ..event(account, sequence) };
    queue.offer((1..).zip(&accounts).map(large).collect(), 4);
    let first: Vec<_> = std::iter::from_fn(|| queue.next_ready(|_| true)).collect();
    queue.offer((5..).zip(&accounts).map(large).collect(), 8);
    queue.looked_ahead(vec![("other".parse().unwrap(), 9)], 9);
    queue.make_room(true, true, |_| false);
    assert!(!queue.has_room(), "each is the next of its account");
    let is_pending = |account: &AccountId| accounts.contains(&account.as_str());
    queue.make_room(true, true, is_pending);
    assert_eq!(queue.may_start(), (3, 1200));
    assert_eq!(load(&mut queue), 0, "or the others' room would be taken again");
    offer(&mut queue, "other", 9..=9);
    let is_aside = |account: &str| queue.all_aside.contains(&account.parse().unwrap());
    let aside = accounts.iter().position(|account| is_aside(account)).unwrap();
    queue.finished(&first[aside].conversation, first[aside].sequence);
    queue.make_room(true, true, |account| is_pending(account) && account.as_str() != accounts[aside]);
    assert_eq!(load(&mut queue), 1, "it is its turn");
    let mut ran = run_all(&mut queue);
    ran.sort();
    assert_eq!(ran, (5..=9).collect::<Vec<_>>());
}

#[test]
fn what_follows_in_a_conversation_is_set_aside_too() {
    let mut queue = LaneQueue::new(0, ROOM);
    let of_one = |sequence| Event {
        bytes: 400,
        ..Event { conversation: event("hog", 1).conversation, ..event("hog", sequence) }
    };
    queue.offer((1..=4).map(of_one).collect(), 4);
    assert!(!queue.has_room());
    queue.make_room(true, true, |_| false);
    assert!(!queue.has_room(), "nobody needs it");
    queue.looked_ahead(vec![("hog".parse().unwrap(), 5), ("other".parse().unwrap(), 6)], 6);
    queue.make_room(true, true, |account| account.as_str() == "other");
    assert!(!queue.has_room(), "nobody needs it");
    queue.make_room(true, true, |_| false);
    assert_eq!(queue.may_start(), (1, 400), "the event whose turn it is");
    for sequence in 1..=4 {
        let event = queue.next_ready(|_| true).unwrap();
        assert_eq!(event.sequence, sequence);
        queue.finished(&event.conversation, sequence);
        for load in queue.take_loads(Instant::now(), 16) {
            queue.loaded(&load, vec![of_one(load.from)], load.from == 4);
        }
    }
    assert_eq!(queue.conversations(), 0);
}

/// Or what came first might wait for ever.
#[test]
fn what_is_set_aside_again_comes_before_what_came_later() {
    let mut queue = LaneQueue::new(0, ROOM);
    offer(&mut queue, "hog", 1..=16);
    assert!(queue.set_aside(|_| false) && queue.set_aside(|_| false));
    offer(&mut queue, "hog", 17..=20);
    assert_eq!(run_all(&mut queue), (1..=20).collect::<Vec<_>>());
}

#[test]
fn what_is_far_from_its_turn_is_passed_over_and_found_again() {
    let mut queue = LaneQueue::new(0, ROOM);
    offer(&mut queue, "hog", 1..=16);
    assert!(queue.set_aside(|_| false));
    offer(&mut queue, "hog", 17..=56);
    assert_eq!((queue.conversations(), queue.cursor()), (8 + 32, 0));
    assert!(!queue.can_catch_up());
    let mut ran = Vec::new();
    while !queue.can_catch_up() {
        let event = queue.next_ready(|_| true).unwrap();
        ran.push(event.sequence);
        queue.finished(&event.conversation, event.sequence);
        load(&mut queue);
    }
    assert!(ran.len() >= 16, "not for each that has run: {}", ran.len());
    let wanted = queue.begin_catch_up().unwrap();
    assert_eq!((wanted.from, wanted.to), (41, 56));
    queue.catch_up((41..=56).map(|n| (n, event("hog", n).conversation)).collect(), 56);
    ran.extend(run_all(&mut queue));
    assert_eq!(ran, (1..=56).collect::<Vec<_>>());
    assert_eq!((queue.cursor(), queue.conversations()), (56, 0));
}
