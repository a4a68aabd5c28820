//! Work that goes on while the lambda that asked for it computes.
//!
//! What a run waits for is polled by the run itself, which a lambda can put off until its deadline. That must hold up nobody else: whatever
//! takes a lock or a place that runs share goes into a task of its own.

use std::panic::resume_unwind;

use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

/// Runs `work` in a task of its own. It starts with the first poll, ends when the future is dropped, and passes a panic on.
pub(crate) async fn own_task<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    match AbortOnDropHandle::new(tokio::spawn(work.in_current_span())).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // Only dropping the handle aborts it, or the runtime's end.
            Err(_) => std::future::pending().await,
        },
    }
}
