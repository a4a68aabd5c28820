//! A healthy history passes, and each way to spoil it is found: also those that the mutants of event-ingest lead to.

mod outcomes;

use super::*;
use crate::history::{Aside, Body, End, Place, Repeat};

const CANARY: &str = "canary-of-acme";

fn publication(number: u64, kind: Kind) -> Publication {
    Publication {
        account: "acme".into(),
        event: format!("e{number}"),
        conversation: "c".into(),
        kind,
        mark: format!("m{number}"),
        template: Template::Poison,
        deliver_by: None,
        replays: 0,
        resumes: 0,
        told_resumed: false,
        skipped: None,
        told_skipped: false,
        held_until: None,
        streamed: None,
        sent: number * 1_000_000,
        answered: number * 1_000_000 + 1_000,
        answer: Answer::Acknowledged,
    }
}

fn effect(publication: &Publication, attempt: u32, ordinal: u32, at: u64) -> Effect {
    Effect {
        at,
        called: at,
        attempt,
        key: format!("key of {} {ordinal}", publication.event),
        body: Body {
            account: publication.account.clone(),
            conversation: publication.conversation.clone(),
            event: publication.event.clone(),
            ordinal,
            mark: publication.mark.clone(),
            canary: CANARY.into(),
        },
    }
}

fn end(publication: &Publication, state: &str, attempts: u32) -> Final {
    let ended = |number| {
        let is_returned = state == "SUCCEEDED" && number == attempts;
        (number, if is_returned { End::Returned } else { End::Failed })
    };
    Final {
        event: publication.event.clone(),
        state: state.into(),
        attempts,
        ends: (1..=attempts).map(ended).collect(),
        finished: publication.deliver_by,
        past: Vec::new(),
    }
}

/// e1 good, e2 flaky, e3 poison, e4 expired, e5 unknown and never seen, e6 malformed.
fn healthy() -> History {
    let (good, flaky, poison) =
        (publication(1, Kind::Good), publication(2, Kind::Flaky), publication(3, Kind::Poison));
    let expired = Publication { deliver_by: Some(5_000_000), ..publication(4, Kind::Good) };
    let unknown = Publication { answer: Answer::Unknown, ..publication(5, Kind::Good) };
    let malformed =
        Publication { answer: Answer::Refused("INVALID_REQUEST".into()), ..publication(6, Kind::Malformed) };
    let effects = vec![
        effect(&good, 1, 0, 1_100_000),
        effect(&good, 1, 1, 1_200_000),
        effect(&flaky, 1, 0, 2_100_000),
        effect(&flaky, 2, 0, 2_200_000),
        effect(&flaky, 2, 1, 2_300_000),
        effect(&poison, 1, 0, 3_100_000),
        effect(&poison, 2, 0, 3_200_000),
        effect(&poison, 3, 0, 3_300_000),
    ];
    let finals = vec![
        end(&good, "SUCCEEDED", 1),
        end(&flaky, "SUCCEEDED", 2),
        end(&poison, "DEAD_LETTERED", 3),
        end(&expired, "EXPIRED", 0),
    ];
    History {
        publications: vec![good, flaky, poison, expired, unknown, malformed],
        repeats: vec![Repeat { event: "e1".into(), wrong: None }],
        finals,
        effects,
        canaries: vec![("acme".into(), CANARY.into())],
        aside: Aside::default(),
    }
}

/// Checks that this, and this alone, is found once the history is spoilt.
#[track_caller]
fn found(invariant: Invariant, spoil: impl FnOnce(&mut History)) {
    let mut history = healthy();
    spoil(&mut history);
    let verdict = check(&history);
    let broken: Vec<_> = verdict.broken.keys().copied().collect();
    assert_eq!(broken, [invariant], "{:#?}", verdict.broken);
}

#[test]
fn a_healthy_history_passes() {
    let verdict = check(&healthy());
    assert!(verdict.broken.is_empty(), "{:#?}", verdict.broken);
    assert_eq!((verdict.acknowledged, verdict.unknown, verdict.effects), (4, 1, 8));
    assert_eq!((verdict.dead_letters, verdict.expired, verdict.repeated_effects), (1, 1, 3));
}

#[test]
fn acknowledged_before_the_commit() {
    found(Invariant::NothingLost, |history| {
        history.finals.remove(0);
        history.effects.drain(..2);
    });
}

