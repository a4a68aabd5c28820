//! What may come in: checks an event before anything is written.

mod payload;

use std::sync::Arc;

use chatfn_deployments::{Deployments, SchemaProblem, Schemas, Template};
use chatfn_domain::{
    event::{event_hash, parse_payload},
    name::{AccountId, ConversationId, EventId, TemplateName},
};
use chatfn_proto::{
    convert::parse,
    ingest::v1::{Event, event::PayloadKind},
    scope::{self, NotFound},
    validate::Validate as _,
};
use chatfn_rpc::{ApiError, CallContext, reasons};
use prost_types::Timestamp;
use serde_json::Value;
use tonic::Status;

use crate::{error, event::NewEvent, headers, store::Time};

/// Checks events: the contract's rules, names, template, payload, schema; in this order, so that hostile
/// input costs little.
#[derive(Debug)]
pub(crate) struct Intake {
    deployments: Deployments,
    schemas: Schemas,
}

impl Intake {
    pub(crate) fn new(deployments: Deployments) -> Self {
        Self { deployments, schemas: Schemas::default() }
    }

    /// The event of a request, checked.
    ///
    /// # Errors
    /// Those of PublishEvent that speak of the event itself; fields are named as `event.…`.
    pub(crate) fn check(&self, event: Event, context: &CallContext) -> Result<NewEvent, Status> {
        event.validate().map_err(|violations| violations.below("event"))?;
        check_account(&event, context)?;
        let account: AccountId = parse("event.account", &event.account)?;
        let event_id: EventId = parse("event.event_id", &event.event_id)?;
        let template: TemplateName = parse("event.template", &event.template)?;
        let conversation_id: ConversationId = parse("event.conversation_id", &event.conversation_id)?;
        let occur_time = time("event.occur_time", event.occur_time.as_ref())?;
        let deliver_by = time("event.deliver_by", event.deliver_by.as_ref())?;
        let known = self.deployments.template(&template).map_err(|_| error::no_snapshot())?;
        let known = known.ok_or_else(|| error::template_not_found(&template))?;

        let (json, field) = match event.payload_kind {
            Some(PayloadKind::PayloadJson(text)) => (Ok(text), "event.payload_json"),
            Some(PayloadKind::Payload(message)) => (payload::struct_to_json(&message), "event.payload"),
            None => (Ok(String::new()), "event.payload"),
        };
        let json = json.map_err(|problem| error::payload(field, &problem))?;
        let value = parse_payload(&json).map_err(|problem| error::payload(field, &problem))?;
        self.check_schema(&known, &value)?;

        let headers = headers::to_json(&event.headers).map_err(ApiError::internal)?;
        let hash = event_hash(&[
            template.as_str().as_bytes(),
            conversation_id.as_str().as_bytes(),
            &payload::canonical(&value),
            headers.as_deref().unwrap_or_default(),
            &hash_part(occur_time),
            &hash_part(deliver_by),
        ]);
        Ok(NewEvent {
            account,
            event_id,
            template,
            conversation_id,
            payload: json.into_bytes(),
            headers,
            hash,
            occur_time,
            deliver_by,
            traceparent: context.trace.map(|trace| trace.to_string()),
            fires_once: known.fires_once,
        })
    }

    fn check_schema(&self, template: &Arc<Template>, payload: &Value) -> Result<(), ApiError> {
        let problems = self.schemas.check(template, payload).map_err(ApiError::internal)?;
        let Some(first) = problems.first() else { return Ok(()) };
        let more = match problems.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        let message = format!(
            "the payload does not satisfy the schema of {}: {}: {}{more}",
            template.name, first.field, first.description
        );
        let error = ApiError::invalid_argument(reasons::PAYLOAD_SCHEMA, message);
        Err(problems.into_iter().fold(error, |error, SchemaProblem { field, description }| {
            error.field(format!("event.{field}"), description)
        }))
    }
}

/// Checks that the caller may publish for the account that the event names.
pub(crate) fn check_account(event: &Event, context: &CallContext) -> Result<(), NotFound> {
    let caller = context.caller.as_ref().expect("every call of a server has a caller");
    scope::check(caller, event)
}

fn time(field: &str, wire: Option<&Timestamp>) -> Result<Option<Time>, Status> {
    let Some(wire) = wire else { return Ok(None) };
    let time = Time::from_wire(wire).ok_or_else(|| {
        ApiError::invalid_argument(reasons::INVALID_REQUEST, format!("{field} is not a time"))
            .field(field, "must be a time from year 1 to year 9999")
    })?;
    Ok(Some(time))
}

fn hash_part(time: Option<Time>) -> Vec<u8> {
    time.map(|time| time.micros().to_be_bytes().to_vec()).unwrap_or_default()
}
