//! The queue against a model of the store: random arrivals, failures and take-overs.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, PartialEq)]
struct Event {
    sequence: i64,
    conversation: ConversationKey,
    attempts: u32,
}

impl Queued for Event {
    fn sequence(&self) -> i64 {
        self.sequence
    }

    fn conversation(&self) -> ConversationKey {
        self.conversation.clone()
    }

    fn bytes(&self) -> usize {
        usize::try_from(self.sequence % 5).unwrap() + 1
    }

    fn remember(&mut self, head: &Head) {
        self.attempts = head.attempts;
    }
}

fn key(number: u8) -> ConversationKey {
    Arc::new(("acme".parse().unwrap(), format!("c{number}").parse().unwrap()))
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Publish(u8),
    Scan(u8),
    Take,
    Succeed(u8),
    /// A failed attempt, which parks.
    Fail(u8),
    /// No invoker took it.
    Refuse(u8),
    Tick,
    Load,
    TakeOver,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0u8..5).prop_map(Step::Publish),
        4 => (1u8..30).prop_map(Step::Scan),
        6 => Just(Step::Take),
        4 => any::<u8>().prop_map(Step::Succeed),
        3 => any::<u8>().prop_map(Step::Fail),
        1 => any::<u8>().prop_map(Step::Refuse),
        2 => Just(Step::Tick),
        3 => Just(Step::Load),
        1 => Just(Step::TakeOver),
    ];
    prop::collection::vec(step, 1..400)
}

/// What the database would hold, and what runs.
struct Model {
    /// By sequence number: the conversation, and whether it is unfinished.
    events: BTreeMap<i64, (ConversationKey, bool)>,
    parked: BTreeSet<i64>,
    attempts: HashMap<i64, u32>,
    cursor: i64,
    running: Vec<Event>,
    queue: LaneQueue<Event>,
    now: Instant,
}

impl Model {
    fn new() -> Self {
        Self {
            events: BTreeMap::new(),
            parked: BTreeSet::new(),
            attempts: HashMap::new(),
            cursor: 0,
            running: Vec::new(),
            queue: LaneQueue::new(0),
            now: Instant::now(),
        }
    }

    fn unfinished(&self, from: i64, to: i64) -> impl Iterator<Item = Event> + '_ {
        self.events
            .range(from..=to.max(from))
            .filter(move |(sequence, (_, open))| *open && **sequence <= to)
            .map(|(sequence, (conversation, _))| Event {
                sequence: *sequence,
                conversation: conversation.clone(),
                attempts: self.attempts.get(sequence).copied().unwrap_or_default(),
            })
    }

    fn scan(&mut self, rows: usize) {
        let head = self.events.len() as i64;
        let found: Vec<_> = self.unfinished(self.queue.read_to() + 1, head).take(rows).collect();
        let to = if found.len() == rows { found.last().unwrap().sequence } else { head };
        self.queue.offer(found, to);
    }

    fn load(&mut self, most: usize) {
        for load in self.queue.take_loads(self.now, most) {
            let mut found: Vec<_> = self
                .unfinished(load.from, load.to)
                .filter(|event| event.conversation == load.conversation)
                .take(load.rows)
                .collect();
            let (mut bytes, rows) = (0, found.len());
            found.retain(|event| {
                let fits = bytes < 16;
                bytes += event.bytes();
                fits
            });
            let is_complete = found.len() == rows && rows < load.rows;
            self.queue.loaded(&load, found, is_complete);
        }
    }

    fn take(&mut self) {
        let Some(event) = self.queue.next_ready() else { return };
        for running in &self.running {
            assert_ne!(running.conversation, event.conversation, "two of one conversation run");
        }
        let (_, open) = &self.events[&event.sequence];
        assert!(open, "{} runs again after its outcome", event.sequence);
        let first = self.unfinished(1, i64::MAX - 1).find(|other| other.conversation == event.conversation);
        assert_eq!(first.unwrap().sequence, event.sequence, "not the first of its conversation");
        let attempts = self.attempts.get(&event.sequence).copied().unwrap_or_default();
        assert_eq!(event.attempts, attempts, "attempts were forgotten");
        self.running.push(event);
    }

    fn pick(&mut self, which: u8) -> Option<Event> {
        let count = self.running.len();
        (count > 0).then(|| self.running.swap_remove(usize::from(which) % count))
    }

    fn finish(&mut self, event: &Event) {
        self.events.get_mut(&event.sequence).unwrap().1 = false;
        self.parked.remove(&event.sequence);
        self.queue.finished(&event.conversation, event.sequence);
        self.cursor = self.queue.cursor();
    }

    fn retry(&mut self, event: &Event, parks: bool) {
        let attempts = self.attempts.entry(event.sequence).or_default();
        if parks {
            *attempts += 1;
            self.parked.insert(event.sequence);
        }
        let head = Head { sequence: event.sequence, attempts: *attempts, died: false, refusals: 0 };
        let due = self.now + Duration::from_secs(1);
        self.queue.wait(&event.conversation, head, due, parks);
        self.cursor = self.queue.cursor();
    }

    fn take_over(&mut self) {
        self.running.clear();
        self.queue = LaneQueue::new(self.cursor);
        for sequence in &self.parked {
            let attempts = self.attempts[sequence];
            let head = Head { sequence: *sequence, attempts, died: false, refusals: 0 };
            self.queue.add_parked(self.events[sequence].0.clone(), head, self.now);
        }
    }

    /// The promise that a take-over relies on.
    fn check_cursor(&self) {
        for event in self.unfinished(1, self.cursor) {
            let covered = self
                .parked
                .iter()
                .any(|sequence| *sequence <= event.sequence && self.events[sequence].0 == event.conversation);
            assert!(covered, "{} is before the cursor {} and not covered", event.sequence, self.cursor);
        }
    }
}

