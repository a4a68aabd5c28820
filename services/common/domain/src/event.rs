//! Which payloads are well-formed, and the idempotency key of an event.

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::name::{EventId, FunctionName};

/// Most bytes of a payload as JSON.
pub const MAX_PAYLOAD_BYTES: usize = 256 * 1024;
/// Deepest nesting of a payload. serde_json's own limit is 128; no known chat payload needs more than 8.
pub const MAX_PAYLOAD_DEPTH: usize = 64;

/// A payload that cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// Larger than [`MAX_PAYLOAD_BYTES`].
    #[error("the payload has {0} bytes; at most {MAX_PAYLOAD_BYTES} are allowed")]
    TooLarge(usize),
    /// Nested deeper than [`MAX_PAYLOAD_DEPTH`].
    #[error("the payload is nested deeper than {MAX_PAYLOAD_DEPTH} levels")]
    TooDeep,
    /// Not JSON.
    #[error("the payload is not JSON: {0}")]
    NotJson(String),
    /// JSON, but not an object.
    #[error("the payload must be a JSON object")]
    NotAnObject,
}

/// Parses a payload after checking its size and depth, so that hostile input costs little.
///
/// # Errors
/// See [`PayloadError`].
pub fn parse_payload(json: &str) -> Result<serde_json::Value, PayloadError> {
    if json.len() > MAX_PAYLOAD_BYTES {
        return Err(PayloadError::TooLarge(json.len()));
    }
    if depth(json) > MAX_PAYLOAD_DEPTH {
        return Err(PayloadError::TooDeep);
    }
    let value: serde_json::Value =
        serde_json::from_str(json).map_err(|error| PayloadError::NotJson(error.to_string()))?;
    if value.is_object() { Ok(value) } else { Err(PayloadError::NotAnObject) }
}

/// Deepest nesting of brackets outside of strings.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// SHA-256 of what makes two publications the same event; a publisher's retry has the same.
pub fn event_hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// The idempotency key of an event for a function: the same over all attempts and replays.
pub fn idempotency_key(function: &FunctionName, event: &EventId) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("chatfn:{function}/events/{event}").as_bytes())
}

/// The idempotency key that a caller gave for an event: a UUID stands for itself, any other text for a UUID of its own.
pub fn given_idempotency_key(text: &str) -> Uuid {
    text.parse()
        .unwrap_or_else(|_| Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("chatfn:keys/{text}").as_bytes()))
}

/// The idempotency key of one outbound call: the `ordinal`-th (from 0) write of a run of `function`. Functions that run
/// with the same given key have calls with keys of their own.
pub fn call_idempotency_key(event_key: &Uuid, function: &FunctionName, ordinal: u32) -> Uuid {
    Uuid::new_v5(event_key, format!("{function}/calls/{ordinal}").as_bytes())
}

/// The key that takes the place of the event's in a function that a run of `function` invokes: the `ordinal`-th (from
/// 0) that it invokes.
pub fn child_idempotency_key(event_key: &Uuid, function: &FunctionName, ordinal: u32) -> Uuid {
    Uuid::new_v5(event_key, format!("{function}/children/{ordinal}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_checked_before_they_are_parsed() {
        assert!(parse_payload(r#"{"a": {"b": [1, "]]]]", "\"{{"]}}"#).is_ok());
        assert_eq!(parse_payload("[1]"), Err(PayloadError::NotAnObject));
        assert!(matches!(parse_payload("{"), Err(PayloadError::NotJson(_))));
        assert!(matches!(parse_payload(r#"{"a":"\ud800"}"#), Err(PayloadError::NotJson(_))));
        assert_eq!(parse_payload(&"[".repeat(10_000)), Err(PayloadError::TooDeep));
        let large = format!("{{\"a\":\"{}\"}}", "x".repeat(MAX_PAYLOAD_BYTES));
        assert_eq!(parse_payload(&large), Err(PayloadError::TooLarge(large.len())));
    }

    #[test]
    fn the_hash_keeps_its_parts_apart() {
        assert_ne!(event_hash(&[b"ab", b"c"]), event_hash(&[b"a", b"bc"]));
    }

    #[test]
    fn keys_differ_by_function_event_and_call() {
        let function: FunctionName = "accounts/acme/functions/chat.start".parse().unwrap();
        let other: FunctionName = "accounts/acme/functions/chat.end".parse().unwrap();
        let event: EventId = "e1".parse().unwrap();
        let key = idempotency_key(&function, &event);
        assert_eq!(key, idempotency_key(&function, &event));
        assert_ne!(key, idempotency_key(&other, &event));
        assert_ne!(key, idempotency_key(&function, &"e2".parse().unwrap()));
        let call = call_idempotency_key(&key, &function, 0);
        assert_eq!(call, call_idempotency_key(&key, &function, 0));
        assert_ne!(call, call_idempotency_key(&key, &function, 1));
        assert_ne!(call, call_idempotency_key(&key, &other, 0));
        let child = child_idempotency_key(&key, &function, 0);
        assert_eq!(child, child_idempotency_key(&key, &function, 0));
        assert_ne!(child, child_idempotency_key(&key, &function, 1));
        assert_ne!(child, child_idempotency_key(&key, &other, 0));
        assert_ne!(child, call);
        assert_eq!(given_idempotency_key(&key.to_string()), key);
        assert_eq!(given_idempotency_key("a"), given_idempotency_key("a"));
        assert_ne!(given_idempotency_key("a"), given_idempotency_key("b"));
    }
}
