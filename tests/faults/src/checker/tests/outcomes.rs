//! Outcomes that do not fit, and such that do though they look strange.

use super::*;
use crate::history::Past;

#[track_caller]
fn healthy_all_the_same(change: impl FnOnce(&mut History)) -> Verdict {
    let mut history = healthy();
    change(&mut history);
    let verdict = check(&history);
    assert!(verdict.broken.is_empty(), "{:#?}", verdict.broken);
    verdict
}

fn numbered(ends: &[End]) -> Vec<(u32, End)> {
    (1..).zip(ends.iter().copied()).collect()
}

/// e2, whose second attempt made its last call at the witness, is dead after three.
fn dead(history: &mut History, ends: [End; 3]) {
    let end = &mut history.finals[1];
    (end.state, end.attempts, end.ends) = ("DEAD_LETTERED".into(), 3, numbered(&ends));
}

#[test]
fn a_success_that_is_taken_for_a_failure() {
    use End::{Failed, Lost, Returned};
    for ends in [[Failed, Returned, Failed], [Lost, Returned, Lost], [Failed, Failed, Failed]] {
        found(Invariant::FittingOutcome, |history| dead(history, ends));
    }
    // Whoever ran it to its end may not have been able to tell.
    for ends in [[Failed, Lost, Failed], [Failed, Failed, Lost]] {
        let verdict = healthy_all_the_same(|history| dead(history, ends));
        assert_eq!(verdict.dead_letters, 2);
    }
}

#[test]
fn a_success_that_expires() {
    let expired = |history: &mut History, end| {
        let publication = history.publications[3].clone();
        history.effects.push(effect(&publication, 1, 0, 4_100_000));
        history.effects.push(effect(&publication, 1, 1, 4_200_000));
        (history.finals[3].attempts, history.finals[3].ends) = (1, numbered(&[end]));
    };
    found(Invariant::FittingOutcome, |history| expired(history, End::Returned));
    found(Invariant::FittingOutcome, |history| expired(history, End::Failed));
    healthy_all_the_same(|history| expired(history, End::Lost));
}

#[test]
fn what_expires_before_its_time() {
    let expires = |history: &mut History, at| {
        history.publications[3].deliver_by = Some(60_000_000);
        history.finals[3].finished = at;
    };
    healthy_all_the_same(|history| expires(history, Some(60_000_000 - EARLY)));
    found(Invariant::FittingOutcome, |history| expires(history, Some(60_000_000 - EARLY - 1)));
    found(Invariant::FittingOutcome, |history| expires(history, None));
}

#[test]
fn a_success_that_halts_its_conversation() {
    let halted = |history: &mut History, second| {
        history.publications[1].resumes = 1;
        let end = &mut history.finals[1];
        (end.attempts, end.ends) = (3, numbered(&[End::Failed, second, End::Returned]));
        end.past = vec![Past { state: "HALTED".into(), attempts: 2, action: "RESUME".into() }];
    };
    found(Invariant::FittingOutcome, |history| halted(history, End::Returned));
    healthy_all_the_same(|history| halted(history, End::Lost));
}

#[test]
fn a_replay_that_fails_after_a_success() {
    healthy_all_the_same(|history| {
        history.publications[1].replays = 2;
        let end = &mut history.finals[1];
        (end.state, end.attempts) = ("DEAD_LETTERED".into(), 5);
        end.ends = numbered(&[End::Failed, End::Returned, End::Lost, End::Lost, End::Lost]);
        end.past = vec![Past { state: "SUCCEEDED".into(), attempts: 2, action: "REPLAY".into() }];
    });
}

/// e3 halted its conversation, and was resumed.
fn resumed(history: &mut History) {
    let (publication, end) = (&mut history.publications[2], &mut history.finals[2]);
    (publication.resumes, publication.told_resumed) = (1, true);
    (end.attempts, end.ends) = (6, numbered(&[End::Failed; 6]));
    end.past = vec![Past { state: "HALTED".into(), attempts: 3, action: "RESUME".into() }];
}

#[test]
fn a_promise_to_resume_that_is_not_kept() {
    assert_eq!(healthy_all_the_same(resumed).resumed, 1);
    found(Invariant::FittingOutcome, |history| {
        resumed(history);
        history.finals[2].past.clear();
    });
    // It is on record, and nothing came of it.
    found(Invariant::FittingOutcome, |history| {
        resumed(history);
        history.finals[2].past[0].attempts = 6;
    });
}

#[test]
fn a_promise_to_skip_that_is_not_kept() {
    let skipped = |history: &mut History| {
        history.publications[2].told_skipped = true;
        history.finals[2].past = vec![Past { state: "HALTED".into(), attempts: 3, action: "SKIP".into() }];
    };
    healthy_all_the_same(skipped);
    found(Invariant::FittingOutcome, |history| {
        skipped(history);
        history.finals[2].past.clear();
    });
}
