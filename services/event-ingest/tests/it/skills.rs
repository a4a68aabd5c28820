//! Functions that are for some skills only.

use chatfn_proto::ingest::v1::{DeliveryState, Event, event::PayloadKind};

use crate::harness::{World, event, settings};

#[tokio::test(flavor = "multi_thread")]
async fn a_function_with_skills_runs_for_events_that_carry_one_of_them() {
    let mut settings = settings(1);
    settings.skills = ["25975313".to_owned(), "7".to_owned()].into();
    let world = World::start_with(settings, |_| {}).await;
    let with = |id: &str, payload: &str| Event {
        payload_kind: Some(PayloadKind::PayloadJson(payload.to_owned())),
        ..event("c", id)
    };
    let batch = vec![
        with("text", r#"{"skillId": "25975313"}"#),
        with("number", r#"{"skillId": 7}"#),
        with("routed", r#"{"routing": {"oldSkillId": "1", "newSkillId": "7"}}"#),
        with("other", r#"{"skillId": "8"}"#),
        with("left", r#"{"routing": {"oldSkillId": "7", "newSkillId": "1"}}"#),
        with("none", r#"{"text": "7"}"#),
        with("last", r#"{"skillId": "7"}"#),
    ];
    assert!(world.replica.publish_all(batch).await.iter().all(Result::is_ok));
    for id in ["text", "number", "routed", "last"] {
        world.replica.reaches(id, DeliveryState::Succeeded).await;
    }
    for (id, has) in [("other", "skill \"8\""), ("left", "skill \"1\""), ("none", "no skill")] {
        let delivery = world.replica.reaches(id, DeliveryState::NoFunction).await;
        assert_eq!(delivery.reason, "SKILL_NOT_LISTED");
        assert!(delivery.reason_message.contains(has), "{delivery:?}");
        assert!(world.invoker.runs_of(id).is_empty());
    }
}
