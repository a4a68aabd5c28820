//! Why an outbound call came to nothing.

use std::time::Duration;

use chatfn_domain::reasons::runs;

use super::redirect::MAX_REDIRECTS;

/// Why an outbound call came to nothing. The text is for the author of the lambda and for admins: it says what to
/// change, and never holds query strings, header values or bodies.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EgressError {
    /// The text is no URL, or one that a lambda may not use.
    #[error("the URL is not valid: {0}")]
    InvalidUrl(String),
    /// Neither http nor https.
    #[error("the scheme {0} is not supported; use http or https")]
    UnsupportedScheme(String),
    /// The method, a header or the body cannot be sent.
    #[error("the request is not valid: {0}")]
    InvalidRequest(String),
    /// The request's body or headers are too large.
    #[error("the request is too large: {0}")]
    RequestTooLarge(String),
    /// The function's settings do not name the host.
    #[error("host {0} is not in this function's allowed_hosts; add it to settings.allowed_hosts and deploy")]
    HostNotAllowed(String),
    /// The host is an address, or resolves to addresses, that no lambda may reach.
    #[error(
        "{host} is at an address that lambdas may not reach ({kind}); an operator can permit the range with \
         --egress-allow-cidr"
    )]
    AddressNotAllowed {
        /// The host as the URL names it. The address itself is left out: names inside a network are not for everyone.
        host: String,
        /// Kind of the address, for example `loopback`.
        kind: &'static str,
    },
    /// The name has no address, or the name servers did not say.
    #[error("the name {host} could not be resolved: {problem}")]
    DnsFailed {
        /// The name.
        host: String,
        /// What the resolver said.
        problem: String,
    },
    /// No connection.
    #[error("no connection to {host}: {problem}")]
    ConnectFailed {
        /// Host and port.
        host: String,
        /// What the operating system said.
        problem: String,
    },
    /// The server is not who the URL says, or does not speak TLS.
    #[error("no TLS connection to {host}: {problem}")]
    TlsFailed {
        /// Host and port.
        host: String,
        /// What is wrong with the certificate or the handshake.
        problem: String,
    },
    /// The connection broke during the exchange, or what came is not HTTP.
    #[error("the exchange with {host} broke: {problem}")]
    ExchangeFailed {
        /// Host and port.
        host: String,
        /// What happened.
        problem: String,
    },
    /// More redirects than fetch follows.
    #[error("more than {MAX_REDIRECTS} redirects")]
    TooManyRedirects,
    /// A redirect although the lambda said `redirect: "error"`, or one that does not say where to.
    #[error("redirect refused: {0}")]
    RedirectRefused(String),
    /// The answer's body is larger than allowed.
    #[error("the response's body is larger than {0} bytes")]
    ResponseTooLarge(usize),
    /// The answer's head is larger than allowed.
    #[error("the response's headers are larger than {bytes} bytes or more than {count}")]
    HeadersTooLarge {
        /// Most bytes.
        bytes: usize,
        /// Most headers.
        count: usize,
    },
    /// The answer's body is compressed although none was asked for.
    #[error(
        "the response is encoded as {0} although identity was asked for; the server ignores accept-encoding"
    )]
    UnsupportedEncoding(String),
    /// The function called more often than it may.
    #[error("more than {0} requests per second of this function; spread them out")]
    RateLimited(u32),
    /// This process has as many connections, or holds as many response bodies, as it may, or as it may of one account while
    /// others wait.
    #[error(
        "this invoker has no connection or no memory for response bodies left, or keeps what is left for other accounts; \
         make fewer calls at once, or try again"
    )]
    Overloaded,
    /// The run's deadline came first.
    #[error("the run's deadline passed after {0:?} of waiting")]
    Deadline(Duration),
    /// It was no HTTP but another function, which failed or did not run.
    #[error("{message}")]
    FunctionFailed {
        /// The stable reason.
        reason: &'static str,
        /// What went wrong.
        message: String,
    },
    /// The lambda, or its caller, gave the call up.
    #[error("the call was given up: aborted by the lambda, or the run ended")]
    Aborted,
}

impl EgressError {
    /// The stable reason, as it appears in a run's record and as `code` of the JavaScript error.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::FunctionFailed { reason, .. } => reason,
            Self::InvalidUrl(_) => runs::INVALID_URL.name(),
            Self::UnsupportedScheme(_) => runs::UNSUPPORTED_SCHEME.name(),
            Self::InvalidRequest(_) => runs::INVALID_REQUEST.name(),
            Self::RequestTooLarge(_) => runs::REQUEST_TOO_LARGE.name(),
            Self::HostNotAllowed(_) => runs::HOST_NOT_ALLOWED.name(),
            Self::AddressNotAllowed { .. } => runs::ADDRESS_NOT_ALLOWED.name(),
            Self::DnsFailed { .. } => runs::DNS_FAILED.name(),
            Self::ConnectFailed { .. } => runs::CONNECT_FAILED.name(),
            Self::TlsFailed { .. } => runs::TLS_FAILED.name(),
            Self::ExchangeFailed { .. } => runs::EXCHANGE_FAILED.name(),
            Self::TooManyRedirects => runs::TOO_MANY_REDIRECTS.name(),
            Self::RedirectRefused(_) => runs::REDIRECT_REFUSED.name(),
            Self::ResponseTooLarge(_) => runs::RESPONSE_TOO_LARGE.name(),
            Self::HeadersTooLarge { .. } => runs::HEADERS_TOO_LARGE.name(),
            Self::UnsupportedEncoding(_) => runs::UNSUPPORTED_ENCODING.name(),
            Self::RateLimited(_) => runs::RATE_LIMITED.name(),
            Self::Overloaded => runs::OVERLOADED.name(),
            Self::Deadline(_) => runs::DEADLINE.name(),
            Self::Aborted => runs::ABORTED.name(),
        }
    }
}
