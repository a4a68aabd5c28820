//! A request's messages, which can be sent once more from the first one on.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as _, Frame};
use tonic::{Status, body::Body};

use crate::MAX_MESSAGE_BYTES;

/// What is kept to be sent again: a message of the largest size and what frames it. A stream that has sent more is not sent
/// again.
const MAX_KEPT_BYTES: usize = MAX_MESSAGE_BYTES + 1024;

/// The messages of one call, over all attempts to send them. Cheap to clone.
#[derive(Clone)]
pub(super) struct Messages(Arc<Mutex<State>>);

struct State {
    inner: Body,
    /// The attempt that may read on.
    attempt: u32,
    /// All that was read; `None` once it is too much, or not needed any more. What is shared is not copied.
    kept: Option<Vec<Bytes>>,
    kept_bytes: usize,
}

/// The same as one attempt sends them.
pub(super) struct Attempt {
    messages: Messages,
    number: u32,
    /// Of what is kept.
    sent: usize,
}

/// Why there is no further frame.
pub(super) enum Ended {
    /// Another attempt has begun.
    Superseded,
    /// The caller's own stream failed.
    Failed(Status),
}

impl Messages {
    /// With the first attempt to send them.
    pub(super) fn new(inner: Body) -> (Self, Attempt) {
        let state = State { inner, attempt: 0, kept: Some(Vec::new()), kept_bytes: 0 };
        let messages = Self(Arc::new(Mutex::new(state)));
        (messages.clone(), Attempt { messages, number: 0, sent: 0 })
    }

    /// Another attempt, from the first message on, which ends the one before. `None`: what that has sent is not kept.
    pub(super) fn again(&self) -> Option<Attempt> {
        let mut state = self.lock();
        state.kept.as_ref()?;
        state.attempt += 1;
        Some(Attempt { messages: self.clone(), number: state.attempt, sent: 0 })
    }

    /// They have arrived, so none is sent again.
    pub(super) fn forget(&self) {
        self.lock().kept = None;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in the caller's stream leaves nothing half-done here.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn keep(&mut self, frame: &Frame<Bytes>) {
        let Some(kept) = &mut self.kept else { return };
        match frame.data_ref() {
            Some(data) if self.kept_bytes + data.len() <= MAX_KEPT_BYTES => {
                self.kept_bytes += data.len();
                kept.push(data.clone());
            }
            _ => self.kept = None,
        }
    }
}

impl Attempt {
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Ended>>> {
        let mut state = self.messages.lock();
        if state.attempt != self.number {
            return Poll::Ready(Some(Err(Ended::Superseded)));
        }
        if let Some(kept) = state.kept.as_ref().and_then(|kept| kept.get(self.sent)) {
            self.sent += 1;
            return Poll::Ready(Some(Ok(Frame::data(kept.clone()))));
        }
        let frame = std::task::ready!(Pin::new(&mut state.inner).poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            let frame = frame.map_err(Ended::Failed)?;
            state.keep(&frame);
            self.sent += 1;
            Ok(frame)
        }))
    }

    pub(super) fn is_end_stream(&self) -> bool {
        let state = self.messages.lock();
        let rest = state.kept.as_ref().is_some_and(|kept| self.sent < kept.len());
        !rest && state.inner.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt as _, stream};
    use http_body_util::StreamBody;

    use super::*;

    fn messages(texts: &'static [&'static str]) -> (Messages, Attempt) {
        let frames =
            stream::iter(texts).map(|text| Ok::<_, Status>(Frame::data(Bytes::from_static(text.as_bytes()))));
        Messages::new(Body::new(StreamBody::new(frames)))
    }

    /// The next message; `None` at the end, or when another attempt has begun.
    async fn next(attempt: &mut Attempt) -> Option<Bytes> {
        let frame = std::future::poll_fn(|cx| attempt.poll_frame(cx)).await?;
        frame.ok().and_then(|frame| frame.into_data().ok())
    }

    #[tokio::test]
    async fn every_attempt_sends_all() {
        let (messages, mut first) = messages(&["a", "b", "c"]);
        assert_eq!(next(&mut first).await.unwrap(), "a");
        assert_eq!(next(&mut first).await.unwrap(), "b");
        let mut second = messages.again().unwrap();
        assert_eq!(next(&mut first).await, None, "it must not take what the second one is to send");
        for expected in ["a", "b", "c"] {
            assert_eq!(next(&mut second).await.unwrap(), expected);
        }
        assert_eq!(next(&mut second).await, None);
    }

    #[tokio::test]
    async fn what_has_arrived_is_not_kept() {
        let (messages, mut only) = messages(&["a", "b"]);
        assert_eq!(next(&mut only).await.unwrap(), "a");
        messages.forget();
        assert_eq!(next(&mut only).await.unwrap(), "b");
        assert_eq!(next(&mut only).await, None);
        assert!(messages.again().is_none());
    }

    #[tokio::test]
    async fn no_more_is_kept_than_one_message_may_have() {
        static LARGE: [u8; MAX_KEPT_BYTES] = [0; MAX_KEPT_BYTES];
        let frames = stream::iter([&LARGE[..], b"x"])
            .map(|data| Ok::<_, Status>(Frame::data(Bytes::from_static(data))));
        let (messages, mut attempt) = Messages::new(Body::new(StreamBody::new(frames)));
        next(&mut attempt).await.unwrap();
        assert_eq!(messages.0.lock().unwrap().kept_bytes, MAX_KEPT_BYTES);
        assert_eq!(next(&mut attempt).await.unwrap(), "x");
        assert!(messages.again().is_none());
    }
}