fn run(steps: Vec<Step>) {
    let mut model = Model::new();
    for step in steps {
        match step {
            Step::Publish(conversation) => {
                let sequence = model.events.len() as i64 + 1;
                model.events.insert(sequence, (key(conversation), true));
            }
            Step::Scan(rows) => model.scan(rows.into()),
            Step::Take => model.take(),
            Step::Succeed(which) => {
                if let Some(event) = model.pick(which) {
                    model.finish(&event);
                }
            }
            Step::Fail(which) => {
                if let Some(event) = model.pick(which) {
                    model.retry(&event, true);
                }
            }
            Step::Refuse(which) => {
                if let Some(event) = model.pick(which) {
                    model.retry(&event, false);
                }
            }
            Step::Tick => model.now += Duration::from_secs(1),
            Step::Load => model.load(2),
            Step::TakeOver => model.take_over(),
        }
        model.check_cursor();
    }
    // Everything ends when nothing fails any more.
    for _ in 0..10_000 {
        if model.queue.conversations() == 0 && model.queue.cursor() == model.events.len() as i64 {
            break;
        }
        model.now += Duration::from_secs(1);
        model.scan(100);
        model.load(100);
        model.take();
        if let Some(event) = model.pick(0) {
            model.finish(&event);
        }
    }
    assert_eq!(model.unfinished(1, i64::MAX - 1).count(), 0, "some events never ran");
    assert_eq!(model.queue.conversations(), 0);
    assert_eq!((model.queue.in_memory(), model.queue.bytes_in_memory()), (0, 0));
    assert_eq!(model.queue.cursor(), model.events.len() as i64);
    assert!(model.parked.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn order_is_kept_and_nothing_is_forgotten(steps in steps()) {
        run(steps);
    }
}

#[test]
fn a_waiting_conversation_takes_no_room_and_stops_nobody() {
    let now = Instant::now();
    let mut queue = LaneQueue::new(0);
    let event = |sequence, conversation| Event { sequence, conversation: key(conversation), attempts: 0 };
    queue.offer((1..=100).map(|sequence| event(sequence, 0)).collect(), 100);
    assert!(queue.in_memory() <= PER_CONVERSATION);
    let first = queue.next_ready().unwrap();
    let head = Head { sequence: first.sequence, attempts: 1, died: false, refusals: 0 };
    queue.wait(&first.conversation, head, now + Duration::from_secs(60), true);
    assert_eq!((queue.in_memory(), queue.bytes_in_memory()), (0, 0));
    assert_eq!(queue.cursor(), 100);
    queue.offer(vec![event(101, 1)], 101);
    assert_eq!(queue.next_ready().unwrap().sequence, 101);
    assert!(!queue.has_loads(now));
    assert!(queue.has_loads(now + Duration::from_secs(60)));
}
