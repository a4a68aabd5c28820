//! Limits on the calls in progress, and on what their messages take, over all connections of the process.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Status, body::Body};
use tower_service::Service;

use super::{
    Answer, BoxFuture, Layered, refuse,
    request_bytes::{CountedBody, Taken},
};
use crate::{
    ApiError,
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
            let held = Some((permit, taken));
            Ok(response.map(|body| Body::new(AdmittedBody { inner: body, held })))
        })
    }
}

/// Holds what the call takes until the response is sent: a stream is work as long as it lasts.
struct AdmittedBody {
    inner: Body,
    held: Option<(OwnedSemaphorePermit, Option<Arc<Taken>>)>,
}

impl http_body::Body for AdmittedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let frame = std::task::ready!(Pin::new(&mut this.inner).poll_frame(cx));
        if !matches!(&frame, Some(Ok(frame)) if frame.is_data()) {
            this.held = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
