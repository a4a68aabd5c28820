//! The two bodies of an outgoing call, which end when the call does.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tonic::{Code, Status};

use super::{
    channels::InProgress,
    resend::{Attempt, Ended},
    transport,
};
use crate::{Deadline, layers::deadline, metrics::MadeCall};

/// What the two bodies of a call tell each other.
#[derive(Debug)]
pub(super) struct Call {
    /// Fires when the call is over.
    pub(super) over: CancellationToken,
    /// Whether the connection has asked for the request's messages: before that, none has left.
    begun: AtomicBool,
    /// Why the request's own stream failed: a message that could not be encoded, for instance. hyper does not
    /// report it, it only resets the stream.
    request_failed: OnceLock<Status>,
    /// Ends with both bodies.
    _in_progress: InProgress,
    /// The same for all attempts at a call.
    counted: Option<Arc<MadeCall>>,
}

impl Call {
    pub(super) fn new(in_progress: InProgress, counted: Option<Arc<MadeCall>>) -> Self {
        Self {
            over: CancellationToken::new(),
            begun: AtomicBool::new(false),
            request_failed: OnceLock::new(),
            _in_progress: in_progress,
            counted,
        }
    }

    /// Counts the failure, and gives it back.
    pub(super) fn failed(&self, status: Status) -> Status {
        if let Some(counted) = &self.counted {
            counted.fail(&status);
        }
        status
    }

    /// The status for a call whose time is up: whether something of it was done may not be known, but if there was no connection.
    pub(super) fn expired(&self, expired: Status) -> Status {
        // Whoever asks for messages from now on finds that the time is up, and sends none.
        if self.begun.load(Ordering::SeqCst) { expired } else { transport::not_connected() }
    }

    /// Counts the end that headers or trailers tell, if they do.
    pub(super) fn ends_with(&self, headers: &HeaderMap) {
        let Some(counted) = &self.counted else { return };
        match Status::from_header_map(headers) {
            Some(status) if status.code() != Code::Ok => counted.fail(&status),
            Some(_) => counted.end(Code::Ok),
            None => {}
        }
    }

    /// Whether the server certainly did nothing of the call, and would not be to blame if it came again.
    pub(super) fn was_not_taken(&self, error: &(dyn std::error::Error + 'static)) -> bool {
        self.request_failed.get().is_none() && transport::was_not_taken(error)
    }

    /// The status for an error of the connection.
    pub(super) fn status(&self, error: &(dyn std::error::Error + 'static)) -> Status {
        self.request_failed.get().cloned().unwrap_or_else(|| transport::status(error))
    }

    fn ended_without_status(&self) -> Status {
        let lost = || transport::lost("the response ended without a status");
        self.request_failed.get().cloned().unwrap_or_else(lost)
    }
}

/// The request. hyper sends it from a task of its own, which goes on, and keeps the stream open, after the
/// caller dropped the response; so the end of the call is told to it.
///
/// That task may come to it late: a process that was halted, or had no connection, has a request whose headers promise time that is
/// long gone. The server would count that time from when they arrive; without the message it has nothing to begin with.
pub(super) struct RequestBody {
    inner: Attempt,
    deadline: Option<Deadline>,
    over: Pin<Box<WaitForCancellationFutureOwned>>,
    call: Arc<Call>,
}

impl RequestBody {
    pub(super) fn new(inner: Attempt, deadline: Option<Deadline>, call: Arc<Call>) -> Self {
        Self { inner, deadline, over: Box::pin(call.over.clone().cancelled_owned()), call }
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        // Becomes RST_STREAM(CANCEL), which tells the server that nobody waits any more.
        let cancel = || Poll::Ready(Some(Err(h2::Error::from(h2::Reason::CANCEL))));
        let this = self.get_mut();
        // Before the look at the clock.
        this.call.begun.store(true, Ordering::SeqCst);
        if this.over.as_mut().poll(cx).is_ready() {
            return cancel();
        }
        if this.deadline.is_some_and(Deadline::is_expired) {
            let _ = this.call.request_failed.set(deadline::expired().into());
            return cancel();
        }
        match std::task::ready!(this.inner.poll_frame(cx)) {
            Some(Err(Ended::Superseded)) => cancel(),
            Some(Err(Ended::Failed(status))) => {
                // Polled no more after this, so it is set once.
                let _ = this.call.request_failed.set(status);
                cancel()
            }
            Some(Ok(frame)) => Poll::Ready(Some(Ok(frame))),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// The response, bounded by the deadline.
pub(super) struct ResponseBody {
    inner: Option<Incoming>,
    expiry: Option<Pin<Box<tokio::time::Sleep>>>,
    /// Whether the status has come, in the headers or in the trailers.
    status_sent: bool,
    call: Arc<Call>,
    over: Option<DropGuard>,
}

impl ResponseBody {
    pub(super) fn new(
        inner: Incoming,
        deadline: Option<Deadline>,
        status_sent: bool,
        call: Arc<Call>,
        over: DropGuard,
    ) -> Self {
        let expiry = deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline.instant())));
        Self { inner: Some(inner), expiry, status_sent, call, over: Some(over) }
    }

    fn finish(&mut self) {
        self.inner = None;
        self.expiry = None;
        self.over = None;
    }

    fn fail(&mut self, status: Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let status = self.call.failed(status);
        self.finish();
        Poll::Ready(Some(Err(status)))
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        // First, so that a stream that is always ready cannot outrun the deadline, and so that a connection
        // that ends at the deadline, since the server gave up as well, is not taken for a lost one.
        if this.expiry.as_mut().is_some_and(|expiry| expiry.as_mut().poll(cx).is_ready()) {
            return this.fail(deadline::expired().into());
        }
        let Some(inner) = this.inner.as_mut() else { return Poll::Ready(None) };
        match std::task::ready!(Pin::new(inner).poll_frame(cx)) {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    this.call.ends_with(trailers);
                    this.status_sent = true;
                    this.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => this.fail(this.call.status(&error)),
            // hyper turns a reset with CANCEL or NO_ERROR into a clean end; without a status it is none.
            None if !this.status_sent => this.fail(this.call.ended_without_status()),
            None => {
                this.finish();
                Poll::Ready(None)
            }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::{BodyExt as _, Full};

    use tonic::body::Body;

    use super::{
        super::{channels::Channels, resend::Messages},
        *,
    };

    fn body(deadline: Option<Deadline>) -> (RequestBody, Arc<Call>) {
        let call = Arc::new(Call::new(Channels::new([()]).pick().1, None));
        let message = Body::new(Full::new(Bytes::from_static(b"message")).map_err(|never| match never {}));
        let message = Messages::new(message).1;
        (RequestBody::new(message, deadline, Arc::clone(&call)), call)
    }

    #[tokio::test]
    async fn a_message_leaves_in_time_or_not_at_all() {
        let (body, _) = body(Some(Deadline::after(Duration::from_secs(60))));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "message");
        let (late, call) = self::body(Some(Deadline::after(Duration::ZERO)));
        assert_eq!(late.collect().await.unwrap_err().reason(), Some(h2::Reason::CANCEL));
        let failed = call.request_failed.get().expect("a reason");
        assert_eq!(failed.code(), tonic::Code::DeadlineExceeded);
    }
}
