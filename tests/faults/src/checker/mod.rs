//! Whether a history keeps what chatfn promises. Pure: it can be proven by histories that do not.

mod once;
mod order;
mod outcome;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
};

pub use self::outcome::EARLY;
use crate::history::{Answer, Effect, Final, History, Kind, Micros, Publication, Template};

/// How much later than its time a start may be: as long as the way to the invoker takes at least, because budgets travel as time that
/// is left, so that clocks need not agree. The slowest link of the plan takes 500 ms; the rest is a busy machine's.
pub const TRANSIT: Micros = 750_000;

/// What must hold, whatever is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// I1: each acknowledged event ends in an outcome that fits it, in time.
    NothingLost,
    /// I2: nothing happens that nobody published.
    NothingInvented,
    /// I3: what happens twice has the same key and the same body.
    SameKey,
    /// I4: no event starts before the one before it in its conversation has ended, nor while that halts the conversation.
    Order,
    /// I5: nothing is written by an owner whose lane has another one.
    NoStaleWrite,
    /// I6: no account's secret is where it does not belong.
    NothingLeaks,
    /// I7: nothing starts after its time is up.
    InTime,
    /// I8: memory, connections and tries are bounded.
    Bounded,
    /// I9: it recovers.
    Recovers,
    /// I10: an event that always fails is dead after exactly its attempts.
    ExactAttempts,
    /// I11: of a template that fires once per conversation, one event runs in each.
    FiresOnce,
    /// I12: an outcome fits what its event's runs came to, what the time was, and what operators were told.
    FittingOutcome,
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = *self as u8 + 1;
        write!(f, "I{number} {self:?}")
    }
}

/// What a history came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Events acknowledged.
    pub acknowledged: usize,
    /// Events of which nobody knows.
    pub unknown: usize,
    /// Calls at the witness.
    pub effects: usize,
    /// Calls at the witness beyond the first of their kind: at least once is what is promised.
    pub repeated_effects: usize,
    /// Events whose attempts were used up.
    pub dead_letters: usize,
    /// Events whose time was up.
    pub expired: usize,
    /// Events of conversations in which their template had fired.
    pub suppressed: usize,
    /// Events that were acknowledged over streams.
    pub streamed: usize,
    /// Events that halted their conversation until they were skipped.
    pub skipped: usize,
    /// Events that halted their conversation, and of which an operator was told that they are resumed.
    pub resumed: usize,
    /// What is wrong, for people, by what it breaks.
    pub broken: BTreeMap<Invariant, Vec<String>>,
}

impl Verdict {
    /// How often something was broken.
    pub fn count(&self, invariant: Invariant) -> usize {
        self.broken.get(&invariant).map_or(0, Vec::len)
    }

    fn add(&mut self, invariant: Invariant, what: String) {
        self.broken.entry(invariant).or_default().push(what);
    }
}

