//! A bound on what the messages of all calls in progress take together.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::Semaphore;
use tonic::{Status, body::Body};

use crate::ApiError;

/// What one call has taken of the bound, until it is over: a message that was read lives on in its handler.
#[derive(Debug)]
pub(crate) struct Taken {
    /// A permit for each KiB.
    bound: Arc<Semaphore>,
    bytes: AtomicUsize,
}

impl Taken {
    pub(crate) fn nothing(bound: &Arc<Semaphore>) -> Arc<Self> {
        Arc::new(Self { bound: Arc::clone(bound), bytes: AtomicUsize::new(0) })
    }

    /// Whether there was room for so many more bytes. One body of a call takes, so it is one at a time.
    fn take(&self, bytes: usize) -> bool {
        let before = self.bytes.load(Ordering::Relaxed);
        let kib = kib(before + bytes) - kib(before);
        let Ok(permits) = self.bound.try_acquire_many(u32::try_from(kib).unwrap_or(u32::MAX)) else {
            return false;
        };
        permits.forget();
        self.bytes.store(before + bytes, Ordering::Relaxed);
        true
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.bound.add_permits(kib(*self.bytes.get_mut()));
    }
}

fn kib(bytes: usize) -> usize {
    bytes.div_ceil(1024)
}

/// The request's body, which ends with an error where there is no room for it.
pub(crate) struct CountedBody<F> {
    pub(crate) inner: Body,
    pub(crate) taken: Arc<Taken>,
    /// Why it ends then.
    pub(crate) no_room: F,
}

impl<F: Fn() -> ApiError + Unpin> http_body::Body for CountedBody<F> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let frame = std::task::ready!(Pin::new(&mut this.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && !this.taken.take(data.len())
        {
            this.inner = Body::empty();
            return Poll::Ready(Some(Err((this.no_room)().into())));
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
