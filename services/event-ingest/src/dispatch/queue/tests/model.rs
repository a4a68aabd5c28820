//! The queue against a model of the store: random arrivals, failures, operators and take-overs. As in the service, what is
//! recorded becomes durable later, in its order; reads see what is durable when they begin, and end later; and a take-over
//! forgets what was not durable.

use proptest::prelude::*;

use super::*;
use crate::testing::cases;

#[derive(Debug, Clone, Copy)]
enum Step {
    Publish(u8),
    /// Begins a scan, or ends the one that has begun.
    Scan(u8),
    /// Begins loads, or ends those that have begun; with `false` they fail.
    Load(bool),
    Take,
    Succeed(u8),
    /// A failed attempt, which parks.
    Fail(u8),
    /// The last failed attempt.
    Halt(u8),
    /// No invoker took it.
    Refuse(u8),
    Resume(u8),
    Skip(u8),
    Reopen(u8),
    /// There is no room left, and maybe an event of each account is pending.
    SetAside(bool),
    /// Begins to catch up, or ends that, over so much of the lane; with zero it fails.
    CatchUp(u8),
    /// So much becomes durable.
    Flush(u8),
    Tick,
    TakeOver,
}

/// Steps from numbers: these are cheaper to generate than steps, by far.
fn step(number: u16) -> Step {
    let [kind, which] = number.to_be_bytes();
    match kind % 53 {
        0..=5 => Step::Publish(which % 9),
        6..=11 => Step::Scan(which % 30 + 1),
        12..=17 => Step::Load(which >= 25),
        18..=23 => Step::Take,
        24..=28 => Step::Succeed(which),
        29..=31 => Step::Fail(which),
        32 | 33 => Step::Halt(which),
        34 => Step::Refuse(which),
        35 | 36 => Step::Resume(which),
        37 => Step::Skip(which),
        38..=40 => Step::Reopen(which),
        41..=43 => Step::Flush(which % 5 + 1),
        44 | 45 => Step::Tick,
        46..=49 => Step::CatchUp(which % 12),
        50 | 51 => Step::SetAside(which >= 25),
        _ => Step::TakeOver,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Retry,
    Halted,
    Reopened,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Write {
    Start,
    Outcome(i64),
    Park(i64, Kind),
    Resume(i64),
    Reopen(i64),
}

/// What is durable.
#[derive(Debug, Clone, Default)]
struct Store {
    /// By sequence number: the conversation, and whether it is unfinished.
    events: BTreeMap<i64, (ConversationKey, bool)>,
    parked: BTreeMap<i64, Kind>,
    cursor: i64,
}

impl Store {
    fn unfinished(&self, from: i64, to: i64) -> impl Iterator<Item = (i64, ConversationKey)> + '_ {
        self.events
            .range(from..=to.max(from))
            .filter(move |(sequence, (_, open))| *open && **sequence <= to)
            .map(|(sequence, (conversation, _))| (*sequence, conversation.clone()))
    }

    /// The promise that a take-over relies on.
    fn check_cursor(&self) {
        for (event, conversation) in self.unfinished(1, self.cursor) {
            let covers = |sequence: &i64| *sequence <= event && self.events[sequence].0 == conversation;
            assert!(
                self.parked.keys().any(covers),
                "{event} is before the cursor {} and not covered",
                self.cursor
            );
        }
    }
}

struct Model {
    store: Store,
    /// What is recorded and not durable, each with the cursor that goes with it.
    journal: VecDeque<(Write, i64)>,
    recorded: usize,
    durable: usize,
    /// Whether an operator's wish is in the journal: the next one waits.
    is_intervening: bool,
    attempts: HashMap<i64, u32>,
    /// What this owner knows: has its outcome, is halted. Forgotten by a take-over, but for what is durable.
    ended: BTreeSet<i64>,
    halted: BTreeSet<i64>,
    /// Was ever taken up again.
    reopened: BTreeSet<i64>,
    /// With how much was recorded when it started.
    running: Vec<(Event, usize)>,
    scan: Option<(Vec<Event>, i64)>,
    loads: Vec<(Load, Vec<Event>, bool)>,
    catch_up: Option<(Vec<(i64, ConversationKey)>, i64)>,
    queue: LaneQueue<Event>,
    now: Instant,
}

impl Model {
    fn new() -> Self {
        Self {
            store: Store::default(),
            journal: VecDeque::new(),
            recorded: 0,
            durable: 0,
            is_intervening: false,
            attempts: HashMap::new(),
            ended: BTreeSet::new(),
            halted: BTreeSet::new(),
            reopened: BTreeSet::new(),
            running: Vec::new(),
            scan: None,
            loads: Vec::new(),
            catch_up: None,
            queue: LaneQueue::new(0, ROOM),
            now: Instant::now(),
        }
    }

    fn head(&self) -> i64 {
        self.store.events.len() as i64
    }

    fn publish(&mut self, conversation: u8) {
        let sequence = self.head() + 1;
        self.store.events.insert(sequence, (key(conversation), true));
    }

    fn read(&self, from: i64, to: i64) -> impl Iterator<Item = Event> + '_ {
        self.store.unfinished(from, to).map(|(sequence, conversation)| {
            let attempts = self.attempts.get(&sequence).copied().unwrap_or_default();
            Event { attempts, ..Event::of(sequence, conversation) }
        })
    }

    fn scan(&mut self, rows: usize) {
        if let Some((events, to)) = self.scan.take() {
            self.queue.offer(events, to);
            return;
        }
        let head = self.head();
        let found: Vec<_> = self.read(self.queue.read_to() + 1, head).take(rows).collect();
        let to = if found.len() == rows { found.last().unwrap().sequence } else { head };
        self.scan = Some((found, to));
    }

    fn load(&mut self, most: usize, succeeds: bool) {
        if !self.loads.is_empty() {
            for (load, events, is_complete) in std::mem::take(&mut self.loads) {
                if succeeds {
                    self.queue.loaded(&load, events, is_complete);
                } else {
                    self.queue.put_back(load);
                }
            }
            return;
        }
        for load in self.queue.take_loads(self.now, most) {
            let mut found: Vec<_> = self
                .read(load.from, load.to)
                .filter(|event| event.conversation == load.conversation)
                .take(load.rows)
                .collect();
            let (mut bytes, rows) = (0, found.len());
            found.retain(|event| {
                let fits = bytes < 12 * LARGE;
                bytes += event.bytes();
                fits
            });
            let is_complete = found.len() == rows && rows < load.rows;
            self.loads.push((load, found, is_complete));
        }
    }

    fn catch_up(&mut self, rows: usize) {
        if let Some((events, looked_to)) = self.catch_up.take() {
            if rows == 0 {
                self.queue.give_up_catch_up();
            } else {
                self.queue.catch_up(events, looked_to);
            }
        } else if let Some(CatchUp { account, from, to }) = self.queue.begin_catch_up() {
            self.flush(usize::MAX);
            let looked = self.store.events.range(from..=to).take(rows + 1);
            let looked_to = looked.last().map_or(to, |(sequence, _)| *sequence);
            let found = self.store.unfinished(from, looked_to).filter(|(_, key)| key.0 == account);
            self.catch_up = Some((found.collect(), looked_to));
        }
    }

    fn record(&mut self, write: Write) {
        self.recorded += 1;
        self.journal.push_back((write, self.queue.cursor()));
    }

    fn flush(&mut self, most: usize) {
        for _ in 0..most {
            let Some((write, cursor)) = self.journal.pop_front() else { return };
            self.durable += 1;
            self.store.cursor = cursor;
            match write {
                Write::Start => {}
                Write::Outcome(sequence) => {
                    self.store.events.get_mut(&sequence).unwrap().1 = false;
                    self.store.parked.remove(&sequence);
                }
                Write::Park(sequence, kind) => {
                    self.store.parked.insert(sequence, kind);
                }
                Write::Resume(sequence) => {
                    self.store.parked.insert(sequence, Kind::Retry);
                }
                Write::Reopen(sequence) => {
                    self.store.events.get_mut(&sequence).unwrap().1 = true;
                    self.store.parked.insert(sequence, Kind::Reopened);
                }
            }
            self.store.check_cursor();
            let conversation = |sequence: i64| self.store.events[&sequence].0.clone();
            match write {
                Write::Resume(sequence) => {
                    self.halted.remove(&sequence);
                    self.queue.resume(&conversation(sequence), sequence);
                    self.is_intervening = false;
                }
                Write::Reopen(sequence) => {
                    self.ended.remove(&sequence);
                    self.reopened.insert(sequence);
                    self.queue.reopen(&conversation(sequence), sequence);
                    self.is_intervening = false;
                }
                _ => {}
            }
        }
    }

    fn take(&mut self) {
        let Some(event) = self.queue.next_ready(all) else { return };
        let same = |sequence: &i64| self.store.events[sequence].0 == event.conversation;
        for (running, _) in &self.running {
            assert_ne!(running.conversation, event.conversation, "two of one conversation run");
        }
        assert!(!self.ended.contains(&event.sequence), "{} runs again after its outcome", event.sequence);
        assert!(!self.halted.iter().any(same), "{} runs in a halted conversation", event.sequence);
        for (earlier, _) in self.store.events.range(..event.sequence) {
            assert!(
                !same(earlier) || self.ended.contains(earlier) || self.reopened.contains(earlier),
                "{} runs before {earlier}",
                event.sequence
            );
        }
        let attempts = self.attempts.entry(event.sequence).or_default();
        assert_eq!(event.attempts, *attempts, "attempts were forgotten");
        *attempts += 1;
        self.record(Write::Start);
        self.running.push((event, self.recorded));
    }

    /// A run that ends: its start is durable, and all that was recorded before.
    fn end_one(&mut self, which: u8) -> Option<Event> {
        let count = self.running.len();
        let (event, started) = (count > 0).then(|| self.running.swap_remove(usize::from(which) % count))?;
        while self.durable < started {
            self.flush(1);
        }
        Some(event)
    }

    fn succeed(&mut self, which: u8) {
        let Some(event) = self.end_one(which) else { return };
        self.ended.insert(event.sequence);
        self.queue.finished(&event.conversation, event.sequence);
        self.record(Write::Outcome(event.sequence));
    }

    fn fail(&mut self, which: u8) {
        let Some(event) = self.end_one(which) else { return };
        let due = self.now + Duration::from_secs(1);
        self.queue.wait(&event.conversation, head(event.sequence, self.attempts[&event.sequence]), due, true);
        self.record(Write::Park(event.sequence, Kind::Retry));
    }

    fn halt(&mut self, which: u8) {
        let Some(event) = self.end_one(which) else { return };
        self.halted.insert(event.sequence);
        let attempts = self.attempts[&event.sequence];
        self.queue.halt(&event.conversation, head(event.sequence, attempts), self.now);
        self.record(Write::Park(event.sequence, Kind::Halted));
    }

    fn refuse(&mut self, which: u8) {
        let Some(event) = self.end_one(which) else { return };
        *self.attempts.get_mut(&event.sequence).unwrap() -= 1;
        let due = self.now + Duration::from_secs(1);
        self.queue.wait(&event.conversation, head(event.sequence, event.attempts), due, false);
    }

    /// One of the events that satisfy `may` and that reading has passed, unless an operator's wish is on its way.
    fn pick(&self, which: u8, may: impl Fn(&i64) -> bool) -> Option<(i64, ConversationKey)> {
        let read_to = self.queue.read_to();
        let found: Vec<i64> = self.store.events.range(..=read_to).map(|(it, _)| *it).filter(may).collect();
        let picked =
            (!found.is_empty() && !self.is_intervening).then(|| found[usize::from(which) % found.len()])?;
        Some((picked, self.store.events[&picked].0.clone()))
    }

    fn is_halted(&self, sequence: i64) -> bool {
        self.store.parked.get(&sequence) == Some(&Kind::Halted) && self.halted.contains(&sequence)
    }

    fn resume(&mut self, which: u8) {
        let Some((sequence, conversation)) = self.pick(which, |it| self.is_halted(*it)) else { return };
        assert!(self.queue.is_halted_at(&conversation, sequence));
        self.is_intervening = true;
        self.record(Write::Resume(sequence));
    }

    fn skip(&mut self, which: u8) {
        let Some((sequence, conversation)) = self.pick(which, |it| self.is_halted(*it)) else { return };
        assert!(self.queue.is_halted_at(&conversation, sequence));
        self.halted.remove(&sequence);
        self.ended.insert(sequence);
        self.queue.finished(&conversation, sequence);
        self.record(Write::Outcome(sequence));
    }

    fn reopen(&mut self, which: u8) {
        let Some((sequence, _)) = self.pick(which, |it| !self.store.events[it].1) else { return };
        self.is_intervening = true;
        self.record(Write::Reopen(sequence));
    }

    fn take_over(&mut self) {
        self.journal.clear();
        self.durable = self.recorded;
        self.is_intervening = false;
        self.running.clear();
        self.scan = None;
        self.loads.clear();
        self.catch_up = None;
        self.ended = self.store.events.iter().filter(|(_, (_, open))| !open).map(|(it, _)| *it).collect();
        self.halted =
            self.store.parked.iter().filter(|(_, kind)| **kind == Kind::Halted).map(|(it, _)| *it).collect();
        self.queue = LaneQueue::new(self.store.cursor, ROOM);
        for later in [false, true] {
            for (sequence, kind) in &self.store.parked {
                let parked = match kind {
                    Kind::Retry => Parked::Waits(self.now),
                    Kind::Halted => Parked::Halted,
                    Kind::Reopened => Parked::Reopened(self.now),
                };
                if (*kind == Kind::Reopened) == later {
                    let attempts = self.attempts.get(sequence).copied().unwrap_or_default();
                    let conversation = self.store.events[sequence].0.clone();
                    self.queue.add_parked(conversation, head(*sequence, attempts), parked);
                }
            }
        }
    }

    /// What is in memory is counted, and what is behind events that run is no more than may be.
    fn check_room(&self) {
        let (mut all, mut behind) = ((0, 0), (0, 0));
        for conversation in self.queue.conversations.values() {
            let (events, bytes) = conversation.kept();
            all = (all.0 + events, all.1 + bytes);
            if conversation.phase == Phase::Running {
                behind = (behind.0 + events, behind.1 + bytes);
            }
        }
        assert_eq!((self.queue.in_memory, self.queue.bytes_in_memory), all);
        assert_eq!((self.queue.behind.events, self.queue.behind.bytes), behind);
        assert!(behind.0 <= BEHIND && behind.1 <= BEHIND_BYTES);
    }

    fn is_done(&self) -> bool {
        let cursor = self.queue.cursor();
        self.queue.conversations() == 0 && cursor == self.head() && self.journal.is_empty()
    }
}

