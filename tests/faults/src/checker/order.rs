//! I4: the order within conversations.

use std::collections::{BTreeMap, HashMap};

use crate::history::{Answer, Effect, Micros, Place, Publication};

/// An event that ran, from its first call at the witness to its last.
struct Run<'a> {
    publication: &'a Publication,
    first: Micros,
    last: Micros,
}

/// What is out of order. Events that were replayed run again later by design, and are left out.
pub(super) fn broken(publications: &[Publication], effects: &HashMap<&str, Vec<&Effect>>) -> Vec<String> {
    let mut conversations: BTreeMap<(&str, &str), Vec<Run<'_>>> = BTreeMap::new();
    for publication in publications.iter().filter(|publication| publication.replays == 0) {
        let Some(seen) = effects.get(publication.event.as_str()) else { continue };
        let times = || seen.iter().map(|effect| effect.at);
        let (Some(first), Some(last)) = (times().min(), times().max()) else { continue };
        conversations.entry((&publication.account, &publication.conversation)).or_default().push(Run {
            publication,
            first,
            last,
        });
    }
    let mut broken = Vec::new();
    for runs in conversations.values_mut() {
        runs.sort_by_key(|run| run.first);
        overlaps(runs, &mut broken);
        overtakes(runs, &mut broken);
        streams(runs, &mut broken);
        held(runs, &mut broken);
    }
    broken
}

/// One event of a conversation at a time, over all its attempts.
fn overlaps(runs: &[Run<'_>], broken: &mut Vec<String>) {
    for pair in runs.windows(2) {
        if pair[1].first <= pair[0].last {
            let [one, two] = [&pair[0], &pair[1]].map(|run| &run.publication.event);
            broken.push(format!("{two} started before {one} had ended"));
        }
    }
}

/// What was acknowledged before another one was sent runs before it. Of those that were on their way together, either
/// may be first.
fn overtakes(runs: &[Run<'_>], broken: &mut Vec<String>) {
    let mut earliest: Option<(Micros, &str)> = None;
    for run in runs.iter().rev() {
        let Publication { event, sent, answered, answer, .. } = run.publication;
        if let Some((acknowledged, other)) = earliest.filter(|(acknowledged, _)| acknowledged < sent) {
            let before = sent - acknowledged;
            broken.push(format!(
                "{event} ran before {other}, which was acknowledged {before} µs before it was sent"
            ));
        }
        if *answer == Answer::Acknowledged && earliest.is_none_or(|(time, _)| *answered < time) {
            earliest = Some((*answered, event));
        }
    }
}

/// What a stream recorded runs behind all that was before it on that stream, though nobody waited for acknowledgements: also behind
/// what had been recorded by an earlier request.
fn streams(runs: &[Run<'_>], broken: &mut Vec<String>) {
    let mut latest: HashMap<u64, (i64, &str)> = HashMap::new();
    for Run { publication, .. } in runs {
        let Some(Place { stream, number, is_new }) = publication.streamed else { continue };
        if let Some((before, other)) = latest.get(&stream).filter(|(before, _)| *before > number) {
            let event = &publication.event;
            broken.push(format!(
                "{other} ran before {event}, though a stream had them as {before} and {number}"
            ));
        }
        // That one was recorded before tells nothing of when.
        if is_new && latest.get(&stream).is_none_or(|(before, _)| *before < number) {
            latest.insert(stream, (number, &publication.event));
        }
    }
}

/// What comes behind an event that halts the conversation waits for the operator.
fn held(runs: &[Run<'_>], broken: &mut Vec<String>) {
    for Run { publication, first, .. } in runs {
        if publication.held_until.is_some_and(|until| *first < until) {
            broken.push(format!("{} ran while its conversation was halted", publication.event));
        }
    }
}
