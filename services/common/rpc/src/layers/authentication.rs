//! Finds out who makes a call.

use std::task::{Context, Poll};

use chatfn_domain::caller::Caller;
use http::{Request, Response};
use tonic::body::Body;
use tower_service::Service;

use super::Layered;

#[derive(Clone, Debug)]
pub(crate) struct AuthenticationService<S> {
    inner: S,
}

impl<S> AuthenticationService<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S: Layered> Service<Request<Body>> for AuthenticationService<S> {
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // Servers are reached from their own machine alone as yet.
        request.extensions_mut().insert(Caller::anonymous());
        self.inner.call(request)
    }
}
