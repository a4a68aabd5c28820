use std::time::Duration;

use chatfn_rpc::Shutdown;
use futures_util::FutureExt as _;

use super::{
    accounts::PAUSE,
    state::{FALL_EVERY, TRIAL},
    *,
};

fn account(name: &str) -> AccountId {
    name.parse().unwrap()
}

fn acme() -> AccountId {
    account("acme")
}

fn gate(most: usize) -> Gate {
    Gate::spawn(most, &TaskGroup::new("gate", &Shutdown::new()))
}

/// Enters if it need not wait.
fn try_enter(gate: &Gate, account: &AccountId) -> Option<Permit> {
    gate.enter(account).now_or_never()
}

/// As many runs as need not wait.
fn fill(gate: &Gate, account: &AccountId) -> Vec<Permit> {
    std::iter::from_fn(|| try_enter(gate, account)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_dead_invoker_is_tried_seldom_and_one_run_at_a_time() {
    let gate = gate(8);
    let start = Instant::now();
    let mut tries = 0;
    while start.elapsed() < Duration::from_secs(60) {
        let permit = gate.enter(&acme()).await;
        tries += 1;
        if tries > 1 {
            assert!(try_enter(&gate, &account("other")).is_none(), "a second trial at once");
        }
        permit.leave(Verdict::Down);
    }
    assert!((20..=45).contains(&tries), "{tries} tries in a minute");
    gate.enter(&acme()).await.leave(Verdict::Took);
    assert!(fill(&gate, &acme()).len() > 1, "it is back, and everything may run");
}

#[tokio::test(start_paused = true)]
async fn an_invoker_that_drops_packets_is_not_back() {
    let gate = gate(8);
    gate.enter(&acme()).await.leave(Verdict::Down);
    let trial = gate.enter(&acme()).await;
    // As long as it may take until its start is durable, and then as long as connecting may.
    assert!(tokio::time::timeout(Duration::from_secs(3), gate.enter(&acme())).await.is_err());
    trial.begins();
    let next = tokio::time::timeout(Duration::from_secs(2), gate.enter(&acme())).await;
    assert!(next.is_err(), "the trial has not failed yet");
    trial.leave(Verdict::Down);
    let slow = gate.enter(&acme()).await;
    slow.begins();
    let runs = tokio::time::timeout(2 * TRIAL, gate.enter(&acme())).await;
    assert!(runs.is_ok(), "it takes long, but it runs");
    slow.leave(Verdict::Took);
}

#[tokio::test(start_paused = true)]
async fn a_trial_that_is_dropped_lets_the_next_one_try() {
    let gate = gate(2);
    gate.enter(&acme()).await.leave(Verdict::Down);
    let trial = gate.enter(&acme()).await;
    drop(trial);
    assert!(try_enter(&gate, &acme()).is_some());
}

#[tokio::test(start_paused = true)]
async fn an_overloaded_invoker_gets_less_and_then_more_again() {
    let gate = gate(3);
    for _ in 0..50 {
        let permit = gate.enter(&acme()).await;
        tokio::time::sleep(FALL_EVERY).await;
        permit.leave(Verdict::Overloaded);
    }
    let one = gate.enter(&acme()).await;
    assert!(try_enter(&gate, &acme()).is_none(), "down to one at a time");
    one.leave(Verdict::Took);
    for _ in 0..1000 {
        gate.enter(&acme()).await.leave(Verdict::Declined);
    }
    assert!(fill(&gate, &acme()).len() < 3, "that it answers does not mean that it has room");
    for _ in 0..1000 {
        gate.enter(&acme()).await.leave(Verdict::Took);
    }
    assert_eq!(fill(&gate, &acme()).len(), 3, "never more than configured");
}

#[tokio::test(start_paused = true)]
async fn an_overloaded_invoker_gets_more_again_while_slow_runs_last() {
    let gate = gate(3);
    for _ in 0..50 {
        let permit = gate.enter(&acme()).await;
        tokio::time::sleep(FALL_EVERY).await;
        permit.leave(Verdict::Overloaded);
    }
    let start = Instant::now();
    let slow = [gate.enter(&acme()).await, gate.enter(&acme()).await, gate.enter(&acme()).await];
    assert!(start.elapsed() >= PAUSE && start.elapsed() <= 3 * PAUSE, "{:?}", start.elapsed());
    drop(slow);
}

#[tokio::test(start_paused = true)]
async fn an_account_whose_runs_hang_leaves_room_to_others() {
    let gate = gate(8);
    let hanging = fill(&gate, &acme());
    assert_eq!(hanging.len(), 6);
    let other = account("other");
    for _ in 0..100 {
        try_enter(&gate, &other).expect("there is room").leave(Verdict::Took);
    }
}

#[tokio::test(start_paused = true)]
async fn an_account_with_more_than_a_fallen_limit_does_not_shut_out_others() {
    let gate = gate(64);
    let hanging = fill(&gate, &acme());
    assert_eq!(hanging.len(), 48);
    // Some of the invokers have no room, until the limit is far below that.
    for _ in 0..10 {
        gate.enter(&account("other")).await.leave(Verdict::Overloaded);
        tokio::time::advance(FALL_EVERY).await;
    }
    assert!(gate.state().limit < 24.0, "{}", gate.state().limit);
    for _ in 0..10 {
        let start = Instant::now();
        gate.enter(&account("other")).await.leave(Verdict::Declined);
        assert!(start.elapsed() <= PAUSE, "{:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_free_goes_to_accounts_in_turn() {
    let gate = gate(3);
    // Few are not divided.
    let mut running: Vec<_> = (0..3).map(|_| try_enter(&gate, &acme()).unwrap()).collect();
    let others = ["a", "b", "acme", "acme", "c"].map(account);
    let mut waiting: Vec<_> = others.iter().map(|it| gate.enter(it).boxed()).collect();
    assert!(waiting.iter_mut().all(|it| it.now_or_never().is_none()));
    let mut waiting: futures_util::stream::FuturesUnordered<_> = waiting.into_iter().collect();
    let mut entered = Vec::new();
    while !waiting.is_empty() {
        running.pop();
        let next = futures_util::StreamExt::next(&mut waiting).await.unwrap();
        entered.push(next.account().to_string());
        running.insert(0, next);
    }
    assert_eq!(entered, ["a", "b", "acme", "c", "acme"]);
}

#[tokio::test(start_paused = true)]
async fn whoever_gives_up_holds_up_nobody() {
    let gate = gate(1);
    let running = gate.enter(&acme()).await;
    for _ in 0..10 * MANY {
        assert!(try_enter(&gate, &acme()).is_none());
    }
    assert!(gate.state().waiting.len_of(&acme()) <= MANY, "they are forgotten");
    // One is let in and gives up before it hears of it.
    let acme = acme();
    let mut waits = gate.enter(&acme).boxed();
    assert!((&mut waits).now_or_never().is_none());
    drop(running);
    drop(waits);
    assert!(try_enter(&gate, &acme).is_some());
    assert_eq!(gate.state().running, 0);
}

#[tokio::test(start_paused = true)]
async fn an_account_that_the_invoker_refuses_is_tried_again_by_itself() {
    let gate = gate(8);
    let hanging = gate.enter(&acme()).await;
    for _ in 0..3 {
        gate.enter(&acme()).await.leave(Verdict::Busy);
        assert!(try_enter(&gate, &acme()).is_none());
        assert!(try_enter(&gate, &account("other")).is_some(), "others need not wait");
        let start = Instant::now();
        drop(gate.enter(&acme()).await);
        assert_eq!(start.elapsed(), PAUSE);
    }
    drop(hanging);
}

#[tokio::test(start_paused = true)]
async fn an_account_that_is_refused_is_tried_again_while_another_waits() {
    let gate = gate(8);
    let (acme, other) = (acme(), account("other"));
    let _hanging = fill(&gate, &acme);
    let one_more = gate.enter(&acme);
    let refused = async {
        gate.enter(&other).await.leave(Verdict::Busy);
        // Not at once, so that the gate has looked meanwhile.
        tokio::time::sleep(PAUSE / 10).await;
        gate.enter(&other).await
    };
    tokio::select! {
        biased;
        _ = one_more => panic!("it has its share"),
        entered = tokio::time::timeout(2 * PAUSE, refused) => assert!(entered.is_ok(), "nobody looked"),
    }
}
