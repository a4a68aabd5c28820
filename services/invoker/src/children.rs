//! Functions that run because another one invoked them.
//!
//! Promises: a child is a function of its parent's account, in a fresh sandbox with its own settings; it ends before
//! its parent's deadline, and with its parent. It starts at once or is refused at once: children have sandboxes of their
//! own ([`Config::engine`](crate::Config)), so no parent ever waits with its sandbox for one that another parent holds.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use chatfn_deployments::Deployments;
use chatfn_domain::{
    event::{MAX_PAYLOAD_BYTES, child_idempotency_key},
    name::{AccountId, FunctionName},
    reasons::{Reason, runs},
};
use chatfn_engine::{FunctionFailure, FunctionOutcome, FunctionRequest, PrepareError, RunError};
use chatfn_proto::invoker::v1::{
    FailureKind, Header, InvocationEvent, LambdaFailure, RunReport, run_report::Outcome,
};
use chatfn_rpc::{Deadline, TraceParent};
use serde::de::IgnoredAny;
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use crate::{
    egress::EgressError,
    error::InvokerError,
    event::Event,
    functions::{Functions, LoadError, is_authors},
    host::RunHost,
    invoke::load_within,
    metrics,
    places::{NoPlace, Places},
    run::{Run, Runner},
    secrets::SecretsRead,
};

/// How deep functions may invoke one another.
const MAX_DEPTH: u32 = 4;
/// Children that one run may have at once, with those of its children, so that no run takes all places.
const MAX_IN_FAMILY: usize = 32;

/// What all children of the process share.
pub(crate) struct Children {
    deployments: Deployments,
    functions: Functions,
    places: Arc<Places>,
}

impl Children {
    /// Up to `max` run at once.
    pub(crate) fn new(deployments: Deployments, functions: Functions, max: u32) -> Self {
        let places = Places::new("functions that others invoked", max as usize);
        Self { deployments, functions, places }
    }
}

/// A run and all runs inside of it: of one account, for one event.
#[derive(Clone)]
pub(crate) struct Family {
    /// The secrets that any of them has read. What one read may be in the results of all others.
    pub(crate) secrets: Arc<SecretsRead>,
    places: Arc<Semaphore>,
    /// How many runs wait for this one.
    depth: u32,
}

impl Default for Family {
    fn default() -> Self {
        Self { secrets: Arc::default(), places: Arc::new(Semaphore::new(MAX_IN_FAMILY)), depth: 0 }
    }
}

/// Why a function did not run. The text is for the author of the function that invoked it.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(
        "invoke takes the template of a function of this account, such as chat.end, or \
         accounts/{0}/functions/chat.end"
    )]
    InvalidName(AccountId),
    #[error("the payload of a function is JSON of at most {MAX_PAYLOAD_BYTES} bytes")]
    InvalidPayload,
    #[error(
        "functions may invoke one another {MAX_DEPTH} levels deep; this would be one more. Do they go in circles?"
    )]
    TooDeep,
    #[error("{0}; invoke fewer at once, or try again later")]
    NoPlace(#[from] NoPlace),
    #[error(
        "as many functions as one event may have ({MAX_IN_FAMILY}) run already; invoke fewer at once, or try again later"
    )]
    LargeFamily,
    #[error("{0} is not deployed; deploy it first")]
    NotDeployed(FunctionName),
    #[error("too little time is left ({0:?}) to run it")]
    NoTime(Duration),
    #[error("no sandbox became free in time to run it; try again later")]
    NoSandbox,
    #[error("it cannot be loaded by this engine: {0}. Correct it and deploy it again")]
    NotLoadable(String),
    #[error("the platform failed to run it; try again")]
    Platform,
}

impl Refused {
    /// The stable reason, and the status of the hosted product's API that comes nearest.
    fn reason(&self) -> (Reason, u16) {
        match self {
            Self::InvalidName(_) => (runs::FUNCTION_NAME_INVALID, 400),
            Self::InvalidPayload => (runs::PAYLOAD_INVALID, 400),
            Self::TooDeep => (runs::NESTED_TOO_DEEP, 400),
            Self::NoPlace(_) | Self::LargeFamily => (runs::TOO_MANY_FUNCTIONS, 429),
            Self::NotDeployed(_) => (runs::FUNCTION_NOT_DEPLOYED, 404),
            Self::NoTime(_) | Self::NoSandbox => (runs::BUDGET_TOO_SMALL, 504),
            Self::NotLoadable(_) => (runs::NOT_LOADABLE, 404),
            Self::Platform => (runs::PLATFORM_FAILED, 500),
        }
    }

