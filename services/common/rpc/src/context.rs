//! What a handler knows about its call, and what it hands to the calls it makes.

use std::time::Duration;

use chatfn_domain::caller::Caller;
use tokio_util::sync::CancellationToken;

use crate::{Deadline, TraceParent};

/// Everything about a call that the calls made on its behalf inherit.
#[derive(Clone, Debug, Default)]
pub struct CallContext {
    /// When the call must be over. `None` only for methods whose policy allows it.
    pub deadline: Option<Deadline>,
    /// Fires once the call is over: answered, expired, or abandoned by its caller. Work that must outlive
    /// the call (a commit) must not wait on it.
    pub cancelled: CancellationToken,
    /// The trace the call belongs to.
    pub trace: Option<TraceParent>,
    /// Who makes the call; `None` if nobody does. Not inherited: services call in their own name.
    pub caller: Option<Caller>,
}

/// Marks a call that has no deadline on purpose; without it the client applies its default.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unbounded;

/// Reads the context of an incoming [`tonic::Request`], and sets that of an outgoing one.
pub trait RequestExt: Sized {
    /// Incoming: the whole context of the call.
    fn context(&self) -> CallContext;

    /// Incoming: when the call must be over; `None` if its method runs without a limit.
    fn deadline(&self) -> Option<Deadline>;

    /// Incoming: who makes the call. Every call of a [`Server`](crate::Server) has a caller.
    ///
    /// # Panics
    /// The request did not come through a server, as in a test that calls a handler itself.
    fn caller(&self) -> Caller;

    /// Outgoing: inherits deadline and trace of the call that `context` belongs to. Cancellation follows
    /// from dropping the outgoing call's future, which happens when the caller's own is dropped.
    #[must_use]
    fn with_context(self, context: &CallContext) -> Self;

    /// Outgoing: the call must be over at `deadline`. The callee is told a little less ([`crate::budget`]).
    #[must_use]
    fn with_deadline(self, deadline: Deadline) -> Self;

    /// Outgoing: the call must be over `budget` from now.
    #[must_use]
    fn with_timeout(self, budget: Duration) -> Self {
        self.with_deadline(Deadline::after(budget))
    }

    /// Outgoing: no deadline at all, not even the client's default; for long-lived watches.
    #[must_use]
    fn without_deadline(self) -> Self;

    /// Outgoing: the call belongs to this trace.
    #[must_use]
    fn with_trace(self, trace: TraceParent) -> Self;
}

impl<T> RequestExt for tonic::Request<T> {
    fn context(&self) -> CallContext {
        let extensions = self.extensions();
        CallContext {
            deadline: extensions.get().copied(),
            cancelled: extensions.get().cloned().unwrap_or_default(),
            trace: extensions.get().copied(),
            caller: extensions.get().cloned(),
        }
    }

    fn deadline(&self) -> Option<Deadline> {
        self.extensions().get().copied()
    }

    fn caller(&self) -> Caller {
        self.extensions().get().cloned().expect("the server's layers tell every call's caller")
    }

    fn with_context(mut self, context: &CallContext) -> Self {
        if let Some(deadline) = context.deadline {
            self.extensions_mut().insert(deadline);
        }
        if let Some(trace) = context.trace {
            self.extensions_mut().insert(trace);
        }
        self
    }

    fn with_deadline(mut self, deadline: Deadline) -> Self {
        self.extensions_mut().insert(deadline);
        self
    }

    fn without_deadline(mut self) -> Self {
        self.extensions_mut().remove::<Deadline>();
        self.extensions_mut().insert(Unbounded);
        self
    }

    fn with_trace(mut self, trace: TraceParent) -> Self {
        self.extensions_mut().insert(trace);
        self
    }
}
