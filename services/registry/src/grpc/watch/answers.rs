//! What waits for a watcher to read it.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use chatfn_proto::registry::v1::WatchDeploymentsResponse;
use futures_util::Stream;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use crate::error::RegistryError;

/// Messages that may wait; what more comes waits in the hub's ring. A few, because each may carry a whole source.
const QUEUE: usize = 4;

/// The two ends of what a watcher is told. Nothing is kept for a watcher that reads nothing for `stall`.
pub(super) fn answers(stall: Duration) -> (Teller, Answers) {
    let (messages, queue) = mpsc::channel(QUEUE);
    let (end, status) = oneshot::channel();
    (Teller { messages, stall, end }, Answers { queue, status })
}

/// Where messages go in.
#[derive(Debug)]
pub(super) struct Teller {
    messages: mpsc::Sender<WatchDeploymentsResponse>,
    stall: Duration,
    end: oneshot::Sender<Status>,
}

impl Teller {
    /// Waits until there is room for the message. When the call is over it goes nowhere.
    pub(super) async fn tell(&self, message: WatchDeploymentsResponse) -> Result<(), RegistryError> {
        match tokio::time::timeout(self.stall, self.messages.send(message)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(RegistryError::WatcherTooSlow),
        }
    }

    /// Waits for the end of the call.
    pub(super) async fn is_hung_up(&self) {
        self.messages.closed().await;
    }

    /// Ends the call, with a status that the watcher gets after what waits for it. Waits for nothing: a watcher that
    /// does not read need not hear of its end.
    pub(super) fn end(self, status: Status) {
        // An error means that the call is over.
        let _ = self.end.send(status);
    }
}

/// Where they come out.
#[derive(Debug)]
pub(crate) struct Answers {
    queue: mpsc::Receiver<WatchDeploymentsResponse>,
    status: oneshot::Receiver<Status>,
}

impl Stream for Answers {
    type Item = Result<WatchDeploymentsResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(message) = ready!(self.queue.poll_recv(context)) {
            return Poll::Ready(Some(Ok(message)));
        }
        // The queue ends with its teller, which has given the status before, if it gives one.
        Poll::Ready(self.status.try_recv().ok().map(Err))
    }
}
