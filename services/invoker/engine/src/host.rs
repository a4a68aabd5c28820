//! What a lambda may ask of the world outside: the [`Host`] of its call.

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
}

/// What an operation came to.
#[derive(Debug, Clone)]
pub enum OpResult {
    /// The answer to [`HostOp::Fetch`].
    Fetch(FetchResponse),
}

/// An HTTP request of a lambda.
#[derive(Debug, Clone)]
pub struct FetchRequest {
    /// One of DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT.
    pub method: String,
    /// An absolute URL as the WHATWG standard writes it, of any scheme.
    pub url: String,
    /// Names are in lower case; values are what the lambda gave.
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
        let HostOp::Fetch(request) = op;
        let message = format!("fetch {}: this function has no network access", request.url);
        let code = Some("EGRESS_FORBIDDEN".to_owned());
        Box::pin(std::future::ready(Err(OpError { name: None, code, message })))
    }
}