#[test]
fn a_cursor_that_passes_what_has_no_outcome() {
    found(Invariant::NothingLost, |history| {
        history.finals[0].state = "PENDING".into();
        history.effects.remove(1);
    });
    found(Invariant::NothingLost, |history| history.aside.unaccounted = 1);
}

#[test]
fn an_outcome_of_something_that_did_not_happen() {
    found(Invariant::NothingLost, |history| {
        history.effects.remove(1);
    });
    found(Invariant::NothingLost, |history| history.finals[0].state = "NO_FUNCTION".into());
    found(Invariant::NothingLost, |history| {
        history.finals[0].state = "EXPIRED".into();
        history.finals[0].ends = vec![(1, End::Lost)];
    });
}

#[test]
fn an_honest_publication_that_is_refused() {
    found(Invariant::NothingLost, |history| {
        history.publications[4].answer = Answer::Refused("ALREADY_EXISTS".into());
    });
}

#[test]
fn keys_that_change() {
    found(Invariant::SameKey, |history| history.effects[3].key = "random".into());
    found(Invariant::SameKey, |history| history.effects[0].key = String::new());
    found(Invariant::SameKey, |history| history.effects[1].key = history.effects[0].key.clone());
}

#[test]
fn attempts_that_are_forgotten() {
    found(Invariant::ExactAttempts, |history| {
        let again = Effect { at: 3_400_000, called: 3_400_000, attempt: 1, ..history.effects[7].clone() };
        history.effects.push(again);
    });
    // Of one that may have three.
    found(Invariant::ExactAttempts, |history| {
        let again = Effect { at: 1_150_000, called: 1_150_000, attempt: 2, ..history.effects[0].clone() };
        history.effects.push(again);
    });
    found(Invariant::ExactAttempts, |history| history.finals[2].attempts = 2);
    found(Invariant::ExactAttempts, |history| history.finals[2].state = "SUCCEEDED".into());
}

#[test]
fn writes_of_a_former_owner() {
    found(Invariant::NoStaleWrite, |history| history.aside.stale_writes = 1);
}

#[test]
fn events_that_overtake() {
    // e2's retry starts before e1 has ended.
    found(Invariant::Order, |history| history.effects[1].at = 2_250_000);
    // e1 runs after e2, which was published when e1 had been acknowledged.
    found(Invariant::Order, |history| {
        for (effect, at) in history.effects.iter_mut().zip([2_400_000, 2_500_000]) {
            effect.at = at;
        }
    });
}

#[test]
fn events_on_their_way_together_may_come_in_either_order() {
    let mut history = healthy();
    history.publications[1].sent = history.publications[0].answered;
    for (effect, at) in history.effects.iter_mut().zip([2_400_000, 2_500_000]) {
        effect.at = at;
    }
    assert!(check(&history).broken.is_empty());
}

#[test]
fn a_stream_that_is_not_kept_in_order() {
    let stream = |history: &mut History, places: [(i64, bool); 2]| {
        for (publication, (number, is_new)) in history.publications.iter_mut().zip(places) {
            publication.streamed = Some(Place { stream: 1, number, is_new });
        }
    };
    for healthy_places in [[(1, true), (2, true)], [(1, false), (2, true)], [(2, false), (1, false)]] {
        let mut history = healthy();
        stream(&mut history, healthy_places);
        assert!(check(&history).broken.is_empty());
    }
    found(Invariant::Order, |history| stream(history, [(2, true), (1, true)]));
    // What was before it on the stream had been recorded before the stream began.
    found(Invariant::Order, |history| stream(history, [(2, true), (1, false)]));
}

#[test]
fn an_event_that_should_have_halted_its_conversation() {
    let halting = |history: &mut History| {
        history.publications[2].template = Template::Halting;
        history.finals[2].attempts = 2;
        history.effects.pop();
    };
    let mut history = healthy();
    halting(&mut history);
    history.publications[2].skipped = Some(4_000_000);
    assert!(check(&history).broken.is_empty());
    found(Invariant::Order, halting);
}

#[test]
fn what_runs_behind_an_event_that_halts_its_conversation() {
    let mut history = healthy();
    history.publications[1].held_until = Some(2_100_000);
    assert!(check(&history).broken.is_empty());
    found(Invariant::Order, |history| history.publications[1].held_until = Some(2_100_001));
}

