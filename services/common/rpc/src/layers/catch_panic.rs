//! Turns a panic of a handler into `INTERNAL`, so that it costs one call and not a connection's worth. What the decoder says
//! before a handler is asked becomes an error of ours here, too.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use tonic::{Status, body::Body};
use tower_service::Service;
use uuid::Uuid;

use super::{Answer, BoxFuture, Layered, refuse};
use crate::{ApiError, body::trailers, status::unreadable::explained};

#[derive(Clone, Debug)]
pub(crate) struct CatchPanicService<S> {
    inner: S,
}

impl<S> CatchPanicService<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self { inner }
    }
}

/// The panic's text and place are in the log already, written by the panic hook; this ties them to the id
/// that the caller got.
fn opaque(_panic: Box<dyn Any + Send>) -> ApiError {
    let id = Uuid::now_v7();
    tracing::error!(error.id = %id, "a handler panicked: internal error {id}");
    ApiError::opaque(id)
}

// Unwind safety: nothing that a panic may have left half-changed is reached again, since the handler's
// future and body are dropped. State shared between calls is behind locks, which answer for themselves.
impl<S: Layered> Service<Request<Body>> for CatchPanicService<S> {
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<Answer>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let response = match catch_unwind(AssertUnwindSafe(|| self.inner.call(request))) {
            Ok(response) => response,
            Err(panic) => return Box::pin(async move { Ok(refuse(opaque(panic))) }),
        };
        Box::pin(async move {
            match AssertUnwindSafe(response).catch_unwind().await {
                Ok(Ok(response)) => {
                    Ok(explained(response).map(|body| Body::new(CaughtBody { inner: Some(body) })))
                }
                Err(panic) => Ok(refuse(opaque(panic))),
            }
        })
    }
}

struct CaughtBody {
    inner: Option<Body>,
}

impl http_body::Body for CaughtBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let Some(inner) = this.inner.as_mut() else { return Poll::Ready(None) };
        match catch_unwind(AssertUnwindSafe(|| Pin::new(inner).poll_frame(cx))) {
            Ok(frame) => frame,
            Err(panic) => {
                this.inner = None;
                Poll::Ready(Some(trailers(&opaque(panic).into()).map(Frame::trailers)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(|inner| inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
