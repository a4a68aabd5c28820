//! What the log tells of events that wait for people.

use chatfn_domain::retry::AfterLastAttempt;
use chatfn_proto::ingest::v1::{DeliveryState, event::PayloadKind};
use chatfn_telemetry::testing::Log;

use crate::{
    harness::{ACME, World, event, settings},
    invoker::Answer,
};

const SECRET: &str = "told to nobody";

#[tokio::test(flavor = "multi_thread")]
async fn halted_conversations_and_dead_letters_are_named_in_the_log() {
    let log = Log::of_process("trace,h2=debug,hyper=debug,hyper_util=debug");
    for (after, state, message) in [
        (AfterLastAttempt::Halt, DeliveryState::Halted, "a conversation has halted"),
        (AfterLastAttempt::Skip, DeliveryState::DeadLettered, "an event is dead-lettered"),
    ] {
        let mut settings = settings(1);
        settings.retry.after_last_attempt = after;
        let world = World::start_with(settings, |_| {}).await;
        world.invoker.script("bad", [Answer::Throws]);
        let mut bad = event("c", "bad");
        bad.payload_kind = Some(PayloadKind::PayloadJson(format!(r#"{{"text":"{SECRET}"}}"#)));
        world.replica.publish(bad).await.unwrap();
        world.replica.reaches("bad", state).await;
        let log = log.text();
        let line = log.lines().find(|line| line.contains(message)).unwrap_or_else(|| panic!("{log}"));
        for told in [&format!("account={ACME}"), "conversation_id=c", "event_id=bad", "LAMBDA_FAILED"] {
            assert!(line.contains(told), "{told} is not in {line}");
        }
        assert!(!log.contains(SECRET));
    }
}
