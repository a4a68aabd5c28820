//! Timers: bounded in number, and none outlives its run.

use chatfn_engine::FailureKind;

use crate::support::{Slot, call, failure, messages, returned};

#[tokio::test]
async fn there_is_a_most_of_timers() {
    let slot = Slot::new().await;
    for body in [
        "for (let n = 0; n < 1e6; n++) setTimeout(() => {}, 1e6)",
        "for (let n = 0; n < 1e6; n++) setInterval(() => {}, 1e6 - n)",
        "for (let n = 0; n < 1e6; n++) setImmediate(() => {})",
        "for (let n = 0; n < 1e6; n++) AbortSignal.timeout(1e6)",
    ] {
        let report = slot.fails(body, FailureKind::Thrown).await;
        assert!(failure(&report).message.contains("10000 timers already"), "{body}: {:?}", failure(&report));
    }
}

#[tokio::test]
async fn timers_that_are_gone_make_room() {
    let slot = Slot::new().await;
    let body = "
      setTimeout(() => {}, 1e6); // an older one, which stays
      for (let n = 0; n < 15000; n++) clearTimeout(setTimeout(() => {}, 1e5));
      let ran = 0;
      for (let round = 0; round < 3; round++) {
        for (let n = 0; n < 4000; n++) setTimeout(() => ran++, 0);
        await new Promise((resolve) => setTimeout(resolve, 1));
        while (ran < (round + 1) * 4000) await new Promise((resolve) => setTimeout(resolve, 1));
      }
      return ran;";
    assert_eq!(slot.returns(body).await, 12_000);
}

#[tokio::test]
async fn a_cleared_timer_does_not_run_and_the_others_keep_their_order() {
    let slot = Slot::new().await;
    let body = "
      const order = []; const ids = {};
      for (const name of ['a', 'b', 'c', 'd']) ids[name] = setTimeout(() => { order.push(name); clearTimeout(ids.c) }, 1);
      clearTimeout(ids.b); clearTimeout(ids.b); clearTimeout(12345); clearTimeout(undefined);
      let ticks = 0;
      await new Promise((resolve) => { const id = setInterval(() => { if (++ticks === 3) { clearInterval(id); resolve() } }, 1) });
      await new Promise((resolve) => setTimeout(resolve, 5));
      return [order.join(''), ticks];";
    assert_eq!(slot.returns(body).await, serde_json::json!(["ad", 3]));
}

#[tokio::test]
async fn no_timer_outlives_its_run() {
    let slot = Slot::new().await;
    let source = "async function lambda() { setTimeout(() => console.log('late'), 1); setInterval(() => console.log('again'), 1); return 'early' }";
    let report = slot.run(source, call("1")).await;
    assert_eq!(returned(&report), "early");
    assert!(messages(&report.logs).is_empty(), "{:?}", report.logs);
}

#[tokio::test]
async fn waiting_ends_at_the_deadline() {
    let slot = Slot::new().await;
    for body in [
        "await new Promise((resolve) => setTimeout(resolve, 1e9))",
        "setInterval(() => {}, 0); await new Promise(() => {})",
        "while (true) await new Promise((resolve) => setTimeout(resolve, 0))",
        "const again = () => setImmediate(again); again(); await new Promise(() => {})",
    ] {
        slot.endless(body).await;
    }
}

#[tokio::test]
async fn what_a_timer_throws_ends_the_run() {
    let slot = Slot::new().await;
    let body = "setTimeout(() => { throw new TypeError('in a timer') }, 1); await new Promise(() => {})";
    let report = slot.fails(body, FailureKind::Thrown).await;
    assert_eq!(failure(&report).message, "in a timer");
}

#[tokio::test]
async fn delays_that_are_no_delays_are_short() {
    let slot = Slot::new().await;
    let body = "
      for (const delay of [-5, NaN, Infinity, 2 ** 31, 'soon', undefined, null]) await new Promise((resolve) => setTimeout(resolve, delay));
      return 'all'";
    assert_eq!(slot.returns(body).await, "all");
}
