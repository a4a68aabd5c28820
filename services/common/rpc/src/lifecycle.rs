//! From the first signal to the end of the process.

use std::{
    fmt,
    future::Future,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The two stages of a shutdown. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    soft: CancellationToken,
    hard: CancellationToken,
}

impl Shutdown {
    /// Not connected to signals; for tests and for several services in one process.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins at the first SIGINT or SIGTERM and turns hard at the second.
    ///
    /// # Errors
    /// The operating system refuses to install a handler.
    pub fn on_signals() -> io::Result<Self> {
        let shutdown = Self::new();
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let signalled = shutdown.clone();
        tokio::spawn(async move {
            loop {
                let name = tokio::select! {
                    _ = interrupt.recv() => "SIGINT",
                    _ = terminate.recv() => "SIGTERM",
                };
                if signalled.soft.is_cancelled() {
                    tracing::warn!("{name} again: stopping at once");
                    signalled.force();
                    return;
                }
                tracing::info!("{name}: shutting down; send it again to stop at once");
                signalled.begin();
            }
        });
        Ok(shutdown)
    }

    /// Stop taking new work and finish what is in progress.
    pub fn begin(&self) {
        self.soft.cancel();
    }

    /// Runs `work`, such as to serve, until it has ended, or it is time to stop now: then it is dropped, and this gives `None`.
    ///
    /// # Errors
    /// Those of `work`.
    pub async fn unless_forced<T, E>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<Option<T>, E> {
        self.hard().run_until_cancelled_owned(work).await.transpose()
    }

    /// Stop now.
    pub fn force(&self) {
        self.soft.cancel();
        self.hard.cancel();
    }

    /// Fires when the shutdown begins.
    pub fn soft(&self) -> CancellationToken {
        self.soft.clone()
    }

    /// Fires when nothing must be waited for any more.
    pub fn hard(&self) -> CancellationToken {
        self.hard.clone()
    }
}

/// A background task ended when it should not have, or did not end when it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    /// It panicked; the log has the message and the place.
    #[error("task {task} of {group} panicked; the log has the message and the place")]
    Panicked {
        /// The group's name.
        group: &'static str,
        /// The task's name.
        task: &'static str,
    },
    /// It returned an error.
    #[error("task {task} of {group} failed: {error}")]
    Failed {
        /// The group's name.
        group: &'static str,
        /// The task's name.
        task: &'static str,
        /// The error and its causes.
        error: String,
    },
    /// It was still running at the end of the grace period and was dropped.
    #[error("{count} tasks of {group} did not stop within {grace:?} and were dropped")]
    Stuck {
        /// The group's name.
        group: &'static str,
        /// How many.
        count: usize,
        /// How long they had.
        grace: Duration,
    },
}

/// Background tasks that start and stop together. A process has one group for each stage of its
/// shutdown and stops them one after the other, in the order that it writes down.
///
/// A task that panics or fails is logged and begins the shutdown of the process: a service that has lost
/// a part of itself should be replaced, not limp along.
#[derive(Clone, Debug)]
pub struct TaskGroup {
    name: &'static str,
    shutdown: Shutdown,
    tasks: TaskTracker,
    stop: CancellationToken,
    abort: CancellationToken,
    failure: Arc<Mutex<Option<TaskError>>>,
}

impl TaskGroup {
    /// An empty group. It does not stop by itself when the shutdown begins; call [`TaskGroup::stop`].
    pub fn new(name: &'static str, shutdown: &Shutdown) -> Self {
        Self {
            name,
            shutdown: shutdown.clone(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            // A child, so that a hard shutdown drops the tasks of every group.
            abort: shutdown.hard.child_token(),
            failure: Arc::default(),
        }
    }

    /// Starts a task. It gets a token that fires when the group stops, and should then return `Ok`.
    pub fn spawn<F, E>(&self, task: &'static str, run: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display + Send + 'static,
    {
        let running = std::panic::AssertUnwindSafe(run(self.stop.clone())).catch_unwind();
        let group = self.clone();
        self.tasks.spawn(async move {
            let ended = tokio::select! {
                ended = running => ended,
                () = group.abort.cancelled() => return,
            };
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    group.fail(TaskError::Failed { group: group.name, task, error: error.to_string() })
                }
                Err(_panic) => group.fail(TaskError::Panicked { group: group.name, task }),
            }
        });
    }

