//! Finds out who makes a call, and whether that caller may call the method.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use chatfn_domain::caller::Caller;
use http::{HeaderMap, Request, Response, header::AUTHORIZATION};
use tokio::sync::watch;
use tonic::{Code, body::Body};
use tower_service::Service;

use super::{Answer, BoxFuture, Layered, refuse};
use crate::{
    ApiError, Deadline,
    body::{Cut, GuardedBody},
    method::{Methods, TimeLimit},
    metrics::{RefusedCall, ServerMetrics},
    reasons,
    security::{Peer, Security, Tokens, access, expired},
};

#[derive(Clone, Debug)]
pub(crate) struct AuthenticationService<S> {
    inner: S,
    security: Security,
    methods: Arc<Methods>,
    metrics: ServerMetrics,
}

/// Who makes a call.
struct Identified {
    caller: Caller,
    /// When that is over; `None` for who has no token.
    until: Option<Deadline>,
}

impl<S> AuthenticationService<S> {
    pub(crate) fn new(inner: S, security: Security, methods: Arc<Methods>, metrics: ServerMetrics) -> Self {
        Self { inner, security, methods, metrics }
    }

    fn identify(&self, request: &Request<Body>) -> Result<Identified, ApiError> {
        if !self.security.is_closed() {
            return Ok(Identified { caller: Caller::anonymous(), until: None });
        }
        let identified = match (bearer(request.headers())?, request.extensions().get()) {
            // A token goes before a certificate, and a bad one is not made good by it.
            (Some(token), _) => {
                let tokens = tokens(self.security.tokens.as_ref())?;
                let valid = tokens.check(token)?;
                let until = Deadline::after(tokens.remaining(&valid).unwrap_or_default());
                Identified { caller: valid.caller.clone(), until: Some(until) }
            }
            (None, Some(Peer(Some(service)))) => Identified { caller: service.clone(), until: None },
            (None, _) => return Err(missing()),
        };
        access::check(request.uri().path(), &identified.caller)?;
        Ok(identified)
    }
}

/// Ends a stream when its caller's token expires, as a new call would be refused then.
async fn until_expiry(response: impl Future<Output = Answer>, until: Deadline) -> Answer {
    let response = tokio::select! {
        biased;
        Ok(response) = response => response,
        () = until.expired() => return Ok(refuse(expired())),
    };
    Ok(response
        .map(|body| Body::new(GuardedBody::new(body, Cut::Trailers, Some(until)).expiring_as(expired))))
}

/// The token of the call, if it has one.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let token = value.to_str().ok().and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    match (token, values.next()) {
        (Some(token), None) => Ok(Some(token)),
        _ => Err(ApiError::new(
            Code::Unauthenticated,
            reasons::TOKEN_MALFORMED,
            "the authorization header must be given once, as `authorization: Bearer <token>`",
        )),
    }
}

fn tokens(tokens: Option<&watch::Receiver<Arc<Tokens>>>) -> Result<Arc<Tokens>, ApiError> {
    let tokens = tokens.ok_or_else(|| {
        ApiError::new(
            Code::Unauthenticated,
            reasons::TOKENS_NOT_ACCEPTED,
            "this server accepts no tokens; its operator sets --token-keys, --token-issuer and --token-audience",
        )
    })?;
    Ok(Arc::clone(&tokens.borrow()))
}

fn missing() -> ApiError {
    ApiError::new(
        Code::Unauthenticated,
        reasons::TOKEN_MISSING,
        "the call does not say who makes it; send the header `authorization: Bearer <token>` (services connect with their \
         certificate)",
    )
}

impl<S: Layered> Service<Request<Body>> for AuthenticationService<S> {
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<Answer>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if access::is_open(request.uri().path()) {
            return Box::pin(self.inner.call(request));
        }
        let Identified { caller, until } = match self.identify(&request) {
            Ok(identified) => identified,
            Err(refused) => {
                let is_known = refused.code() == Code::PermissionDenied;
                let why = if is_known { RefusedCall::PermissionDenied } else { RefusedCall::Unauthenticated };
                self.metrics.refused(why);
                return Box::pin(async move { Ok(refuse(refused)) });
            }
        };
        request.extensions_mut().insert(caller);
        // It has done its work; nothing behind this layer can log it or pass it on.
        request.headers_mut().remove(AUTHORIZATION);
        // Every other call ends soon by itself, and what it has begun is not broken off.
        let is_long_lived = self.methods.get(request.uri().path()).limit == TimeLimit::Caller;
        let response = self.inner.call(request);
        match until.filter(|_| is_long_lived) {
            None => Box::pin(response),
            Some(until) => Box::pin(until_expiry(response, until)),
        }
    }
}
