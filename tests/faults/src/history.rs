//! What the clients saw and what the witness saw: all that the checker knows.
//!
//! Times are microseconds since the epoch, by the clock of the machine, which no fault touches.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A time.
pub type Micros = u64;

/// The time now.
pub fn now() -> Micros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Micros::try_from(since.as_micros()).unwrap_or(Micros::MAX)
}

/// What an event's lambda does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Calls the witness twice and returns.
    Good,
    /// As good, after its first attempt has failed.
    Flaky,
    /// As good, with a pause between the calls.
    Slow,
    /// Fails each time.
    Poison,
    /// Runs until something is killed.
    Crasher,
    /// Nothing: it must be refused.
    Malformed,
}

impl Kind {
    /// As the lambda reads it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Flaky => "flaky",
            Self::Slow => "slow",
            Self::Poison => "poison",
            Self::Crasher => "crasher",
            Self::Malformed => "malformed",
        }
    }
}

/// The templates of the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Template {
    /// Of most events; its function has more attempts than faults use up.
    Work,
    /// Of events among which are some that fail each time.
    Poison,
    /// As [`Template::Poison`], but an event whose attempts are used up halts its conversation.
    Halting,
    /// Fires once per conversation.
    Once,
}

impl Template {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Work, Self::Poison, Self::Halting, Self::Once];

    /// As services know it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Work => "faults.work",
            Self::Poison => "faults.poison",
            Self::Halting => "faults.halting",
            Self::Once => "faults.once",
        }
    }

    /// Attempts that its function allows.
    pub fn max_attempts(self) -> u32 {
        match self {
            Self::Work | Self::Once => 20,
            Self::Poison => 3,
            Self::Halting => 2,
        }
    }
}

/// What a client knows of a publication in the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// It was acknowledged.
    Acknowledged,
    /// It was refused for good; nothing must come of it.
    Refused(String),
    /// Nobody knows.
    Unknown,
}

/// One event, from its first publication to the first answer that says something, however many tries it took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publication {
    /// Its account.
    pub account: String,
    /// Its id, which no other event of any account has.
    pub event: String,
    /// Its conversation.
    pub conversation: String,
    /// What its lambda does.
    pub kind: Kind,
    /// Its template.
    pub template: Template,
    /// Part of its payload, which the lambda passes on.
    pub mark: String,
    /// Nothing of it starts after this.
    pub deliver_by: Option<Micros>,
    /// Times that it was asked to be replayed.
    pub replays: u32,
    /// Times that its conversation, halted at it, may have been resumed: that was asked for, and not refused.
    pub resumes: u32,
    /// Whether an operator was told, at least once, that it will be.
    pub told_resumed: bool,
    /// When its conversation, halted at it, was first asked to go on without it.
    pub skipped: Option<Micros>,
    /// Whether an operator was told that it will.
    pub told_skipped: bool,
    /// Nothing of it starts before this: the event before it in its conversation was skipped then.
    pub held_until: Option<Micros>,
    /// Where a stream acknowledged it.
    pub streamed: Option<Place>,
    /// When the first try was sent.
    pub sent: Micros,
    /// When the answer came.
    pub answered: Micros,
    /// The answer.
    pub answer: Answer,
}

/// A place in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Which stream.
    pub stream: u64,
    /// The number of the request there.
    pub number: i64,
    /// Whether it was recorded by this request; otherwise by an earlier one.
    pub is_new: bool,
}

/// How a client's question ended that has one right answer: the same event again, or another one under its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repeat {
    /// The event.
    pub event: String,
    /// What was asked, and what came instead of the right answer, if it did.
    pub wrong: Option<String>,
}

/// Where an event stands in the end, as the service tells its clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Final {
    /// The event.
    pub event: String,
    /// The name of its state, as `SUCCEEDED`.
    pub state: String,
    /// Attempts on record.
    pub attempts: u32,
    /// How they ended, each with its number.
    pub ends: Vec<(u32, End)>,
    /// When it came to its outcome.
    pub finished: Option<Micros>,
    /// What it had come to before operators acted, the oldest first.
    pub past: Vec<Past>,
}

/// How an attempt ended, as the service tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// The invoker reported that the lambda returned.
    Returned,
    /// The invoker reported a failure that was the lambda's own.
    Failed,
    /// There is no report, or time was up, or the sandbox broke down: a lambda that did all it should may end so.
    Lost,
}

/// What an event had come to before an operator acted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// The name of the state, as `HALTED`.
    pub state: String,
    /// The number of its newest attempt then.
    pub attempts: u32,
    /// The name of what the operator did, as `RESUME`.
    pub action: String,
}

/// A call that the witness received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effect {
    /// When.
    pub at: Micros,
    /// The lambda's clock when it called.
    pub called: Micros,
    /// The attempt that the lambda was told.
    pub attempt: u32,
    /// `Idempotency-Key`; empty: there was none.
    pub key: String,
    /// What the lambda sent.
    pub body: Body,
}

/// What a lambda sends to the witness: the same in each attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body {
    /// The account that the lambda was told.
    pub account: String,
    /// The conversation.
    pub conversation: String,
    /// The event.
    pub event: String,
    /// Which of the run's calls it is: 0 at the start, 1 at the end.
    pub ordinal: u32,
    /// From the payload.
    pub mark: String,
    /// The account's canary, from the function's environment.
    pub canary: String,
}

/// All that there is to check.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// What clients published.
    pub publications: Vec<Publication>,
    /// What they asked besides.
    pub repeats: Vec<Repeat>,
    /// What the service says in the end.
    pub finals: Vec<Final>,
    /// What the witness saw, in its order.
    pub effects: Vec<Effect>,
    /// Each account's canary.
    pub canaries: Vec<(String, String)>,
    /// What is found beside: in the database, in logs, in processes.
    pub aside: Aside,
}

/// What the cluster's parts show besides.
#[derive(Debug, Clone, Default)]
pub struct Aside {
    /// Writes of the dispatch that had another epoch than their lane, as a trigger in the database counted them.
    pub stale_writes: u64,
    /// Events that would never run, as `Reconcile` counts them.
    pub unaccounted: i64,
    /// Where canaries or payloads were found that must not be there.
    pub leaks: Vec<String>,
    /// What grew beyond its bound.
    pub beyond_bounds: Vec<String>,
    /// Faults from which the cluster did not recover in time.
    pub unrecovered: Vec<String>,
}
