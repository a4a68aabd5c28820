//! One call of the invoker, and what its failures mean.

use std::time::Duration;

use chatfn_deployments::Deployment;
use chatfn_domain::{event::idempotency_key, reasons::events};
use chatfn_proto::invoker::v1::{
    InvocationEvent, InvokeRequest, RunReport, invoker_service_client::InvokerServiceClient,
    run_report::Outcome,
};
use chatfn_rpc::{
    Client, Deadline, ErrorReport, MAX_MESSAGE_BYTES, RequestExt as _, RetryClass, TraceParent, classify,
    code_name, reasons,
};
use chatfn_telemetry::{Span, Traces, Work};
use prost::Message as _;
use tonic::{Code, Request, Status};

use super::{decide::AttemptEnd, gate::Verdict};
use crate::{failpoint, headers, store::reading::StoredEvent};

/// What an attempt came to that returned.
const SUCCEEDED: &str = "SUCCEEDED";
/// What the way to the invoker and back may take.
const TRANSPORT: Duration = Duration::from_millis(250);
/// Most bytes of a stored report apart from the lambda's result: with 20 attempts, a delivery fits into a message.
const MAX_REPORT_BYTES: usize = 128 * 1024;
/// Most bytes of a stored text of a failure.
const MAX_TEXT_BYTES: usize = 16 * 1024;
/// Why the invoker lets nobody in. It says so before anything runs, and an operator has to mend it: meanwhile events
/// wait, as they do for an invoker that is down, and lose no attempt.
const NOT_LET_IN: [&str; 6] = [
    reasons::TOKEN_MISSING.name(),
    reasons::TOKENS_NOT_ACCEPTED.name(),
    reasons::CERTIFICATE_EXPIRED.name(),
    reasons::SERVICE_REQUIRED.name(),
    reasons::ROLE_REQUIRED.name(),
    reasons::METHOD_UNKNOWN.name(),
];

/// The invoker's snapshot differs from ours for a moment, or one function does not load: others need not slow down.
const NOT_NOW: [&str; 2] = [reasons::FUNCTION_NOT_DEPLOYED.name(), reasons::LOADING_TOO_SLOW.name()];

/// How a call ended.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum CallEnd {
    /// The run counts.
    Ended(AttemptEnd),
    /// Nothing ran, and the attempt does not count.
    Refused {
        /// What that says about the invoker, if it says anything.
        verdict: Option<Verdict>,
        /// When the invoker wants to be asked again.
        retry_after: Option<Duration>,
    },
}

/// Calls the invoker. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Invoker {
    client: InvokerServiceClient<Client>,
    traces: Traces,
}

impl Invoker {
    pub(crate) fn new(client: Client, traces: Traces) -> Self {
        let client = InvokerServiceClient::new(client)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        Self { client, traces }
    }

    /// Runs attempt `number` of an event. The run ends with the future.
    pub(super) async fn invoke(
        &self,
        event: &StoredEvent,
        deployment: &Deployment,
        number: u32,
        deadline: Deadline,
    ) -> CallEnd {
        let key =
            event.idempotency_key.unwrap_or_else(|| idempotency_key(&deployment.function, &event.event_id));
        let key = if failpoint::mutant("random_key") { uuid::Uuid::new_v4() } else { key };
        let request = InvokeRequest {
            function: deployment.function.to_string(),
            event: Some(InvocationEvent {
                event_id: event.event_id.to_string(),
                conversation_id: event.conversation_id.to_string(),
                attempt: number,
                payload_json: String::from_utf8_lossy(&event.payload).into_owned(),
                headers: headers::from_json(event.headers.as_deref()),
                idempotency_key: key.to_string(),
            }),
        };
        let mut span = self.begin(event, deployment, number);
        let request = Request::new(request).with_deadline(deadline).with_trace(span.trace());
        let end = self.call(request).await;
        let outcome = outcome_name(&end);
        span.note("chatfn.outcome", outcome);
        if outcome != SUCCEEDED {
            span.fail(outcome);
        }
        end
    }

    /// Begins to record an attempt, as a part of what its publisher does.
    fn begin(&self, event: &StoredEvent, deployment: &Deployment, number: u32) -> Span {
        let publisher = event.traceparent.as_deref().and_then(|text| text.parse::<TraceParent>().ok());
        let mut span = self.traces.begin(Work::TakesUp, || format!("attempt {number}"), publisher);
        if span.is_recorded() {
            let function = &deployment.function;
            span.note("chatfn.account", function.account.to_string());
            span.note("chatfn.template", function.template.to_string());
            span.note("chatfn.version", deployment.version.to_string());
            span.note("chatfn.event_id", event.event_id.to_string());
            span.note("chatfn.conversation_id", event.conversation_id.to_string());
            span.note("chatfn.attempt", i64::from(number));
        }
        span
    }

