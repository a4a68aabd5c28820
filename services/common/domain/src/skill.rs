//! Which skill an event is about.

use serde_json::Value;

/// Where payloads carry the id of a skill, the most telling place first: chat and survey events at the top, messaging
/// events in the part that all of them share, and routing events where the conversation went.
const PLACES: [&[&str]; 3] = [&["skillId"], &["routing", "newSkillId"], &["general", "skillId"]];

/// The id of the skill that a payload carries, as text: ids are sent as strings and as numbers. `None` if it carries
/// none.
pub fn skill_of(payload: &Value) -> Option<String> {
    PLACES.iter().find_map(|place| {
        let value = place.iter().try_fold(payload, |value, key| value.get(key))?;
        match value {
            Value::String(id) if !id.is_empty() => Some(id.clone()),
            Value::Number(id) => Some(id.to_string()),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn skills_are_found_where_payloads_carry_them() {
        for (payload, skill) in [
            (json!({"skillId": "25975313"}), Some("25975313")),
            (json!({"skillId": 25975313}), Some("25975313")),
            (json!({"routing": {"oldSkillId": "1", "newSkillId": "2"}}), Some("2")),
            (json!({"general": {"skillId": "3"}}), Some("3")),
            (json!({"skillId": "", "general": {"skillId": "3"}}), Some("3")),
            (json!({"skillId": null}), None),
            (json!({"skillId": {"id": "1"}}), None),
            (json!({"routing": "x"}), None),
            (json!({}), None),
        ] {
            assert_eq!(skill_of(&payload).as_deref(), skill, "{payload}");
        }
    }
}