    /// As what it counts.
    fn counted(&self) -> metrics::Refused {
        match self {
            Self::NoPlace(error) => error.into(),
            Self::LargeFamily | Self::NoSandbox => metrics::Refused::Overloaded,
            Self::NotDeployed(_) => metrics::Refused::NotDeployed,
            Self::NoTime(_) => metrics::Refused::BudgetTooSmall,
            Self::InvalidName(_)
            | Self::InvalidPayload
            | Self::TooDeep
            | Self::NotLoadable(_)
            | Self::Platform => metrics::Refused::Other,
        }
    }
}

impl RunHost {
    /// Runs another function. Its place on the record is taken when this is called, so that the record follows the order
    /// of the lambda's calls. Dropping the future ends the function.
    pub(crate) fn child(
        &self,
        request: FunctionRequest,
    ) -> impl Future<Output = FunctionOutcome> + Send + 'static {
        let name = function_name(&self.function.account, &request.function);
        let shown = name.as_ref().map_or_else(|_| "(not a function)".to_owned(), ToString::to_string);
        let record = self.egress.record_function(shown);
        let runner = Arc::clone(&self.runner);
        let checked = name.and_then(|name| self.check_child(name, request));
        async move {
            let ran = match checked {
                Ok(child) => child.run(&runner).await,
                Err(error) => Err(error),
            };
            let ran = ran.inspect_err(|error| runner.metrics.refused(error.counted()));
            let outcome = ran.map_or_else(refused, of_report);
            match &outcome {
                FunctionOutcome::Returned { .. } => record.end_of_function(200, None),
                FunctionOutcome::Failed(failure) => {
                    record.end_of_function(failure.status, Some(recorded(failure)))
                }
            }
            outcome
        }
    }

    /// The checks that need neither waiting nor work.
    fn check_child(&self, name: FunctionName, request: FunctionRequest) -> Result<Child, Refused> {
        check_bounds(&request.payload_json, self.family.depth)?;
        let parent = &self.event;
        let key = child_idempotency_key(&parent.key, &self.function, request.ordinal);
        let headers = request.headers.into_iter().map(|(key, value)| Header { key, value }).collect();
        let fields = InvocationEvent {
            event_id: parent.fields.event_id.clone(),
            conversation_id: parent.fields.conversation_id.clone(),
            attempt: parent.fields.attempt,
            // Not yet read.
            payload_json: String::new(),
            headers,
            idempotency_key: key.to_string(),
        };
        Ok(Child {
            name,
            event: Event { fields, key },
            payload_json: request.payload_json,
            family: Family { depth: self.family.depth + 1, ..self.family.clone() },
            trace: self.trace,
            deadline: self.deadline,
            timeout: request.timeout,
        })
    }
}

/// A function that is about to run.
struct Child {
    name: FunctionName,
    /// Without its payload.
    event: Event,
    payload_json: Bytes,
    family: Family,
    trace: Option<TraceParent>,
    /// The parent's.
    deadline: Deadline,
    /// How long the parent waits.
    timeout: Duration,
}

impl Child {
    async fn run(self, runner: &Arc<Runner>) -> Result<RunReport, Refused> {
        let Self { name, mut event, payload_json, family, trace, deadline, timeout } = self;
        event.fields.payload_json = read_payload(&payload_json)?;
        let children = &runner.children;
        let live = children.deployments.function(&name).map_err(|_| Refused::Platform)?;
        let deployment = live.ok_or(Refused::NotDeployed(name))?;
        let in_family = Arc::clone(&family.places).try_acquire_owned().map_err(|_| Refused::LargeFamily)?;
        let memory_mib = deployment.settings.memory_mib;
        let places = (children.places.take_run(&deployment.function.account, memory_mib)?, in_family);
        let load = children.functions.get(&deployment);
        let call = Some(deadline.capped(timeout));
        let (loaded, deadline) =
            load_within(call, deployment.settings.timeout, load).await.map_err(no_time)?;
        let loaded = loaded.map_err(not_loaded)?;
        let run = Run { deployment, loaded, event, trace, deadline };
        let runner = Arc::clone(runner);
        // A task of its own: it may use another core, and the stack of the parent's sandbox is not its own. It ends
        // when the handle is dropped.
        let running = async move {
            let _places = places;
            runner.run_in(&family, run).await
        };
        let task = AbortOnDropHandle::new(tokio::spawn(running.in_current_span()));
        match task.await {
            Ok(Ok(report)) => Ok(report),
            Ok(Err(RunError::NoCapacity)) => Err(Refused::NoSandbox),
            Ok(Err(error)) => {
                tracing::error!(%error, "the engine cannot run a function for another");
                Err(Refused::Platform)
            }
            Err(error) => {
                tracing::error!(%error, "a run for another function broke");
                Err(Refused::Platform)
            }
        }
    }
}