    async fn call(&self, request: Request<InvokeRequest>) -> CallEnd {
        match self.client.clone().invoke(request).await {
            Ok(response) => match response.into_inner().report.filter(|report| report.outcome.is_some()) {
                Some(report) => CallEnd::Ended(AttemptEnd::Reported(report)),
                None => CallEnd::Ended(AttemptEnd::Unknown {
                    reason: events::INVOKER_FAILED,
                    message: "the invoker's answer held no report".to_owned(),
                }),
            },
            Err(status) => failed(&status),
        }
    }
}

/// What an attempt came to, for its span.
fn outcome_name(end: &CallEnd) -> &'static str {
    match end {
        CallEnd::Ended(AttemptEnd::Reported(report)) => match &report.outcome {
            Some(Outcome::Failure(failure)) => failure.kind().as_str_name(),
            _ => SUCCEEDED,
        },
        CallEnd::Ended(AttemptEnd::Unknown { reason, .. }) => reason.name(),
        CallEnd::Refused { .. } => "NOT_STARTED",
    }
}

/// What the lambda may take in all: its own time, and what every hop keeps back for the way home.
pub(super) fn run_budget(timeout: Duration) -> Duration {
    // Each hop keeps 5 % (see chatfn_rpc::budget): 1.15 × 0.95 × 0.95 > 1.
    timeout.mul_f64(1.15) + TRANSPORT
}

/// What a failed call means. Whatever is certain not to have run does not count as an attempt.
fn failed(status: &Status) -> CallEnd {
    let report = ErrorReport::from_status(status);
    let reason = report.reason.as_deref();
    let not_run = |verdict| CallEnd::Refused { verdict, retry_after: report.retry_after };
    let refused = |verdict| not_run(Some(verdict));
    if reason == Some(reasons::BUDGET_TOO_SMALL.name()) {
        // Maybe said on this side, of an event whose time is almost up, while the invoker is down.
        return not_run(None);
    }
    if reason.is_some_and(|reason| NOT_NOW.contains(&reason)) {
        return refused(Verdict::Declined);
    }
    if reason == Some(reasons::ACCOUNT_BUSY.name()) {
        return refused(Verdict::Busy);
    }
    if reason.is_some_and(|reason| NOT_LET_IN.contains(&reason)) {
        tracing::error!(
            reason,
            message = status.message(),
            "the invoker does not accept this service, and events wait: compare --tls-cert, --tls-ca and the trust domain \
             of both services, and whether both are of the same release"
        );
        return refused(Verdict::Down);
    }
    if classify(status) == RetryClass::Safe {
        return refused(match status.code() {
            Code::Unavailable => Verdict::Down,
            Code::ResourceExhausted => Verdict::Overloaded,
            _ => Verdict::Declined,
        });
    }
    let kind = match (status.code(), reason) {
        (_, Some(reason)) if reason == reasons::CONNECTION_LOST.name() => events::INVOKER_CONNECTION_LOST,
        (Code::DeadlineExceeded, _) => events::INVOKER_DEADLINE_EXCEEDED,
        _ => events::INVOKER_FAILED,
    };
    let message = format!("{}: {}", code_name(status.code()), status.message());
    CallEnd::Ended(AttemptEnd::Unknown { reason: kind, message: cut(&message, 500) })
}

/// A report as it is stored: bounded, so that neither a row nor an answer that lists attempts grows
/// beyond what can be sent.
pub(super) fn encode(mut report: RunReport) -> Vec<u8> {
    if let Some(Outcome::Failure(failure)) = &mut report.outcome {
        for text in [&mut failure.error_name, &mut failure.message, &mut failure.stack] {
            *text = cut(text, MAX_TEXT_BYTES);
        }
    }
    let mut size = report.encoded_len();
    if let Some(Outcome::ResultJson(json)) = &report.outcome {
        size = size.saturating_sub(json.len());
    }
    while size > MAX_REPORT_BYTES {
        let dropped = if let Some(call) = report.outbound_calls.pop() {
            report.outbound_calls_truncated = true;
            Some(call.encoded_len())
        } else {
            report.logs_truncated = true;
            report.logs.pop().map(|entry| entry.encoded_len())
        };
        let Some(dropped) = dropped else { break };
        size = size.saturating_sub(dropped);
    }
    report.encode_to_vec()
}

