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

/// Why an operation was not started.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// As many as allowed are under way.
    TooMany,
}

/// Bounded, and few: they are searched and polled in order.
pub(crate) struct Ops {
    host: Arc<dyn Host>,
    limit: usize,
    next_id: i32,
    running: Vec<(i32, BoxFuture<'static, Result<OpResult, OpError>>)>,
    /// Encoded results that the guest has not taken yet.
    done: Vec<(i32, Vec<u8>)>,
}

impl Ops {
    pub(crate) fn new(host: Arc<dyn Host>, limit: usize) -> Self {
        Self { host, limit, next_id: 1, running: Vec::new(), done: Vec::new() }
    }

    /// For sandboxes that may start none.
    pub(crate) fn none() -> Self {
        Self::new(Arc::new(NoHost), 0)
    }

    pub(crate) fn start(&mut self, op: HostOp) -> Result<i32, Refused> {
        if self.running.len() + self.done.len() >= self.limit {
            return Err(Refused::TooMany);
        }
        let id = self.next_id;
        self.next_id = id.checked_add(1).ok_or(Refused::TooMany)?;
        self.running.push((id, self.host.start(op)));
        Ok(id)
    }

    /// Drops an operation, if there still is one of this id.
    pub(crate) fn cancel(&mut self, id: i32) {
        self.running.retain(|(other, _)| *other != id);
        self.done.retain(|(other, _)| *other != id);
    }

    /// The encoded result of a finished operation.
    pub(crate) fn result(&self, id: i32) -> Option<&[u8]> {
        self.done.iter().find(|(other, _)| *other == id).map(|(_, result)| result.as_slice())
    }

    /// Takes it.
    pub(crate) fn take(&mut self, id: i32) -> Option<Vec<u8>> {
        let index = self.done.iter().position(|(other, _)| *other == id)?;
        Some(self.done.swap_remove(index).1)
    }

    /// Waits for an operation, for the time to wake or for the deadline. Cancel safe: an operation that
    /// finished is kept.
    pub(crate) async fn wait(
        &mut self,
        wake_at: Option<Instant>,
        deadline: Instant,
    ) -> Result<Wakeup, DeadlinePassed> {
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
            if let Poll::Ready(result) = self.running[index].1.as_mut().poll(cx) {
                let (id, _) = self.running.remove(index);
                self.done.push((id, wire::encode(result)));
                return Poll::Ready(id);
            }
        }
        Poll::Pending
    }
}