/// What is checked before the parent goes on, which waits for this.
fn check_bounds(payload_json: &[u8], depth: u32) -> Result<(), Refused> {
    if payload_json.len() > MAX_PAYLOAD_BYTES {
        return Err(Refused::InvalidPayload);
    }
    if depth >= MAX_DEPTH {
        return Err(Refused::TooDeep);
    }
    Ok(())
}

fn read_payload(json: &[u8]) -> Result<String, Refused> {
    let text = std::str::from_utf8(json).map_err(|_| Refused::InvalidPayload)?;
    serde_json::from_str::<IgnoredAny>(text).map_err(|_| Refused::InvalidPayload)?;
    Ok(text.to_owned())
}

fn not_loaded(error: LoadError) -> Refused {
    match &*error {
        PrepareError::NoCapacity => Refused::NoSandbox,
        error if is_authors(error) => Refused::NotLoadable(error.to_string()),
        _ => Refused::Platform,
    }
}

fn no_time(error: InvokerError) -> Refused {
    match error {
        InvokerError::BudgetTooSmall { left } => Refused::NoTime(left),
        _ => Refused::Platform,
    }
}

/// The function that a lambda of `account` means.
fn function_name(account: &AccountId, text: &str) -> Result<FunctionName, Refused> {
    if let Ok(template) = text.parse() {
        return Ok(FunctionName { account: account.clone(), template });
    }
    text.parse::<FunctionName>()
        .ok()
        .filter(|name| name.account == *account)
        .ok_or_else(|| Refused::InvalidName(account.clone()))
}

fn refused(error: Refused) -> FunctionOutcome {
    let (reason, status) = error.reason();
    FunctionOutcome::Failed(FunctionFailure {
        status,
        reason: reason.name(),
        name: String::new(),
        message: error.to_string(),
    })
}

fn of_report(report: RunReport) -> FunctionOutcome {
    match report.outcome {
        Some(Outcome::ResultJson(json)) => FunctionOutcome::Returned { json },
        Some(Outcome::Failure(failure)) => FunctionOutcome::Failed(to_failure(failure)),
        None => refused(Refused::Platform),
    }
}

fn to_failure(failure: LambdaFailure) -> FunctionFailure {
    let (reason, status) = match failure.kind() {
        FailureKind::Timeout => (runs::TIMEOUT, 504),
        FailureKind::OutOfMemory => (runs::OUT_OF_MEMORY, 901),
        FailureKind::NeverSettles => (runs::NEVER_SETTLES, 901),
        FailureKind::ResultTooLarge => (runs::RESULT_TOO_LARGE, 901),
        FailureKind::ResultNotJson => (runs::RESULT_NOT_JSON, 901),
        FailureKind::Crashed => (runs::CRASHED, 500),
        FailureKind::NotLoadable => (runs::NOT_LOADABLE, 404),
        FailureKind::Thrown | FailureKind::Unspecified => (runs::THROWN, 901),
    };
    FunctionFailure { status, reason: reason.name(), name: failure.error_name, message: failure.message }
}

/// Of a child's failure on the record of its parent. The parent itself gets all of it.
const MAX_RECORDED_CHARS: usize = 512;

/// The failure on the record of the function that invoked it.
fn recorded(failure: &FunctionFailure) -> EgressError {
    let message = match failure.name.as_str() {
        "" => failure.message.clone(),
        name => format!("{name}: {}", failure.message),
    };
    // A report holds many records, and has to fit into a message.
    let message = message.chars().take(MAX_RECORDED_CHARS).collect();
    EgressError::FunctionFailed { reason: failure.reason, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_read_after_its_bounds_are_checked() {
        let checked = |json: &[u8], depth| check_bounds(json, depth).map_err(|error| error.reason().0.name());
        assert_eq!(checked(b"no JSON, which costs time to find out", 0), Ok(()));
        assert_eq!(checked(b"no JSON", MAX_DEPTH), Err("NESTED_TOO_DEEP"));
        assert_eq!(checked(&vec![b' '; MAX_PAYLOAD_BYTES + 1], 0), Err("PAYLOAD_INVALID"));
        assert!(read_payload(b"no JSON").is_err() && read_payload(b"\"\xff\"").is_err());
        assert_eq!(read_payload(b"[1]").unwrap(), "[1]");
    }

    #[test]
    fn functions_are_of_the_own_account() {
        let account: AccountId = "acme".parse().unwrap();
        let name = |text| function_name(&account, text).map(|name| name.to_string()).ok();
        let end = Some("accounts/acme/functions/chat.end".to_owned());
        assert_eq!(name("chat.end"), end);
        assert_eq!(name("accounts/acme/functions/chat.end"), end);
        for other in
            ["accounts/other/functions/chat.end", "accounts/acme/functions/chat.end/versions/1", "chat", ""]
        {
            assert_eq!(name(other), None, "{other}");
        }
    }
}