fn run(steps: impl Iterator<Item = Step>) {
    let mut model = Model::new();
    for step in steps {
        match step {
            Step::Publish(conversation) => model.publish(conversation),
            Step::Scan(rows) => model.scan(rows.into()),
            Step::Load(succeeds) => model.load(2, succeeds),
            Step::Take => model.take(),
            Step::Succeed(which) => model.succeed(which),
            Step::Fail(which) => model.fail(which),
            Step::Halt(which) => model.halt(which),
            Step::Refuse(which) => model.refuse(which),
            Step::Resume(which) => model.resume(which),
            Step::Skip(which) => model.skip(which),
            Step::Reopen(which) => model.reopen(which),
            Step::SetAside(pending) => _ = model.queue.set_aside(|_| pending),
            Step::CatchUp(rows) => model.catch_up(rows.into()),
            Step::Flush(most) => model.flush(most.into()),
            Step::Tick => model.now += Duration::from_secs(1),
            Step::TakeOver => model.take_over(),
        }
        model.check_room();
    }
    // Everything ends when nothing fails any more and operators resume what is halted.
    for _ in 0..10_000 {
        if model.is_done() {
            break;
        }
        model.now += Duration::from_secs(1);
        model.scan(100);
        model.load(100, true);
        model.catch_up(100);
        model.take();
        model.succeed(0);
        model.resume(0);
        model.flush(usize::MAX);
    }
    assert_eq!(
        model.store.unfinished(1, i64::MAX - 1).count(),
        0,
        "some events never ran: {:?}",
        model.queue
    );
    assert_eq!(model.queue.conversations(), 0, "{:?}", model.queue);
    assert_eq!((model.queue.in_memory, model.queue.bytes_in_memory), (0, 0));
    assert_eq!((model.queue.to_load.lines().count(), model.queue.halted), (0, 0));
    assert!(model.queue.aside.is_empty() && model.queue.all_aside.is_empty());
    assert!(model.queue.held.is_empty() && model.queue.passed_over.is_empty(), "{:?}", model.queue);
    assert_eq!(model.queue.cursor(), model.head());
    assert!(model.store.parked.is_empty());
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn order_is_kept_and_nothing_is_forgotten(steps in prop::collection::vec(any::<u16>(), 1..160)) {
        run(steps.into_iter().map(step));
    }
}
