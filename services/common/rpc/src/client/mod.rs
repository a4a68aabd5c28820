//! The one way to call gRPC.

mod body;
mod channels;
mod config;
mod connector;
mod resend;
mod resolve;
mod retry;
mod transport;

use std::{
    convert::Infallible,
    net::IpAddr,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{
    HeaderMap, HeaderValue, Request, Response, Uri,
    header::{AUTHORIZATION, USER_AGENT},
    uri,
};
use hyper_util::{
    client::legacy,
    rt::{TokioExecutor, TokioTimer},
};
use tonic::{Status, body::Body};
use tower_service::Service;

use self::{
    body::{Call, RequestBody, ResponseBody},
    channels::Channels,
    connector::Connector,
    resend::Messages,
};
pub use self::{
    config::{ClientConfig, ClientConfigError},
    retry::{RetryClass, classify},
};
use chatfn_telemetry::TRACEPARENT;

use crate::{
    Deadline, TraceParent, budget,
    context::Unbounded,
    layers::{BoxFuture, deadline},
    metrics::{CalleeMetrics, MadeCall},
    transit::{Clock, SENT},
};

/// How often a request that the server gave back is sent again. A server gives back all that comes after it began to go away,
/// so the next connection takes it, unless that server goes away as well.
const MAX_RESENDS: u32 = 2;

const USER_AGENT_VALUE: &str = concat!("chatfn/", env!("CARGO_PKG_VERSION"));

/// Connections to the replicas of one server, made when first needed and again after each loss; the inner service of
/// tonic's generated clients. Clones share the connections.
///
/// A call goes over the less busy of two connections taken at random. Servers end connections that are old
/// ([`ServerConfig::max_connection_age`](crate::ServerConfig)), so that new replicas are found and calls spread again.
///
/// Each call gets a deadline (its own, or the client's default), tells the server a little less of it,
/// and is over at the deadline, response stream included. Failures of the connection are `UNAVAILABLE`, and so is the
/// lack of one until the deadline; [`classify`] says whether the call may have had effects. Nothing is retried here, except requests that
/// never left, and those that the server gave back untouched, as one that goes away does with calls that were
/// already on their way: they are sent again up to twice, over whichever connection, within the call's time.
#[derive(Clone, Debug)]
pub struct Client {
    http: Channels<legacy::Client<Connector, RequestBody>>,
    settings: Arc<Settings>,
}

#[derive(Debug)]
struct Settings {
    scheme: uri::Scheme,
    authority: uri::Authority,
    authorization: Option<HeaderValue>,
    default_timeout: Duration,
    min_budget: Duration,
    clock: Clock,
    metrics: Option<CalleeMetrics>,
}

/// Makes a [`Client`]. Does not connect yet, so it neither fails nor waits when the server is down.
///
/// # Errors
/// The URI cannot be used.
pub fn connect(config: ClientConfig) -> Result<Client, ClientConfigError> {
    let (scheme, authority) = config.origin()?;
    let connector = Connector::new(config.connect_timeout, config.tls);

    // One client of hyper has one connection.
    let channels = if is_address(&authority) { 1 } else { config.connections.max(1) };
    let mut http = builder();
    http.http2_only(true)
        .timer(TokioTimer::new())
        // An idle connection is kept, and pinged, so that the next call does not pay for a new one.
        .pool_idle_timeout(None)
        .http2_keep_alive_interval(config.keepalive_interval)
        .http2_keep_alive_timeout(config.keepalive_timeout)
        .http2_keep_alive_while_idle(true);
    let http = Channels::new((0..channels).map(|_| http.build(connector.clone())));
    let settings = Settings {
        scheme,
        authority,
        authorization: config.authorization,
        default_timeout: config.default_timeout,
        min_budget: config.min_budget,
        clock: Clock::new(),
        metrics: config.metrics,
    };
    Ok(Client { http, settings: Arc::new(settings) })
}

#[expect(clippy::disallowed_methods, reason = "this is the place where gRPC clients are made")]
fn builder() -> legacy::Builder {
    legacy::Client::builder(TokioExecutor::new())
}

/// Whether the host is an address already, of one server.
fn is_address(authority: &uri::Authority) -> bool {
    authority.host().trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

impl Settings {
    /// When the call must be over here; `None` if it is to run without a limit.
    fn deadline(&self, request: &Request<Body>) -> Result<Option<Deadline>, Status> {
        let extensions = request.extensions();
        // Set by `tonic::Request::set_timeout`, which callers may know from elsewhere.
        let from_header = match request.headers().get(budget::GRPC_TIMEOUT) {
            Some(value) => Some(budget::parse_timeout(value.as_bytes()).map_err(|error| {
                Status::invalid_argument(format!(
                    "the grpc-timeout of the outgoing call is malformed: {error}"
                ))
            })?),
            None => None,
        };
        let deadline = match (extensions.get::<Deadline>().copied(), from_header) {
            (Some(deadline), Some(timeout)) => Some(deadline.capped(timeout)),
            (Some(deadline), None) => Some(deadline),
            (None, Some(timeout)) => Some(Deadline::after(timeout)),
            (None, None) if extensions.get::<Unbounded>().is_some() => None,
            (None, None) => Some(Deadline::after(self.default_timeout)),
        };
        Ok(deadline)
    }

    /// Writes how much time the server has from now on, if that is enough.
    fn shrink(&self, headers: &mut HeaderMap, deadline: Option<Deadline>) -> Result<(), Status> {
        headers.remove(budget::GRPC_TIMEOUT);
        let Some(deadline) = deadline else { return Ok(()) };
        let budget = budget::hop_budget(deadline.remaining());
        if budget::is_doomed(budget, self.min_budget) {
            return Err(deadline::budget_too_small(budget, self.min_budget).into());
        }
        headers.insert(budget::GRPC_TIMEOUT, ascii(&budget::encode_timeout(budget)));
        headers.insert(SENT, self.clock.stamp());
        Ok(())
    }

    /// Writes what the server must know, and refuses a call that cannot succeed.
    fn prepare(&self, request: &mut Request<Body>) -> Result<Option<Deadline>, Status> {
        let deadline = self.deadline(request)?;
        self.shrink(request.headers_mut(), deadline)?;
        if let Some(trace) = request.extensions().get::<TraceParent>() {
            let value = trace.header_value();
            request.headers_mut().insert(TRACEPARENT, value);
        }
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(USER_AGENT_VALUE));
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }

        let mut parts = uri::Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = request.uri().path_and_query().cloned();
        *request.uri_mut() = Uri::from_parts(parts)
            .map_err(|error| Status::internal(format!("the generated client made no valid path: {error}")))?;
        Ok(deadline)
    }
}

