//! Limits on the calls in progress, and on what their messages take, over all connections of the process.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use tokio::sync::Semaphore;
use tonic::body::Body;
use tower_service::Service;

use super::{
    Answer, BoxFuture, Layered, refuse,
    request_bytes::{CountedBody, Taken},
};
use crate::{
    ApiError,
    body::HoldingBody,
    method::{Admission, Methods, TimeLimit},
    metrics::{RefusedCall, ServerMetrics},
    reasons,
};

/// What calls take one of, and hold until they are over.
#[derive(Clone, Debug)]
pub(crate) struct Permits {
    pub(crate) calls: Arc<Semaphore>,
    pub(crate) reserve: Arc<Semaphore>,
    pub(crate) open_streams: Arc<Semaphore>,
    /// One for each KiB of messages.
    pub(crate) request_kib: Arc<Semaphore>,
}

#[derive(Clone, Debug)]
pub(crate) struct AdmissionService<S> {
    inner: S,
    permits: Permits,
    retry_after: Duration,
    methods: Arc<Methods>,
    metrics: ServerMetrics,
}

impl<S> AdmissionService<S> {
    pub(crate) fn new(
        inner: S,
        permits: Permits,
        retry_after: Duration,
        methods: Arc<Methods>,
        metrics: ServerMetrics,
    ) -> Self {
        Self { inner, permits, retry_after, methods, metrics }
    }

    fn busy(&self) -> ApiError {
        ApiError::resource_exhausted(
            reasons::SERVER_BUSY,
            "too many calls are in progress; nothing was done",
            self.retry_after,
        )
    }

    /// Counts what the call's messages take until `taken` is dropped.
    fn counted(&self, body: Body, taken: &Arc<Taken>) -> Body {
        let (metrics, retry_after) = (self.metrics.clone(), self.retry_after);
        let no_room = move || {
            metrics.refused(RefusedCall::Busy);
            let message = "the calls in progress take as much memory as they may; nothing was done";
            ApiError::resource_exhausted(reasons::SERVER_BUSY, message, retry_after)
        };
        Body::new(CountedBody { inner: body, taken: Arc::clone(taken), no_room })
    }
}

impl<S: Layered> Service<Request<Body>> for AdmissionService<S> {
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<Answer>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let take = |permits: &Arc<Semaphore>| Arc::clone(permits).try_acquire_owned().ok();
        let permits = &self.permits;
        let policy = self.methods.get(request.uri().path());
        let permit = match policy.admission {
            Admission::Calls => take(&permits.calls),
            Admission::Reserve => take(&permits.calls).or_else(|| take(&permits.reserve)),
            Admission::OpenStreams => take(&permits.open_streams),
            Admission::Free => return Box::pin(self.inner.call(request)),
        };
        // Refusing beats queueing: a caller that waits here spends its budget on nothing.
        let Some(permit) = permit else {
            self.metrics.refused(RefusedCall::Busy);
            let busy = self.busy();
            return Box::pin(async move { Ok(refuse(busy)) });
        };
        // Not of streams without end, whose messages come and go.
        let taken =
            (!matches!(policy.limit, TimeLimit::Caller)).then(|| Taken::nothing(&permits.request_kib));
        let request = match &taken {
            Some(taken) => request.map(|body| self.counted(body, taken)),
            None => request,
        };
        let response = self.inner.call(request);
        Box::pin(async move {
            let Ok(response) = response.await;
            Ok(response.map(|body| Body::new(HoldingBody::new(body, (permit, taken)))))
        })
    }
}
