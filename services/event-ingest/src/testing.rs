//! For the tests of pure logic.

use proptest::prelude::ProptestConfig;

use crate::event::NewEvent;

/// As many cases as `CHATFN_PROPTEST_CASES` says; 10,000 by default.
pub(crate) fn cases() -> ProptestConfig {
    let cases = std::env::var("CHATFN_PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    ProptestConfig { cases: cases.unwrap_or(10_000), ..ProptestConfig::default() }
}

/// An event of conversation `c`.
pub(crate) fn new_event(account: &str, id: &str, payload: Vec<u8>) -> NewEvent {
    NewEvent {
        account: account.parse().unwrap(),
        event_id: id.parse().unwrap(),
        template: "chat.message".parse().unwrap(),
        conversation_id: "c".parse().unwrap(),
        payload,
        headers: None,
        hash: [0; 32],
        occur_time: None,
        deliver_by: None,
        traceparent: None,
        fires_once: false,
    }
}
