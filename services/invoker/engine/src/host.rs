//! What a lambda may ask of the world outside: the [`Host`] of its call.

use std::{fmt, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;

/// Carries out the operations of one call.
///
/// An operation's future is polled only while its lambda waits, and is dropped when the lambda cancels it,
/// ends, or is ended: dropping must be enough to stop the work.
pub trait Host: Send + Sync {
    /// Starts an operation. Must not block; checks and limits belong into the future.
    fn start(&self, op: HostOp) -> BoxFuture<'static, Result<OpResult, OpError>>;
}

/// An operation that a lambda asks for.
#[derive(Debug, Clone)]
pub enum HostOp {
    /// `fetch(…)`. Nothing about it has been checked beyond its shape.
    Fetch(FetchRequest),
    /// `SecretClient().readSecret(…)`. The key is whatever text the lambda gave.
    ReadSecret(SecretRequest),
    /// `OrchestratorClient().invoke(…)`: runs another function of the same account.
    InvokeFunction(FunctionRequest),
    /// `LpClient()(service, …)`: where the service is. The name is whatever text the lambda gave.
    LocateService(String),
}

/// What an operation came to.
#[derive(Debug, Clone)]
pub enum OpResult {
    /// The answer to [`HostOp::Fetch`].
    Fetch(FetchResponse),
    /// The answer to [`HostOp::ReadSecret`].
    Secret(SecretText),
    /// The answer to [`HostOp::InvokeFunction`].
    Function(FunctionOutcome),
    /// The answer to [`HostOp::LocateService`].
    Service(ServiceLocation),
}

/// An HTTP request of a lambda: texts as the guest gave them, which may say anything. Only a guest that nobody has taken over
/// sees to their form.
#[derive(Debug, Clone)]
pub struct FetchRequest {
    /// What the guest gave as the method. A sound one gives DELETE, GET, HEAD, OPTIONS, PATCH, POST or PUT.
    pub method: String,
    /// What the guest gave as the URL. A sound one gives an absolute URL as the WHATWG standard writes it, of any scheme.
    pub url: String,
    /// What the guest gave as names and values. A sound one gives names in lower case.
    pub headers: Vec<(String, String)>,
    /// What to do when the answer is a redirect.
    pub redirect: Redirect,
    /// The body, if any.
    pub body: Option<Bytes>,
}

/// How `fetch` treats redirects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Redirect {
    /// Follows them.
    #[default]
    Follow,
    /// Fails.
    Error,
    /// Hands the redirect itself to the lambda.
    Manual,
}

/// The whole answer to a [`FetchRequest`].
#[derive(Debug, Clone)]
pub struct FetchResponse {
    /// 200 to 599.
    pub status: u16,
    /// The reason phrase, often empty.
    pub status_text: String,
    /// The URL that answered, after redirects.
    pub url: String,
    /// Whether redirects were followed.
    pub redirected: bool,
    /// In the order of arrival, repeated names kept apart.
    pub headers: Vec<(String, String)>,
    /// The whole body. It must fit into the lambda's memory.
    pub body: Bytes,
}

/// A secret that a lambda wants to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRequest {
    /// Which one.
    pub key: String,
    /// Whether a value that was read a moment ago will do.
    pub use_cache: bool,
    /// How long the lambda waits.
    pub timeout: Duration,
}

/// The value of a secret on its way into a sandbox. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(pub String);

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(…)")
    }
}

/// Another function that a lambda wants to run.
#[derive(Debug, Clone)]
pub struct FunctionRequest {
    /// Which one, in the lambda's words.
    pub function: String,
    /// Which of the run's invocations it is, from 0. A retry has the number of the first attempt.
    pub ordinal: u32,
    /// `input.headers` of that function.
    pub headers: Vec<(String, String)>,
    /// `input.payload` of that function, which should be JSON.
    pub payload_json: Bytes,
    /// How long the lambda waits.
    pub timeout: Duration,
}

/// Where a service of the chat platform is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceLocation {
    /// Absolute, without a slash at the end, query and fragment.
    pub url: String,
    /// The account of the run, for paths.
    pub account: String,
}

/// What the other function came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FunctionOutcome {
    /// It returned.
    Returned {
        /// What, as JSON.
        json: String,
    },
    /// It failed, or did not run.
    Failed(FunctionFailure),
}

/// Why another function did not return.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionFailure {
    /// The status that the hosted product's API would give, for example 901 for a function that threw.
    pub status: u16,
    /// The stable reason, for example `THROWN` or `FUNCTION_NOT_DEPLOYED`.
    pub reason: &'static str,
    /// Name of the error that was thrown; empty when none was.
    pub name: String,
    /// What went wrong.
    pub message: String,
}

/// Why an operation failed. The lambda sees it as a `TypeError` with this message and `code`.
#[derive(Debug, Clone, Default)]
pub struct OpError {
    /// Replaces the error's name. `AbortError` and `TimeoutError` become a `DOMException`.
    pub name: Option<String>,
    /// For programs: a stable code such as `EGRESS_FORBIDDEN`.
    pub code: Option<String>,
    /// For the author: what happened and what to do about it.
    pub message: String,
}

/// A host that refuses everything, for functions without any egress.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoHost;

impl Host for NoHost {
    fn start(&self, op: HostOp) -> BoxFuture<'static, Result<OpResult, OpError>> {
        let message = match op {
            HostOp::Fetch(request) => format!("fetch {}: this function has no network access", request.url),
            HostOp::ReadSecret(_) => "this function has no access to secrets".to_owned(),
            HostOp::InvokeFunction(_) => "this function may not run other functions".to_owned(),
            HostOp::LocateService(_) => "this function has no network access".to_owned(),
        };
        let code = Some("EGRESS_FORBIDDEN".to_owned());
        Box::pin(std::future::ready(Err(OpError { name: None, code, message })))
    }
}