fn cut(text: &str, most: usize) -> String {
    text[..text.floor_char_boundary(most)].to_owned()
}

#[cfg(test)]
mod tests {
    use chatfn_proto::invoker::v1::{LambdaFailure, LogEntry, OutboundCall};
    use chatfn_rpc::ApiError;

    use super::*;

    #[test]
    fn only_what_cannot_have_run_does_not_count() {
        let second = Duration::from_secs(1);
        for (error, verdict) in [
            (ApiError::unavailable(reasons::CONNECTION_FAILED, ""), Some(Verdict::Down)),
            (ApiError::unavailable(reasons::NO_SNAPSHOT, ""), Some(Verdict::Down)),
            (ApiError::unavailable(reasons::DRAINING, ""), Some(Verdict::Down)),
            (ApiError::new(Code::Unauthenticated, reasons::TOKEN_MISSING, ""), Some(Verdict::Down)),
            (ApiError::new(Code::Unauthenticated, reasons::TOKENS_NOT_ACCEPTED, ""), Some(Verdict::Down)),
            (ApiError::new(Code::Unauthenticated, reasons::CERTIFICATE_EXPIRED, ""), Some(Verdict::Down)),
            (ApiError::permission_denied(reasons::SERVICE_REQUIRED, ""), Some(Verdict::Down)),
            (ApiError::permission_denied(reasons::ROLE_REQUIRED, ""), Some(Verdict::Down)),
            (ApiError::new(Code::Unimplemented, reasons::METHOD_UNKNOWN, ""), Some(Verdict::Down)),
            (ApiError::resource_exhausted(reasons::OVERLOADED, "", second), Some(Verdict::Overloaded)),
            (ApiError::resource_exhausted(reasons::ACCOUNT_BUSY, "", second), Some(Verdict::Busy)),
            (ApiError::resource_exhausted(reasons::LOADING_TOO_SLOW, "", second), Some(Verdict::Declined)),
            (ApiError::not_found(reasons::FUNCTION_NOT_DEPLOYED, "function", "f"), Some(Verdict::Declined)),
            (ApiError::unavailable(reasons::CONNECTION_LOST, ""), None),
            (ApiError::unavailable(reasons::SERVER_DRAINING, ""), None),
            (ApiError::deadline_exceeded(reasons::DEADLINE_EXCEEDED, ""), None),
            (ApiError::new(Code::Internal, reasons::INTERNAL, ""), None),
            (ApiError::invalid_argument(reasons::INVALID_REQUEST, ""), None),
        ] {
            let end = failed(&error.clone().into());
            match (&end, verdict) {
                (CallEnd::Refused { verdict, .. }, Some(expected)) => {
                    assert_eq!(*verdict, Some(expected), "{error}")
                }
                (CallEnd::Ended(AttemptEnd::Unknown { .. }), None) => {}
                _ => panic!("{error}: {end:?}"),
            }
        }
    }

    #[test]
    fn too_little_time_says_nothing_about_the_invoker() {
        let end = failed(&ApiError::deadline_exceeded(reasons::BUDGET_TOO_SMALL, "").into());
        assert_eq!(end, CallEnd::Refused { verdict: None, retry_after: None });
    }

    #[test]
    fn the_budget_survives_two_hops() {
        for timeout in [10, 1_000, 30_000].map(Duration::from_millis) {
            let hop = chatfn_rpc::budget::hop_budget;
            assert!(hop(hop(run_budget(timeout))) > timeout, "{timeout:?}");
        }
    }

    #[test]
    fn stored_reports_are_bounded_and_keep_why_it_failed() {
        let entry = LogEntry { message: "x".repeat(4096), ..LogEntry::default() };
        let call = OutboundCall { url: "x".repeat(4096), ..OutboundCall::default() };
        let failure = LambdaFailure { message: "é".repeat(40_000), ..LambdaFailure::default() };
        let stored = encode(RunReport {
            outcome: Some(Outcome::Failure(failure)),
            logs: vec![entry; 100],
            outbound_calls: vec![call; 600],
            ..RunReport::default()
        });
        assert!(stored.len() <= MAX_REPORT_BYTES);
        let stored = RunReport::decode(stored.as_slice()).unwrap();
        assert!(stored.logs_truncated && stored.outbound_calls_truncated);
        assert!(matches!(stored.outcome, Some(Outcome::Failure(_))));
    }
}
