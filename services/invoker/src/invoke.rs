//! One invocation, from request to report.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use chatfn_deployments::{Deployment, Deployments};
use chatfn_domain::{
    event::{given_idempotency_key, idempotency_key, parse_payload},
    name::{EventId, FunctionName},
};
use chatfn_engine::{Call, Engine};
use chatfn_proto::{
    convert::parse,
    invoker::v1::{InvocationEvent, InvokeRequest, RunReport},
    validate::Violations,
};
use chatfn_rpc::{CallContext, Deadline, budget::hop_margin};
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::{
    egress::{Egress, RunEgress, RunScope},
    error::InvokerError,
    functions::{Functions, is_authors},
    host::RunHost,
    report,
};

/// A call's answer needs at least this long after the end of its run: the engine may be some milliseconds late, and the
/// report has to be written.
const MIN_MARGIN: Duration = Duration::from_millis(10);
/// A run shorter than this is not worth its sandbox.
const MIN_RUN: Duration = Duration::from_millis(5);

/// Runs what is live.
pub(crate) struct Invoker {
    pub(crate) deployments: Deployments,
    pub(crate) functions: Functions,
    pub(crate) engine: Engine,
    pub(crate) egress: Arc<Egress>,
    /// Runs that may start now.
    pub(crate) runs: Semaphore,
    pub(crate) max_runs: usize,
}

impl Invoker {
    /// Runs the live version of a function. Cancel safe: dropping the future ends the lambda and its outbound calls.
    pub(crate) async fn invoke(
        &self,
        request: InvokeRequest,
        context: &CallContext,
    ) -> Result<RunReport, InvokerError> {
        let name: FunctionName = parse("function", &request.function)?;
        let event = Event::read(&name, request.event.unwrap_or_default())?;
        run_deadline(context.deadline, Duration::MAX)?;
        let deployment = self.deployments.function(&name)?.ok_or_else(|| InvokerError::NotDeployed(name))?;
        // Held until the run is over: everything below is dropped before it.
        let _permit = self.runs.try_acquire().map_err(|_| InvokerError::Overloaded {
            what: "as many runs as this invoker allows",
            limit: self.max_runs,
        })?;

        let load = self.functions.get(&deployment);
        let loaded = match run_deadline(context.deadline, Duration::MAX)? {
            None => load.await,
            Some(deadline) => tokio::time::timeout_at(deadline.instant(), load)
                .await
                .map_err(|_| InvokerError::BudgetTooSmall { left: Duration::ZERO })?,
        };
        // Loading is not the lambda's time; only the call's deadline counts it.
        let timeout = deployment.settings.timeout;
        let deadline = run_deadline(context.deadline, timeout)?.unwrap_or_else(|| Deadline::after(timeout));
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(error) if is_authors(&error) => {
                return Ok(report::not_loadable(&deployment, &error, deadline));
            }
            Err(error) => return Err(InvokerError::Load(error)),
        };

        let egress = self.egress.run(RunScope {
            deployment: Arc::clone(&deployment),
            event_key: event.key,
            trace: context.trace,
            deadline: deadline.instant(),
        });
        let call = Call {
            context_json: event.context_json(&deployment, deadline),
            env_json: loaded.env_json,
            memory_bytes: (deployment.settings.memory_mib as usize) << 20,
            ..Call::new(event.input_json(), deadline.instant().into_std(), host(&egress))
        };
        let ended = self.engine.run(&loaded.prepared, call).await.map_err(InvokerError::Run)?;
        let report = report::of_run(&deployment, ended, &egress, deadline);
        tracing::debug!(
            function = %deployment.function,
            version = %deployment.version,
            event.id = event.fields.event_id,
            outcome = report::outcome_name(&report),
            "ran {} version {}", deployment.function, deployment.version,
        );
        Ok(report)
    }
}

fn host(egress: &Arc<RunEgress>) -> Arc<RunHost> {
    Arc::new(RunHost(Arc::clone(egress)))
}

/// When a run that starts now and may take `timeout` has to end, so that its report arrives before the call's deadline.
/// `None` when nothing but `timeout` bounds it.
fn run_deadline(call: Option<Deadline>, timeout: Duration) -> Result<Option<Deadline>, InvokerError> {
    let Some(call) = call else { return Ok(None) };
    let left = call.remaining();
    let margin = hop_margin(left).max(MIN_MARGIN);
    if left < margin + MIN_RUN {
        return Err(InvokerError::BudgetTooSmall { left });
    }
    Ok(Some(call.shrink(margin).capped(timeout)))
}

/// An event that is fit to run.
struct Event {
    fields: InvocationEvent,
    key: Uuid,
}

impl Event {
    fn read(function: &FunctionName, fields: InvocationEvent) -> Result<Self, Violations> {
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
    fn input_json(&self) -> Bytes {
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
    fn context_json(&self, deployment: &Deployment, deadline: Deadline) -> Bytes {
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

    #[tokio::test(start_paused = true)]
    async fn a_run_ends_before_its_call() {
        let deadline = |call: u64, timeout: u64| {
            run_deadline(Some(Deadline::after(Duration::from_millis(call))), Duration::from_millis(timeout))
                .map(|deadline| deadline.unwrap().remaining().as_millis())
                .map_err(|error| error.to_string())
        };
        assert_eq!(deadline(10_000, 1_000), Ok(1_000), "the function's timeout is nearer");
        assert_eq!(deadline(1_000, 1_000), Ok(950), "the call's is, by 5 %");
        assert_eq!(deadline(100, 1_000), Ok(90), "but at least 10 ms");
        assert_eq!(deadline(15, 1_000), Ok(5));
        assert!(deadline(14, 1_000).unwrap_err().starts_with("14ms are left"));
        assert!(run_deadline(None, Duration::from_secs(1)).unwrap().is_none());
    }

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
