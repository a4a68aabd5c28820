//! An event as a lambda sees it.

use bytes::Bytes;
use chatfn_deployments::Deployment;
use chatfn_domain::{
    event::{given_idempotency_key, idempotency_key, parse_payload},
    name::{EventId, FunctionName},
};
use chatfn_proto::{convert::parse, invoker::v1::InvocationEvent, validate::Violations};
use chatfn_rpc::Deadline;
use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

/// An event that is fit to run.
pub(crate) struct Event {
    pub(crate) fields: InvocationEvent,
    /// What the idempotency keys of the run's writes are derived from.
    pub(crate) key: Uuid,
}

impl Event {
    /// Checks what a caller sent. Without a key of its own the event gets one that is derived from function and event.
    ///
    /// # Errors
    /// The field that is wrong.
    pub(crate) fn read(function: &FunctionName, fields: InvocationEvent) -> Result<Self, Violations> {
        let id: EventId = parse("event.event_id", &fields.event_id)?;
        parse_payload(&fields.payload_json)
            .map_err(|error| Violations::one("event.payload_json", error.to_string()))?;
        let key = match fields.idempotency_key.as_str() {
            "" => idempotency_key(function, &id),
            given => given_idempotency_key(given),
        };
        Ok(Self { fields, key })
    }

    /// `{headers: [{key, value}], payload}`.
    pub(crate) fn input_json(&self) -> Bytes {
        #[derive(Serialize)]
        struct Header<'a> {
            key: &'a str,
            value: &'a str,
        }
        let headers: Vec<_> = self
            .fields
            .headers
            .iter()
            .map(|header| Header { key: &header.key, value: &header.value })
            .collect();
        let headers = serde_json::to_string(&headers).expect("strings are JSON");
        // The payload is JSON, as `read` has made sure.
        format!(r#"{{"headers":{headers},"payload":{}}}"#, self.fields.payload_json).into()
    }

    /// The fields of the lambda's `context`.
    pub(crate) fn context_json(&self, deployment: &Deployment, deadline: Deadline) -> Bytes {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Context<'a> {
            account: &'a str,
            template: &'a str,
            function_version: i64,
            event_id: &'a str,
            conversation_id: &'a str,
            attempt: u32,
            idempotency_key: String,
            deadline: Option<String>,
        }
        let key = match self.fields.idempotency_key.as_str() {
            "" => self.key.to_string(),
            given => given.to_owned(),
        };
        let context = Context {
            account: deployment.function.account.as_str(),
            template: deployment.function.template.as_str(),
            function_version: deployment.version.get(),
            event_id: &self.fields.event_id,
            conversation_id: &self.fields.conversation_id,
            attempt: self.fields.attempt,
            idempotency_key: key,
            deadline: wall_clock(deadline),
        };
        serde_json::to_vec(&context).expect("strings and numbers are JSON").into()
    }
}

/// The deadline as `Date` reads it, to the millisecond.
fn wall_clock(deadline: Deadline) -> Option<String> {
    let millis = i64::try_from(deadline.remaining().as_millis()).ok()?;
    let at = Timestamp::now().as_millisecond().checked_add(millis)?;
    Some(Timestamp::from_millisecond(at).ok()?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lambda_sees_the_event() {
        let function: FunctionName = "accounts/acme/functions/chat.start".parse().unwrap();
        let fields = InvocationEvent {
            event_id: "e1".into(),
            conversation_id: "c1".into(),
            attempt: 2,
            payload_json: r#"{"a": "\"}"}"#.into(),
            headers: vec![chatfn_proto::invoker::v1::Header { key: "k\"".into(), value: "v".into() }],
            idempotency_key: String::new(),
        };
        let event = Event::read(&function, fields.clone()).unwrap();
        let input: serde_json::Value = serde_json::from_slice(&event.input_json()).unwrap();
        assert_eq!(
            input,
            serde_json::json!({"headers": [{"key": "k\"", "value": "v"}], "payload": {"a": "\"}"}})
        );
        assert_eq!(event.key, idempotency_key(&function, &"e1".parse().unwrap()));

        let injected = InvocationEvent { payload_json: r#"{}, "headers": {}"#.into(), ..fields };
        assert!(Event::read(&function, injected).is_err());
    }
}
