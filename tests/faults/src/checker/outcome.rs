//! I12: outcomes that fit what runs came to, what the time was, and what operators were told.

use crate::history::{Effect, End, Final, Micros, Publication};

/// How much earlier than its time an event may expire: what is left is counted from when Postgres was asked for the event, and its
/// answer may take as long as the weather of a link lasts. And no attempt is waited for that would come too late.
pub const EARLY: Micros = 10_000_000;

/// What does not fit, of an event that was acknowledged.
pub(super) fn broken(publication: &Publication, end: &Final, seen: &[&Effect]) -> Vec<String> {
    let event = &publication.event;
    let mut broken = Vec::new();
    // What it was before each thing that operators did, and what it is: each with the attempts since the one before.
    let mut after = 0;
    let states = end.past.iter().map(|past| (past.state.as_str(), past.attempts));
    for (state, up_to) in states.chain([(end.state.as_str(), u32::MAX)]) {
        let failed = ["DEAD_LETTERED", "EXPIRED", "HALTED"].contains(&state);
        if let Some(attempt) = success(end, after, up_to, seen).filter(|_| failed) {
            broken.push(format!("{event} was {state}, and its attempt {attempt} did all that it should"));
        }
        after = up_to;
    }
    if end.state == "EXPIRED"
        && let Some(deliver_by) = publication.deliver_by
        && end.finished.is_none_or(|at| at + EARLY < deliver_by)
    {
        broken.push(format!("{event} expired at {:?}, long before {deliver_by}", end.finished));
    }
    operators(publication, end, &mut broken);
    broken
}

/// The attempt among those from `after` to `up_to` that succeeded: its lambda returned, or made its last call at the witness and is said
/// to have failed. The latter only if the platform lost none of them: then only a mistake is left.
fn success(end: &Final, after: u32, up_to: u32, seen: &[&Effect]) -> Option<u32> {
    let ends = || end.ends.iter().filter(move |(number, _)| *number > after && *number <= up_to);
    let is_none_lost = ends().all(|(_, end)| *end != End::Lost);
    let made_last_call =
        |attempt: u32| seen.iter().any(|effect| effect.attempt == attempt && effect.body.ordinal == 1);
    let success =
        |(number, end): &&(u32, End)| *end == End::Returned || is_none_lost && made_last_call(*number);
    ends().find(success).map(|(number, _)| *number)
}

/// What operators were told is to be done was done.
fn operators(publication: &Publication, end: &Final, broken: &mut Vec<String>) {
    let event = &publication.event;
    let newest = end.ends.last().map_or(0, |(number, _)| *number);
    match end.past.iter().rfind(|past| past.action == "RESUME") {
        None if publication.told_resumed => {
            broken.push(format!("an operator was told that {event} is resumed, and it was not"));
        }
        // Of one that is still to run, something else is said.
        Some(resumed) if resumed.attempts >= newest && end.state != "RETRYING" => {
            broken.push(format!("{event} was resumed after attempt {newest}, and has had none since"));
        }
        _ => {}
    }
    let is_skipped = end.state == "DEAD_LETTERED" && end.past.iter().any(|past| past.action == "SKIP");
    if publication.told_skipped && !is_skipped {
        broken.push(format!("an operator was told that {event} is skipped, and it is {}", end.state));
    }
}