/// Judges a history.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict { effects: history.effects.len(), ..Verdict::default() };
    let mut effects: HashMap<&str, Vec<&Effect>> = HashMap::new();
    for effect in &history.effects {
        effects.entry(&effect.body.event).or_default().push(effect);
    }
    let finals: HashMap<&str, &Final> = history.finals.iter().map(|it| (it.event.as_str(), it)).collect();
    let published: HashMap<&str, &Publication> =
        history.publications.iter().map(|it| (it.event.as_str(), it)).collect();

    for publication in &history.publications {
        let seen = effects.get(publication.event.as_str()).map_or(&[][..], Vec::as_slice);
        match &publication.answer {
            Answer::Acknowledged => {
                verdict.acknowledged += 1;
                verdict.streamed += usize::from(publication.streamed.is_some());
                verdict.skipped += usize::from(publication.skipped.is_some());
                verdict.resumed += usize::from(publication.told_resumed);
                let end = finals.get(publication.event.as_str()).copied();
                ends(&mut verdict, publication, end, seen);
                for broken in end.into_iter().flat_map(|end| outcome::broken(publication, end, seen)) {
                    verdict.add(Invariant::FittingOutcome, broken);
                }
            }
            Answer::Unknown => verdict.unknown += 1,
            Answer::Refused(reason) if publication.kind != Kind::Malformed => {
                verdict.add(Invariant::NothingLost, format!("{} was refused: {reason}", publication.event));
            }
            Answer::Refused(_) => {}
        }
        if publication.kind == Kind::Malformed && !matches!(publication.answer, Answer::Refused(_)) {
            let what = format!("{} is malformed and was not refused", publication.event);
            verdict.add(Invariant::NothingInvented, what);
        }
        bounded(&mut verdict, publication, seen);
        in_time(&mut verdict, publication, seen);
    }
    for (event, seen) in &effects {
        known(&mut verdict, event, published.get(event).copied(), seen);
        same(&mut verdict, event, seen);
    }
    for broken in order::broken(&history.publications, &effects) {
        verdict.add(Invariant::Order, broken);
    }
    for broken in once::broken(&history.publications, &finals, &effects) {
        verdict.add(Invariant::FiresOnce, broken);
    }
    leaks(&mut verdict, history);
    aside(&mut verdict, history);
    verdict
}

/// I1 and I10: the outcome of an acknowledged event.
fn ends(verdict: &mut Verdict, publication: &Publication, end: Option<&Final>, seen: &[&Effect]) {
    let event = &publication.event;
    let Some(Final { state, attempts, .. }) = end else {
        verdict.add(Invariant::NothingLost, format!("{event} was acknowledged and is unknown"));
        return;
    };
    // Each start is on record before the call.
    let starts = starts(seen);
    let is_one_round = publication.replays + publication.resumes == 0;
    if publication.replays == 0 && starts > usize::try_from(*attempts).unwrap_or(usize::MAX) {
        let what = format!("{event} ran {starts} times in {attempts} attempts");
        verdict.add(Invariant::ExactAttempts, what);
    }
    let always_fails = matches!(publication.kind, Kind::Poison | Kind::Crasher);
    match state.as_str() {
        "SUCCEEDED" if always_fails => {
            verdict.add(Invariant::ExactAttempts, format!("{event} always fails and succeeded"));
        }
        "SUCCEEDED" if !seen.iter().any(|effect| effect.body.ordinal == 1) => {
            verdict
                .add(Invariant::NothingLost, format!("{event} succeeded, and its witness saw no end of it"));
        }
        "SUCCEEDED" => {}
        "DEAD_LETTERED" if publication.template == Template::Halting && publication.skipped.is_none() => {
            verdict.add(
                Invariant::Order,
                format!("{event} did not halt its conversation, and nobody skipped it"),
            );
        }
        "DEAD_LETTERED" => {
            verdict.dead_letters += 1;
            // Of one that was replayed or resumed, each round's are on record.
            let wanted = publication.template.max_attempts();
            if *attempts != wanted && is_one_round {
                verdict.add(
                    Invariant::ExactAttempts,
                    format!("{event} is dead after {attempts} attempts, not after {wanted}"),
                );
            }
        }
        "EXPIRED" if publication.deliver_by.is_some() => verdict.expired += 1,
        "SUPPRESSED" if publication.template == Template::Once => verdict.suppressed += 1,
        state => {
            verdict
                .add(Invariant::NothingLost, format!("{event} was acknowledged and is {state} in the end"));
        }
    }
}

/// Runs that have begun.
fn starts(seen: &[&Effect]) -> usize {
    seen.iter().filter(|effect| effect.body.ordinal == 0).count()
}

/// I8 and I10: no more runs than attempts that are allowed, whatever became of the event.
fn bounded(verdict: &mut Verdict, publication: &Publication, seen: &[&Effect]) {
    let starts = starts(seen);
    let most = publication.template.max_attempts() * (1 + publication.replays + publication.resumes);
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    if starts > most {
        let what = format!("{} ran {starts} times; {most} attempts are allowed", publication.event);
        verdict.add(Invariant::ExactAttempts, what);
    }
}

