//! The two bodies of an outgoing call, which end when the call does.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tonic::{Status, body::Body};

use super::transport;
use crate::{Deadline, layers::deadline};

/// The request. hyper sends it from a task of its own, which goes on, and keeps the stream open, after the
/// caller dropped the response; so the end of the call is told to it.
pub(super) struct RequestBody {
    inner: Body,
    over: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl RequestBody {
    pub(super) fn new(inner: Body, over: CancellationToken) -> Self {
        Self { inner, over: Box::pin(over.cancelled_owned()) }
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        if this.over.as_mut().poll(cx).is_ready() {
            // Becomes RST_STREAM(CANCEL), which tells the server that nobody waits any more.
            return Poll::Ready(Some(Err(h2::Error::from(h2::Reason::CANCEL).into())));
        }
        Pin::new(&mut this.inner).poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The response, bounded by the deadline.
pub(super) struct ResponseBody {
    inner: Option<Incoming>,
    expiry: Option<Pin<Box<tokio::time::Sleep>>>,
    /// Whether the status has come, in the headers or in the trailers.
    status_sent: bool,
    over: Option<DropGuard>,
}

impl ResponseBody {
    pub(super) fn new(
        inner: Incoming,
        deadline: Option<Deadline>,
        status_sent: bool,
        over: DropGuard,
    ) -> Self {
        let expiry = deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline.instant())));
        Self { inner: Some(inner), expiry, status_sent, over: Some(over) }
    }

    fn finish(&mut self) {
        self.inner = None;
        self.expiry = None;
        self.over = None;
    }

    fn fail(&mut self, status: Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.finish();
        Poll::Ready(Some(Err(status)))
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let Some(inner) = this.inner.as_mut() else { return Poll::Ready(None) };
        match Pin::new(inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if frame.is_trailers() {
                    this.status_sent = true;
                    this.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => this.fail(transport::status(&error)),
            // hyper turns a reset with CANCEL or NO_ERROR into a clean end; without a status it is none.
            Poll::Ready(None) if !this.status_sent => {
                this.fail(transport::lost("the response ended without a status"))
            }
            Poll::Ready(None) => {
                this.finish();
                Poll::Ready(None)
            }
            Poll::Pending => match this.expiry.as_mut().map(|expiry| expiry.as_mut().poll(cx)) {
                Some(Poll::Ready(())) => this.fail(deadline::expired().into()),
                _ => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Some(inner) => self.status_sent && inner.is_end_stream(),
            None => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
