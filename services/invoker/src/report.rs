//! What a run came to, as the contract has it.

use chatfn_deployments::Deployment;
use chatfn_engine as engine;
use chatfn_engine::PrepareError;
use chatfn_proto::{
    convert::to_duration,
    invoker::v1::{
        FailureKind, LambdaFailure, LogEntry, LogLevel, OutboundCall, RunReport, run_report::Outcome,
    },
};
use chatfn_rpc::Deadline;

use crate::egress::{self, RunEgress};

/// Most bytes of a call's error.
pub(crate) const CALL_ERROR_BYTES: usize = 2 << 10;

/// The report of a run that ended just now.
pub(crate) fn of_run(
    deployment: &Deployment,
    ended: engine::Report,
    egress: &RunEgress,
    deadline: Deadline,
) -> RunReport {
    let (calls, truncated) = egress.calls();
    RunReport {
        outcome: Some(match ended.outcome {
            engine::Outcome::Returned { json } => Outcome::ResultJson(json),
            engine::Outcome::Failed(failure) => Outcome::Failure(to_failure(failure)),
        }),
        version: deployment.version.get(),
        logs: ended.logs.into_iter().map(to_log_entry).collect(),
        logs_truncated: ended.logs_truncated,
        // Waiting for a sandbox is the platform's time.
        duration: Some(to_duration(ended.timing.total.saturating_sub(ended.timing.slot))),
        remaining_budget: Some(to_duration(deadline.remaining())),
        outbound_calls: calls.into_iter().map(to_outbound_call).collect(),
        outbound_calls_truncated: truncated,
    }
}

/// The report of a version that this engine cannot load: nothing of it ran.
pub(crate) fn not_loadable(deployment: &Deployment, error: &PrepareError, deadline: Deadline) -> RunReport {
    let (error_name, stack) = match error {
        PrepareError::TopLevelThrow { name, stack, .. } => (name.clone(), stack.clone()),
        PrepareError::Syntax { .. } => ("SyntaxError".to_owned(), String::new()),
        _ => (String::new(), String::new()),
    };
    let failure = LambdaFailure {
        kind: FailureKind::NotLoadable.into(),
        error_name,
        message: format!(
            "version {} cannot be loaded by this engine, so nothing ran: {error}. Correct it and deploy it again, or \
             deploy an older version",
            deployment.version
        ),
        stack,
    };
    RunReport {
        outcome: Some(Outcome::Failure(failure)),
        version: deployment.version.get(),
        duration: Some(prost_types::Duration::default()),
        remaining_budget: Some(to_duration(deadline.remaining())),
        ..RunReport::default()
    }
}

/// A word for logs.
pub(crate) fn outcome_name(report: &RunReport) -> &'static str {
    match &report.outcome {
        Some(Outcome::Failure(failure)) => failure.kind().as_str_name(),
        _ => "RETURNED",
    }
}

fn to_failure(failure: engine::Failure) -> LambdaFailure {
    let kind = match failure.kind {
        // The author's code recursed too deep, though not in JavaScript itself.
        engine::FailureKind::Thrown | engine::FailureKind::StackOverflow => FailureKind::Thrown,
        engine::FailureKind::Timeout => FailureKind::Timeout,
        engine::FailureKind::OutOfMemory => FailureKind::OutOfMemory,
        engine::FailureKind::NeverSettles => FailureKind::NeverSettles,
        engine::FailureKind::ResultTooLarge => FailureKind::ResultTooLarge,
        engine::FailureKind::ResultNotJson => FailureKind::ResultNotJson,
        engine::FailureKind::Crashed => FailureKind::Crashed,
    };
    LambdaFailure {
        kind: kind.into(),
        error_name: failure.name,
        message: failure.message,
        stack: failure.stack,
    }
}

fn to_log_entry(entry: engine::LogEntry) -> LogEntry {
    let level = match entry.level {
        engine::LogLevel::Debug => LogLevel::Debug,
        engine::LogLevel::Info => LogLevel::Info,
        engine::LogLevel::Warn => LogLevel::Warn,
        engine::LogLevel::Error => LogLevel::Error,
    };
    LogEntry {
        level: level.into(),
        message: entry.message,
        offset: Some(to_duration(entry.offset)),
        extras_json: entry.extras_json,
    }
}

/// What a library says of a failure may hold what the other side has sent, as the names of a certificate. A report has to fit into a
/// message.
fn cut(mut text: String) -> String {
    if text.len() > CALL_ERROR_BYTES {
        text.truncate(text.floor_char_boundary(CALL_ERROR_BYTES - '…'.len_utf8()));
        text.push('…');
    }
    text
}

fn to_outbound_call(call: egress::OutboundCall) -> OutboundCall {
    let (error_reason, error_message) = match &call.error {
        Some(error) => (error.reason().to_owned(), cut(error.to_string())),
        None => (String::new(), String::new()),
    };
    OutboundCall {
        method: call.method,
        url: call.url,
        status: call.status.unwrap_or(0).into(),
        duration: Some(to_duration(call.duration)),
        error_reason,
        error_message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_of_a_failure_is_bounded() {
        assert_eq!(cut("certificate not valid".to_owned()), "certificate not valid");
        let names = cut("é".repeat(CALL_ERROR_BYTES));
        assert!(
            names.len() <= CALL_ERROR_BYTES && names.len() > CALL_ERROR_BYTES - 4 && names.ends_with("é…")
        );
    }
}