/// I7.
fn in_time(verdict: &mut Verdict, publication: &Publication, seen: &[&Effect]) {
    let Some(deliver_by) = publication.deliver_by else { return };
    // By the lambda's own clock: a slow way to the witness is not a late start.
    let latest = deliver_by + TRANSIT;
    let late = seen.iter().filter(|effect| effect.body.ordinal == 0 && effect.called > latest);
    for effect in late {
        let by = effect.called - deliver_by;
        let what = format!("attempt {} of {} started {by} µs too late", effect.attempt, publication.event);
        verdict.add(Invariant::InTime, what);
    }
}

/// I2.
fn known(verdict: &mut Verdict, event: &str, publication: Option<&Publication>, seen: &[&Effect]) {
    let Some(publication) = publication else {
        verdict.add(Invariant::NothingInvented, format!("nobody published {event}, and it ran"));
        return;
    };
    if matches!(publication.answer, Answer::Refused(_)) {
        verdict.add(Invariant::NothingInvented, format!("{event} was refused, and it ran"));
    }
    let differs = |effect: &&&Effect| {
        let body = &effect.body;
        (&body.account, &body.conversation, &body.mark)
            != (&publication.account, &publication.conversation, &publication.mark)
            || effect.at < publication.sent
    };
    if seen.iter().any(|effect| differs(&effect)) {
        verdict.add(Invariant::NothingInvented, format!("{event} ran as something that was not published"));
    }
}

/// I3.
fn same(verdict: &mut Verdict, event: &str, seen: &[&Effect]) {
    let mut first: HashMap<u32, &Effect> = HashMap::new();
    let mut keys = HashSet::new();
    for effect in seen {
        let ordinal = effect.body.ordinal;
        let Some(other) = first.get(&ordinal) else {
            if !keys.insert(&effect.key) || effect.key.is_empty() {
                let what = format!("call {ordinal} of {event} has no key of its own");
                verdict.add(Invariant::SameKey, what);
            }
            first.insert(ordinal, effect);
            continue;
        };
        verdict.repeated_effects += 1;
        if other.key != effect.key {
            let what = format!(
                "call {ordinal} of {event} has another key in attempt {} than in attempt {}",
                effect.attempt, other.attempt
            );
            verdict.add(Invariant::SameKey, what);
        }
        if other.body != effect.body {
            verdict.add(Invariant::SameKey, format!("call {ordinal} of {event} has another body"));
        }
    }
}

/// I6.
fn leaks(verdict: &mut Verdict, history: &History) {
    for effect in &history.effects {
        let body = &effect.body;
        let own = history.canaries.iter().find(|(account, _)| *account == body.account);
        if own.map(|(_, canary)| canary) != Some(&body.canary) {
            let what = format!("{} ran with the secret of somebody else", body.event);
            verdict.add(Invariant::NothingLeaks, what);
        }
    }
    for leak in &history.aside.leaks {
        verdict.add(Invariant::NothingLeaks, leak.clone());
    }
}

fn aside(verdict: &mut Verdict, history: &History) {
    let aside = &history.aside;
    for number in 0..aside.stale_writes {
        verdict.add(Invariant::NoStaleWrite, format!("stale write {}", number + 1));
    }
    if aside.unaccounted != 0 {
        let what = format!("{} events would never run", aside.unaccounted);
        verdict.add(Invariant::NothingLost, what);
    }
    for what in &aside.beyond_bounds {
        verdict.add(Invariant::Bounded, what.clone());
    }
    for what in &aside.unrecovered {
        verdict.add(Invariant::Recovers, what.clone());
    }
    for repeat in &history.repeats {
        if let Some(wrong) = &repeat.wrong {
            verdict.add(Invariant::NothingInvented, format!("{}: {wrong}", repeat.event));
        }
    }
}
