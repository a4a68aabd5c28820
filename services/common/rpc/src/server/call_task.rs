//! The task that hyper spawns for each call: counted, and ended from outside when it must be.
//!
//! A layer sees its call only while hyper polls it, and hyper polls a response body only when the peer has
//! room for more. A peer that stops reading would therefore keep a call, its permit and its lambda beyond any
//! deadline. So the task itself has a limit: dropping it resets the stream and everything behind it.

use std::{
    cell::{Cell, OnceCell},
    future::Future,
    pin::pin,
    task::Poll,
};

use tokio::time::{Instant, Sleep};
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFutureOwned},
    task::TaskTracker,
};

tokio::task_local! {
    static ENDS: CallEnds;
}

/// What ends a call's task, besides its own end and the server's.
#[derive(Default)]
struct CallEnds {
    cut_off: Cell<Option<Instant>>,
    reset: OnceCell<CancellationToken>,
}

/// Ends the calling call's task at `instant`. Without effect outside a call's task.
pub(crate) fn cut_off_at(instant: Instant) {
    // An error means that the layers run outside a server of ours, where there is no task to end.
    let _ = ENDS.try_with(|ends| ends.cut_off.set(Some(instant)));
}

/// A token that resets the calling call's stream at once, without a status: the only way to end a call whose peer has
/// stopped reading before its deadline. To be taken in a handler, before it returns; without effect elsewhere.
pub fn reset_token() -> CancellationToken {
    ENDS.try_with(|ends| ends.reset.get_or_init(CancellationToken::new).clone()).unwrap_or_default()
}

/// Spawns the tasks of calls for hyper.
#[derive(Clone, Debug)]
pub(super) struct CallExecutor {
    pub(super) tasks: TaskTracker,
    pub(super) abort: CancellationToken,
}

impl<F> hyper::rt::Executor<F> for CallExecutor
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, call: F) {
        self.tasks.spawn(ENDS.scope(CallEnds::default(), run(call, self.abort.clone())));
    }
}

async fn run<F: Future>(call: F, abort: CancellationToken) {
    let mut call = pin!(call);
    let mut abort = pin!(abort.cancelled());
    let mut cut_off = pin!(None::<Sleep>);
    let mut reset = pin!(None::<WaitForCancellationFutureOwned>);
    std::future::poll_fn(|cx| {
        if call.as_mut().poll(cx).is_ready() || abort.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if cut_off.is_none() {
            // Set by the deadline layer when it was first polled, just above.
            cut_off.set(ENDS.with(|ends| ends.cut_off.get()).map(tokio::time::sleep_until));
        }
        if reset.is_none() {
            reset.set(ENDS.with(|ends| ends.reset.get().cloned()).map(CancellationToken::cancelled_owned));
        }
        if reset.as_mut().as_pin_mut().is_some_and(|reset| reset.poll(cx).is_ready()) {
            return Poll::Ready(());
        }
        match cut_off.as_mut().as_pin_mut() {
            Some(cut_off) => cut_off.poll(cx),
            None => Poll::Pending,
        }
    })
    .await;
}