fn ascii(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| unreachable!("digits and a letter"))
}

impl Service<Request<Body>> for Client {
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<Result<Response<Body>, Status>>;

    /// Always ready: waiting for the connection is part of the call, hence under its deadline.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let counted = self.settings.metrics.as_ref().map(|metrics| metrics.begin(request.uri().path()));
        let deadline = match self.settings.prepare(&mut request) {
            Ok(deadline) => deadline,
            Err(refused) => {
                counted.inspect(|counted| counted.fail(&refused));
                return Box::pin(async move { Err(refused) });
            }
        };
        let client = self.clone();
        Box::pin(async move { client.send(request, deadline, counted).await })
    }
}

impl Client {
    /// Sends a request that is prepared, and sends it again if the server gives it back.
    async fn send(
        &self,
        request: Request<Body>,
        deadline: Option<Deadline>,
        counted: Option<MadeCall>,
    ) -> Result<Response<Body>, Status> {
        let counted = counted.map(Arc::new);
        let (mut parts, body) = request.into_parts();
        let (messages, mut attempt) = Messages::new(body);
        let mut resends = 0;
        loop {
            let (http, in_progress) = self.http.pick();
            let call = Arc::new(Call::new(in_progress, counted.clone()));
            let over = call.over.clone().drop_guard();
            let body = RequestBody::new(attempt, deadline, Arc::clone(&call));
            let response = tokio::select! {
                biased;
                response = http.request(Request::from_parts(parts.clone(), body)) => response,
                Err(expired) = expiry(deadline) => return Err(call.failed(call.expired(expired))),
            };
            let error = match response {
                Ok(response) => {
                    messages.forget();
                    call.ends_with(response.headers());
                    let (parts, body) = response.into_parts();
                    let status_sent = has_status(&parts.headers) || parts.status != http::StatusCode::OK;
                    let body = ResponseBody::new(body, deadline, status_sent, call, over);
                    return Ok(Response::from_parts(parts, Body::new(body)));
                }
                Err(error) => error,
            };
            let may_resend = resends < MAX_RESENDS && call.was_not_taken(&error);
            match messages.again().filter(|_| may_resend) {
                Some(again) if self.settings.shrink(&mut parts.headers, deadline).is_ok() => attempt = again,
                _ => return Err(call.failed(call.status(&error))),
            }
            resends += 1;
        }
    }
}

fn has_status(headers: &HeaderMap) -> bool {
    headers.contains_key(Status::GRPC_STATUS)
}

async fn expiry(deadline: Option<Deadline>) -> Result<Infallible, Status> {
    match deadline {
        Some(deadline) => {
            deadline.expired().await;
            Err(deadline::expired().into())
        }
        None => std::future::pending().await,
    }
}
