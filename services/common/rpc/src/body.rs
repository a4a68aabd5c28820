//! Bodies that end when their call must be over, and that hold something until they have ended.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tonic::{Status, body::Body};

use crate::{ApiError, Deadline, layers::deadline};

/// How the reader of a body learns that it was cut.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cut {
    /// A response that has begun: the status goes into its trailers.
    Trailers,
    /// A request: the stream that the handler reads ends with the status as its error.
    Error,
}

/// A body bounded by a deadline and by a token. Once cut, the inner body is dropped at once, which ends the
/// stream or the work behind it.
pub(crate) struct GuardedBody {
    inner: Option<Body>,
    cut: Cut,
    expiry: Option<Pin<Box<tokio::time::Sleep>>>,
    /// What has expired then.
    expired: fn() -> ApiError,
    stop: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// Cancels the call's token when the body is finished or dropped.
    over: Option<DropGuard>,
}

impl GuardedBody {
    pub(crate) fn new(inner: Body, cut: Cut, deadline: Option<Deadline>) -> Self {
        let expiry = deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline.instant())));
        Self { inner: Some(inner), cut, expiry, expired: deadline::expired, stop: None, over: None }
    }

    /// Says at the deadline that something else is over than the call's time.
    pub(crate) fn expiring_as(mut self, expired: fn() -> ApiError) -> Self {
        self.expired = expired;
        self
    }

    /// Ends the body when `token` fires and nothing more is ready: a response with `UNAVAILABLE`, a request
    /// with `CANCELLED`.
    pub(crate) fn stopped_by(mut self, token: CancellationToken) -> Self {
        self.stop = Some(Box::pin(token.cancelled_owned()));
        self
    }

    /// Keeps `guard` until the body is over.
    pub(crate) fn with_guard(mut self, guard: DropGuard) -> Self {
        self.over = Some(guard);
        self
    }

    fn finish(&mut self) {
        self.inner = None;
        self.expiry = None;
        self.stop = None;
        self.over = None;
    }

    fn end_with(&mut self, status: Status) -> Result<Frame<Bytes>, Status> {
        self.finish();
        match self.cut {
            Cut::Trailers => Ok(Frame::trailers(trailers(&status)?)),
            Cut::Error => Err(status),
        }
    }
}

/// A status as the trailers of a response that has begun.
pub(crate) fn trailers(status: &Status) -> Result<HeaderMap, Status> {
    let mut trailers = HeaderMap::new();
    status.add_header(&mut trailers)?;
    Ok(trailers)
}

fn is_ready<F: Future<Output = ()>>(future: &mut Option<Pin<Box<F>>>, cx: &mut Context<'_>) -> bool {
    future.as_mut().is_some_and(|future| future.as_mut().poll(cx).is_ready())
}

impl http_body::Body for GuardedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        // Before the inner body, so that a stream that is always ready cannot outrun its deadline.
        if is_ready(&mut this.expiry, cx) {
            return Poll::Ready(Some(this.end_with((this.expired)().into())));
        }
        let Some(inner) = this.inner.as_mut() else { return Poll::Ready(None) };
        match Pin::new(inner).poll_frame(cx) {
            Poll::Ready(frame) => {
                let last = match &frame {
                    None | Some(Err(_)) => true,
                    Some(Ok(frame)) => frame.is_trailers(),
                };
                if last {
                    this.finish();
                }
                Poll::Ready(frame)
            }
            // After the inner body, so that what it still has to say (NOT_SERVING) goes out first.
            Poll::Pending if is_ready(&mut this.stop, cx) => {
                let status = match this.cut {
                    Cut::Trailers => deadline::draining().into(),
                    Cut::Error => Status::cancelled("the call is over"),
                };
                Poll::Ready(Some(this.end_with(status)))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(|inner| inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        // Not the inner one's: the body may be cut short, and an exact hint becomes a content-length.
        SizeHint::default()
    }
}

/// A body that holds something until it is sent: a stream is work as long as it lasts.
pub(crate) struct HoldingBody<T> {
    inner: Body,
    held: Option<T>,
}

impl<T> HoldingBody<T> {
    pub(crate) fn new(inner: Body, held: T) -> Self {
        Self { inner, held: Some(held) }
    }
}

impl<T: Unpin> http_body::Body for HoldingBody<T> {
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
