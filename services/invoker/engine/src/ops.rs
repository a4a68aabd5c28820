//! The operations that one lambda has under way.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::future::BoxFuture;

use crate::host::{Host, HostOp, NoHost, OpError, OpResult};
use crate::sandbox::DeadlinePassed;
use crate::wire;

/// What a lambda was waiting for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wakeup {
    /// There is nothing to wait for.
    Nothing,
    /// The next timer is due.
    Timer,
    /// This operation is done.
    Op(i32),
}

/// Why an operation is not started.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// As many as allowed are under way.
    TooMany,
    /// Its request, with those of the operations under way, is longer than allowed.
    TooLarge,
}

/// What the operations under way may cost. Their requests and one result lie in the host's memory, which
/// the sandbox's own limit does not bound.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpLimits {
    pub(crate) count: usize,
    pub(crate) request_bytes: usize,
}

/// Few, so that they are searched and polled in order.
pub(crate) struct Ops {
    host: Arc<dyn Host>,
    limits: OpLimits,
    next_id: i32,
    running: Vec<Running>,
    /// The encoded result of the operation that finished last. No other one is polled before the guest has
    /// taken it, so there is never more than one.
    done: Option<(i32, Vec<u8>)>,
}

struct Running {
    id: i32,
    request_bytes: usize,
    outcome: BoxFuture<'static, Result<OpResult, OpError>>,
}

impl Ops {
    pub(crate) fn new(host: Arc<dyn Host>, limits: OpLimits) -> Self {
        Self { host, limits, next_id: 1, running: Vec::new(), done: None }
    }

    /// For sandboxes that may start none.
    pub(crate) fn none() -> Self {
        Self::new(Arc::new(NoHost), OpLimits { count: 0, request_bytes: 0 })
    }

    /// Whether an operation with a request of this length may start now. Asked before the request is copied.
    pub(crate) fn admit(&self, request_bytes: usize) -> Result<(), Refused> {
        let under_way: usize = self.running.iter().map(|op| op.request_bytes).sum();
        if self.running.len() + usize::from(self.done.is_some()) >= self.limits.count
            || self.next_id == i32::MAX
        {
            return Err(Refused::TooMany);
        }
        if under_way + request_bytes > self.limits.request_bytes {
            return Err(Refused::TooLarge);
        }
        Ok(())
    }

    /// Starts an operation that was admitted.
    pub(crate) fn start(&mut self, op: HostOp, request_bytes: usize) -> i32 {
        let id = self.next_id;
        self.next_id += 1;
        self.running.push(Running { id, request_bytes, outcome: self.host.start(op) });
        id
    }

    /// Drops an operation, if there still is one of this id.
    pub(crate) fn cancel(&mut self, id: i32) {
        self.running.retain(|op| op.id != id);
        self.done.take_if(|(other, _)| *other == id);
    }

    /// The encoded result of the operation that finished last.
    pub(crate) fn result(&self, id: i32) -> Option<&[u8]> {
        self.done.as_ref().filter(|(other, _)| *other == id).map(|(_, result)| result.as_slice())
    }

    /// Takes it.
    pub(crate) fn take(&mut self, id: i32) -> Option<Vec<u8>> {
        self.done.take_if(|(other, _)| *other == id).map(|(_, result)| result)
    }

    /// How many bytes requests under way and a result take.
    #[cfg(any(test, feature = "fuzz"))]
    pub(crate) fn held_bytes(&self) -> usize {
        let requests: usize = self.running.iter().map(|op| op.request_bytes).sum();
        requests + self.done.as_ref().map_or(0, |(_, result)| result.len())
    }

    /// Waits for an operation, for the time to wake or for the deadline. Cancel safe: an operation that
    /// finished is kept.
    pub(crate) async fn wait(
        &mut self,
        wake_at: Option<Instant>,
        deadline: Instant,
    ) -> Result<Wakeup, DeadlinePassed> {
        if let Some((id, _)) = &self.done {
            return Ok(Wakeup::Op(*id));
        }
        if self.running.is_empty() && wake_at.is_none() {
            return Ok(Wakeup::Nothing);
        }
        let until = wake_at.map_or(deadline, |at| at.min(deadline));
        match tokio::time::timeout_at(until.into(), poll_fn(|cx| self.poll_any(cx))).await {
            Ok(id) => Ok(Wakeup::Op(id)),
            Err(_) if wake_at.is_some_and(|at| at < deadline) => Ok(Wakeup::Timer),
            Err(_) => Err(DeadlinePassed),
        }
    }

    fn poll_any(&mut self, cx: &mut Context<'_>) -> Poll<i32> {
        for index in 0..self.running.len() {
            if let Poll::Ready(result) = self.running[index].outcome.as_mut().poll(cx) {
                let Running { id, .. } = self.running.remove(index);
                self.done = Some((id, wire::encode(result)));
                return Poll::Ready(id);
            }
        }
        Poll::Pending
    }
}
