//! Answers calls of methods that are not here as every other refusal: with a reason, and with what to do.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, Request, Response};
use tonic::{Status, body::Body};
use tower_service::Service;

use super::{Answer, BoxFuture, Layered, refuse};
use crate::security::access;

#[derive(Clone, Debug)]
pub(crate) struct UnknownMethodService<S> {
    inner: S,
    services: Arc<[&'static str]>,
}

impl<S> UnknownMethodService<S> {
    /// Around the routes of these services.
    pub(crate) fn new(inner: S, services: Arc<[&'static str]>) -> Self {
        Self { inner, services }
    }
}

impl<S: Layered> Service<Request<Body>> for UnknownMethodService<S> {
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<Answer>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (uri, services) = (request.uri().clone(), Arc::clone(&self.services));
        let handling = self.inner.call(request);
        Box::pin(async move {
            let Ok(response) = handling.await;
            if is_tonics(response.headers()) {
                return Ok(refuse(access::unknown_method(uri.path(), &services)));
            }
            Ok(response)
        })
    }
}

/// Whether the answer is tonic's own, that there is no such method: UNIMPLEMENTED without details, which our handlers never give.
fn is_tonics(headers: &HeaderMap) -> bool {
    headers.get(Status::GRPC_STATUS).is_some_and(|status| status == "12")
        && !headers.contains_key(Status::GRPC_STATUS_DETAILS)
}
