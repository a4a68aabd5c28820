//! Finds out who makes a call, and whether that caller may call the method.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
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
    security::{Peer, Security, Tokens, access, certificate_expired, token_expired},
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
    /// When that is over, unless it never is.
    until: Option<Expiry>,
}

/// The end of what proves who makes a call.
struct Expiry {
    at: Deadline,
    /// What is said then.
    refusal: fn() -> ApiError,
}

impl Identified {
    /// Proved for what remains, if anything does.
    fn proved(
        caller: &Caller,
        remaining: Option<Duration>,
        refusal: fn() -> ApiError,
    ) -> Result<Self, ApiError> {
        let at = Deadline::after(remaining.ok_or_else(refusal)?);
        Ok(Self { caller: caller.clone(), until: Some(Expiry { at, refusal }) })
    }
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
                Identified::proved(&valid.caller, tokens.remaining(&valid), token_expired)?
            }
            // A connection may outlive the certificate that it began with.
            (None, Some(Peer(Some(service)))) => {
                Identified::proved(&service.caller, service.remaining(), certificate_expired)?
            }
            (None, _) => return Err(missing()),
        };
        access::check(request.uri().path(), &identified.caller)?;
        Ok(identified)
    }
}

/// Ends a stream when its caller's token or certificate expires, as a new call would be refused then.
async fn until_expiry(response: impl Future<Output = Answer>, until: Expiry) -> Answer {
    let Expiry { at, refusal } = until;
    let response = tokio::select! {
        biased;
        Ok(response) = response => response,
        () = at.expired() => return Ok(refuse(refusal())),
    };
    Ok(response.map(|body| Body::new(GuardedBody::new(body, Cut::Trailers, Some(at)).expiring_as(refusal))))
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

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use chatfn_domain::caller::Service::{Invoker, Registry};
    use futures_util::stream;
    use http_body_util::{BodyExt as _, StreamBody};
    use rcgen::{CertificateParams, KeyPair, SanType};
    use tokio_util::sync::CancellationToken;
    use tonic::Status;

    use super::*;
    use crate::{ErrorReport, MethodPolicy, SecurityConfig, security::Certified};

    const WATCH: &str = "chatfn.registry.v1.DeploymentWatchService/WatchDeployments";
    const MINUTE: Duration = Duration::from_secs(60);

    /// Answers each call with a stream that has no end.
    #[derive(Clone)]
    struct Endless;

    impl Service<Request<Body>> for Endless {
        type Response = Response<Body>;
        type Error = std::convert::Infallible;
        type Future = std::future::Ready<Answer>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            let nothing = stream::pending::<Result<http_body::Frame<bytes::Bytes>, Status>>();
            std::future::ready(Ok(Response::new(Body::new(StreamBody::new(nothing)))))
        }
    }

    /// A server that asks who calls.
    fn closed() -> Security {
        let folder = tempfile::tempdir().expect("a folder");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.subject_alt_names.push(SanType::URI("spiffe://chatfn/registry".try_into().expect("ASCII")));
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate").pem();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            Some(path)
        };
        let config = SecurityConfig {
            tls_cert: file("crt", &certificate),
            tls_key: file("key", &key.serialize_pem()),
            tls_ca: file("ca", &certificate),
            ..SecurityConfig::default()
        };
        // Nothing reads the files again.
        let stop = CancellationToken::new();
        stop.cancel();
        Security::start(&config, Registry, &stop).expect("files that fit")
    }

    /// The answer to an invoker that watches by a certificate that expires in this second.
    async fn watch(expires: u64) -> Response<Body> {
        let mut methods = Methods::default();
        methods.set(WATCH, MethodPolicy::long_lived());
        let metrics = ServerMetrics::new(&chatfn_telemetry::Metrics::new(), &[], &[]);
        let mut layer = AuthenticationService::new(Endless, closed(), Arc::new(methods), metrics);
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = format!("/{WATCH}").parse().expect("a path");
        let caller = Caller::service("spiffe://chatfn/invoker", Invoker);
        request.extensions_mut().insert(Peer(Some(Certified { caller, expires })));
        let Ok(answer) = layer.call(request).await;
        answer
    }

    fn now() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
    }

    #[track_caller]
    fn is_expired(headers: &HeaderMap) {
        let report = ErrorReport::from_status(&Status::from_header_map(headers).expect("a status"));
        assert_eq!(
            (report.code, report.reason.as_deref()),
            (Code::Unauthenticated, Some(reasons::CERTIFICATE_EXPIRED.name()))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_when_its_certificate_expires() {
        let mut body = watch(now() + MINUTE.as_secs()).await.into_body();
        assert!(tokio::time::timeout(MINUTE / 2, body.frame()).await.is_err(), "it goes on until then");
        let end = tokio::time::timeout(MINUTE, body.frame()).await.expect("it ends").expect("by a frame");
        is_expired(end.expect("no error").trailers_ref().expect("trailers"));
    }

    #[tokio::test]
    async fn an_expired_certificate_is_nobodys() {
        is_expired(watch(now() - 1).await.headers());
    }
}