    fn fail(&self, error: TaskError) {
        tracing::error!("{error}; shutting down");
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.shutdown.begin();
    }

    /// Stops the group: its token fires, and the tasks have `grace` to end before they are dropped.
    /// Returns within `grace`, or at once after a hard shutdown, even if a task blocks its thread.
    ///
    /// # Errors
    /// The first task that panicked or failed at any time, or else that some had to be dropped.
    pub async fn stop(self, grace: Duration) -> Result<(), TaskError> {
        self.stop.cancel();
        self.tasks.close();
        let stopped = tokio::select! {
            stopped = tokio::time::timeout(grace, self.tasks.wait()) => stopped.is_ok(),
            () = self.abort.cancelled() => self.tasks.is_empty(),
        };
        let count = self.tasks.len();
        self.abort.cancel();
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        match failure {
            Some(error) => Err(error),
            None if stopped => Ok(()),
            None => {
                let error = TaskError::Stuck { group: self.name, count, grace };
                tracing::warn!("{error}");
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const GRACE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn tasks_stop_when_told() {
        let shutdown = Shutdown::new();
        let group = TaskGroup::new("committers", &shutdown);
        group.spawn("one", |stop| async move {
            stop.cancelled().await;
            Ok::<_, Infallible>(())
        });
        shutdown.begin();
        assert_eq!(group.stop(GRACE).await, Ok(()));
    }

    #[tokio::test]
    async fn a_panic_begins_the_shutdown() {
        let shutdown = Shutdown::new();
        let group = TaskGroup::new("committers", &shutdown);
        group.spawn("one", |_| async {
            panic!("expected by the test");
            #[expect(unreachable_code, reason = "gives the block its type")]
            Ok::<_, Infallible>(())
        });
        shutdown.soft().cancelled().await;
        assert_eq!(group.stop(GRACE).await, Err(TaskError::Panicked { group: "committers", task: "one" }));
    }

    #[tokio::test]
    async fn a_failure_begins_the_shutdown() {
        let shutdown = Shutdown::new();
        let group = TaskGroup::new("lanes", &shutdown);
        group.spawn("lease", |_| async { Err("the database is gone") });
        shutdown.soft().cancelled().await;
        let error = group.stop(GRACE).await.expect_err("the task failed");
        assert_eq!(error.to_string(), "task lease of lanes failed: the database is gone");
    }

    #[tokio::test]
    async fn a_stuck_task_is_dropped() {
        let grace = Duration::from_millis(50);
        let shutdown = Shutdown::new();
        let group = TaskGroup::new("lanes", &shutdown);
        let (dropped, is_dropped) = tokio::sync::oneshot::channel::<()>();
        group.spawn("stuck", |_| async move {
            std::future::pending::<()>().await;
            drop(dropped);
            Ok::<_, Infallible>(())
        });
        assert_eq!(group.stop(grace).await, Err(TaskError::Stuck { group: "lanes", count: 1, grace }));
        is_dropped.await.expect_err("the task's future is dropped");
    }

    #[tokio::test]
    async fn a_hard_shutdown_waits_for_nobody() {
        let shutdown = Shutdown::new();
        let group = TaskGroup::new("lanes", &shutdown);
        group.spawn("stuck", |_| std::future::pending::<Result<(), Infallible>>());
        shutdown.force();
        // Either is right: dropped before it was asked, or found to be stuck.
        let _ = tokio::time::timeout(GRACE, group.stop(GRACE)).await.expect("returns at once");
        assert!(shutdown.soft().is_cancelled());
    }

    #[tokio::test]
    async fn the_first_signal_is_soft_and_the_second_hard() {
        async fn terminate_self() {
            let pid = std::process::id().to_string();
            let killed = tokio::process::Command::new("kill").args(["-TERM", &pid]).status().await;
            assert!(killed.expect("kill runs").success());
        }
        let shutdown = Shutdown::on_signals().expect("handlers can be installed");
        terminate_self().await;
        tokio::time::timeout(GRACE, shutdown.soft().cancelled()).await.expect("soft");
        assert!(!shutdown.hard().is_cancelled());
        terminate_self().await;
        tokio::time::timeout(GRACE, shutdown.hard().cancelled()).await.expect("hard");
    }
}