#[test]
fn an_event_that_was_resumed_has_its_attempts_again() {
    let mut history = healthy();
    history.publications[2].resumes = 1;
    history.finals[2].attempts = 6;
    assert!(check(&history).broken.is_empty());
    found(Invariant::ExactAttempts, |history| history.finals[2].attempts = 6);
}

/// The healthy history with two events of a template that fires once, in a conversation of their own.
fn fired_once(history: &mut History) {
    for number in [11, 12] {
        let template = Template::Once;
        let once = Publication { conversation: "o".into(), template, ..publication(number, Kind::Good) };
        let is_first = number == 11;
        history.finals.push(end(&once, if is_first { "SUCCEEDED" } else { "SUPPRESSED" }, is_first.into()));
        if is_first {
            let calls = [0, 1].map(|ordinal| effect(&once, 1, ordinal, 11_100_000 + u64::from(ordinal)));
            history.effects.extend(calls);
        }
        history.publications.push(once);
    }
}

#[test]
fn a_template_that_fires_twice_in_a_conversation() {
    let mut history = healthy();
    fired_once(&mut history);
    let verdict = check(&history);
    assert!(verdict.broken.is_empty(), "{:#?}", verdict.broken);
    assert_eq!(verdict.suppressed, 1);
    // The second ran, and either is said to be the one.
    let run = |history: &mut History| {
        let second = history.publications[7].clone();
        history.effects.extend([0, 1].map(|call| effect(&second, 1, call, 12_100_000 + u64::from(call))));
    };
    found(Invariant::FiresOnce, |history| {
        fired_once(history);
        run(history);
        history.finals[5].state = "SUCCEEDED".into();
        history.finals[5].attempts = 1;
    });
    // It ran, though it is said to be suppressed.
    found(Invariant::FiresOnce, |history| {
        fired_once(history);
        run(history);
        history.finals[5].attempts = 1;
    });
    // Neither was let run.
    found(Invariant::FiresOnce, |history| {
        fired_once(history);
        history.finals[4].state = "SUPPRESSED".into();
        history.effects.drain(8..);
    });
}

#[test]
fn what_only_a_template_that_fires_once_may_be() {
    found(Invariant::NothingLost, |history| {
        history.finals[0].state = "SUPPRESSED".into();
        history.effects.drain(..2);
    });
}

#[test]
fn what_nobody_published() {
    found(Invariant::NothingInvented, |history| {
        let body = Body { event: "e9".into(), ..history.effects[0].body.clone() };
        history.effects.push(Effect { body, ..history.effects[0].clone() });
    });
    found(Invariant::NothingInvented, |history| {
        let malformed = history.publications[5].clone();
        history.effects.push(effect(&malformed, 1, 0, 7_000_000));
    });
    found(Invariant::NothingInvented, |history| history.publications[5].answer = Answer::Unknown);
    found(Invariant::NothingInvented, |history| {
        for effect in &mut history.effects[..2] {
            effect.body.mark = "other".into();
        }
    });
    found(Invariant::NothingInvented, |history| history.repeats[0].wrong = Some("taken for new".into()));
}

#[test]
fn secrets_that_go_astray() {
    found(Invariant::NothingLeaks, |history| history.effects[0].body.canary = "canary-of-globex".into());
    found(Invariant::NothingLeaks, |history| history.aside.leaks.push("a log".into()));
}

#[test]
fn a_start_that_comes_too_late() {
    found(Invariant::InTime, |history| {
        let expired = history.publications[3].clone();
        history.effects.push(effect(&expired, 1, 0, 5_000_000 + TRANSIT + 1));
        history.finals[3].attempts = 1;
    });
}

#[test]
fn what_grows_and_what_does_not_come_back() {
    found(Invariant::Bounded, |history| history.aside.beyond_bounds.push("memory".into()));
    found(Invariant::Recovers, |history| history.aside.unrecovered.push("a kill".into()));
}

#[test]
fn invariants_have_their_numbers() {
    assert_eq!(Invariant::NothingLost.to_string(), "I1 NothingLost");
    assert_eq!(Invariant::ExactAttempts.to_string(), "I10 ExactAttempts");
    assert_eq!(Invariant::FittingOutcome.to_string(), "I12 FittingOutcome");
}
