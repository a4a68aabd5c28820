//! A run leaves nothing behind and cannot hurt the next one.

use std::time::Duration;

use chatfn_proto::{
    convert::to_duration, ingest::v1::DeliveryState, invoker::v1::FailureKind, registry::v1::FunctionSettings,
};
use chatfn_tests::{
    api::{self, Api, failure, report, result, settings},
    cluster::Cluster,
    witness::Witness,
};

#[tokio::test]
async fn globals_and_random_numbers_are_fresh_in_every_run() {
    let cluster = Cluster::start().await;
    let mut api = Api::of(&cluster);
    let source = r"
      let runs = 0;
      async function lambda() {
        runs += 1;
        globalThis.leak = (globalThis.leak ?? 0) + 1;
        Array.prototype.leak = Object.prototype.leak2 = 'leaked';
        return { runs, leak: globalThis.leak, random: Math.random(), uuid: crypto.randomUUID() };
      }";
    api.deploy("chat.participants_change", source, settings("127.0.0.1", 1)).await;
    let one = result(&api.run("chat.participants_change", "e-1").await);
    let two = result(&api.run("chat.participants_change", "e-2").await);
    for result in [&one, &two] {
        assert_eq!((&result["runs"], &result["leak"]), (&1.into(), &1.into()));
    }
    assert_ne!(one["random"], two["random"]);
    assert_ne!(one["uuid"], two["uuid"]);
}

#[tokio::test]
async fn hostile_lambdas_fail_by_themselves_and_alone() {
    let (cluster, witness) = (Cluster::start().await, Witness::start().await);
    let mut api = Api::of(&cluster);
    let source = r"
      async function lambda(input, context) {
        console.log('start of ' + context.eventId);
        switch (context.eventId) {
          case 'loop': while (true) {}
          case 'regex': return /^(a+)+$/.test('a'.repeat(40) + '!');
          case 'never': return new Promise(() => {});
          case 'memory': { const all = []; while (true) all.push(new Array(1e5).fill(all.length)); }
          case 'stack': { const deeper = () => deeper() + 1; return deeper(); }
          case 'cycle': { const it = {}; it.it = it; return it; }
          case 'giant': return 'x'.repeat(2 * 1024 * 1024);
          case 'refused': return await fetch('http://169.254.169.254/latest/meta-data/');
          case 'logs': for (let n = 0; ; n++) console.log(n);
        }
        return 'fine';
      }";
    // What ends by itself has time for that, however slow the machine.
    let (short, long) = ("chat.participants_change", "chat.start");
    let timeout = Some(to_duration(Duration::from_secs(2)));
    api.deploy(short, source, FunctionSettings { timeout, ..settings(&witness.host, 1) }).await;
    api.deploy(long, source, settings(&witness.host, 1)).await;

    for (template, id, kind) in [
        (short, "loop", FailureKind::Timeout),
        (short, "regex", FailureKind::Timeout),
        (long, "never", FailureKind::NeverSettles),
        (long, "memory", FailureKind::OutOfMemory),
        (long, "stack", FailureKind::Thrown),
        (long, "cycle", FailureKind::ResultNotJson),
        (long, "giant", FailureKind::ResultTooLarge),
        (long, "refused", FailureKind::Thrown),
        (short, "logs", FailureKind::Timeout),
    ] {
        let delivery = api.run(template, id).await;
        assert_eq!(delivery.state(), DeliveryState::DeadLettered, "{id}");
        assert_eq!(failure(&delivery).kind(), kind, "{id}: {:?}", failure(&delivery));
        let report = report(&delivery);
        assert_eq!(
            report.logs[0].message,
            if id == "logs" { "start of logs".into() } else { format!("start of {id}") }
        );
        match id {
            "logs" => assert!(report.logs_truncated && report.logs.len() <= 101),
            "refused" => assert_eq!(report.outbound_calls[0].error_reason, "HOST_NOT_ALLOWED"),
            "never" => {
                let duration = report.duration.as_ref().unwrap();
                let left = report.remaining_budget.as_ref().unwrap();
                assert!(left.nanos > 0, "it failed at once, not at its deadline: {duration:?}");
            }
            _ => {}
        }
        assert_eq!(result(&api.run(long, &format!("after-{id}")).await), "fine");
    }
}

#[tokio::test]
async fn one_account_does_not_see_another() {
    let cluster = Cluster::start().await;
    let mut api = Api::of(&cluster);
    api.deploy("chat.participants_change", "async function lambda() { return 1 }", settings("127.0.0.1", 1))
        .await;
    let mut event = api::event("chat.participants_change", "e-1", "c-1");
    assert_eq!(api.run("chat.participants_change", "e-1").await.state(), DeliveryState::Succeeded);

    // The same ids in another account are other things.
    event.account = "other".into();
    assert!(!api.publish(event).await.unwrap().duplicate);
    let name = "accounts/other/deliveries/e-1".to_owned();
    let request = chatfn_proto::ingest::v1::GetDeliveryRequest { name };
    let delivery = chatfn_tests::eventually("the other account's event has an outcome", async || {
        let delivery =
            api.deliveries.get_delivery(request.clone()).await.unwrap().into_inner().delivery.unwrap();
        (delivery.state() != DeliveryState::Pending).then_some(delivery)
    })
    .await;
    assert_eq!(delivery.state(), DeliveryState::NoFunction);
}
