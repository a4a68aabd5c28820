//! Runs a prepared function, once, in a sandbox of its own.

use std::time::{Duration, Instant};

use wasmtime::Trap;

use crate::call::{Call, Failure, FailureKind, Outcome, Report, RunError, Timing};
use crate::engine::Engine;
use crate::pool::Live;
use crate::prepared::Prepared;
use crate::sandbox::{DeadlinePassed, Sandbox};
use crate::verdict::Verdict;

impl Engine {
    /// Runs a lambda to its end or to the call's deadline.
    ///
    /// A lambda that fails is a [`Report`]. Needs a tokio runtime with time enabled. Cancel safe: dropping
    /// the future ends the lambda and drops its operations.
    ///
    /// # Errors
    ///
    /// When the platform cannot run it; nothing of the lambda has run then.
    pub async fn run(&self, prepared: &Prepared, call: Call) -> Result<Report, RunError> {
        self.run_after(prepared, call, |_| {}).await
    }

    /// Runs it after something was done to its sandbox, which only tests do.
    pub(crate) async fn run_after(
        &self,
        prepared: &Prepared,
        call: Call,
        change: impl FnOnce(&mut Live) + Send,
    ) -> Result<Report, RunError> {
        let begun = Instant::now();
        if prepared.0.engine_id != self.inner.id {
            return Err(RunError::InvalidCall("the function was prepared by another engine"));
        }
        if call.memory_bytes > self.inner.config.max_memory_bytes {
            return Err(RunError::InvalidCall("more memory than the engine was set up for"));
        }
        if begun >= call.deadline {
            return Ok(never_began(begun, Failure::timeout(Duration::ZERO)));
        }
        if prepared.0.delta.memory_bytes() > call.memory_bytes {
            return Ok(never_began(begun, Failure::out_of_memory(call.memory_bytes)));
        }
        let pool = self.inner.pool(prepared.0.size);
        // Locals are dropped in reverse order: the sandbox before its slot.
        let _slot = pool.slot(call.deadline).await.ok_or(RunError::NoCapacity)?;
        let _tick = self.inner.tick();
        let slot = begun.elapsed();

        let sandbox = Sandbox::for_run(call, prepared.0.source.clone());
        let made = pool.sandbox_for_run(sandbox, &prepared.0.delta).await;
        let mut live = made.map_err(RunError::Internal)?;
        change(&mut live);
        let instantiate = begun.elapsed() - slot;

        let ended = live.enter().await;
        let execute = begun.elapsed() - slot - instantiate;

        let peak_memory_bytes = live.memory_bytes();
        let mut sandbox = live.take_sandbox();
        let outcome = judge(ended, &mut sandbox);
        let (logs, logs_truncated) = sandbox.logs.finish();
        let timing = Timing { total: begun.elapsed(), slot, instantiate, execute };
        Ok(Report { outcome, logs, logs_truncated, timing, peak_memory_bytes })
    }
}

fn never_began(begun: Instant, failure: Failure) -> Report {
    Report {
        outcome: Outcome::Failed(failure),
        logs: Vec::new(),
        logs_truncated: false,
        timing: Timing { total: begun.elapsed(), ..Timing::default() },
        peak_memory_bytes: 0,
    }
}

/// What a run came to, from how its guest ended and what it said.
fn judge(ended: wasmtime::Result<()>, sandbox: &mut Sandbox) -> Outcome {
    let denied = sandbox.memory.denied;
    let limit = sandbox.memory.bytes;
    Outcome::Failed(match (ended, sandbox.verdict.take()) {
        // What it said counts even if the deadline passed between that and its end.
        (_, Some(Verdict::Finished(json))) => return Outcome::Returned { json },
        (_, Some(Verdict::TooLarge(bytes))) => Failure::too_large(bytes, sandbox.result_bytes),
        (_, Some(Verdict::Failed(failure))) if denied && failure.says_out_of_memory() => {
            Failure { stack: failure.stack, ..Failure::out_of_memory(limit) }
        }
        (_, Some(Verdict::Failed(failure))) => failure.into_failure(),
        (Err(trap), None) if trap.is::<DeadlinePassed>() => Failure::timeout(sandbox.started.elapsed()),
        (Err(_), None) if denied => Failure::out_of_memory(limit),
        (ended, None) => Failure::broken(ended),
    })
}

impl Failure {
    fn platform(kind: FailureKind, name: &str, message: String) -> Self {
        Self { kind, name: name.to_owned(), message, stack: String::new() }
    }

    fn timeout(after: Duration) -> Self {
        let message = format!("the lambda was still running at its deadline, after {} ms", after.as_millis());
        Self::platform(FailureKind::Timeout, "TimeoutError", message)
    }

    fn out_of_memory(limit: usize) -> Self {
        let message = format!("the lambda needed more than its {} MiB of memory", limit >> 20);
        Self::platform(FailureKind::OutOfMemory, "OutOfMemoryError", message)
    }

    fn too_large(bytes: usize, limit: usize) -> Self {
        let message = format!("the result is {bytes} bytes of JSON; at most {limit} are allowed");
        Self::platform(FailureKind::ResultTooLarge, "RangeError", message)
    }

    /// Of a guest that trapped, or ended without a verdict.
    pub(crate) fn broken(ended: wasmtime::Result<()>) -> Self {
        let how = match ended {
            Err(trap) if trap.downcast_ref() == Some(&Trap::StackOverflow) => {
                let message = "the lambda nested too deeply inside of a built-in function".to_owned();
                return Self::platform(FailureKind::StackOverflow, "RangeError", message);
            }
            Err(trap) => trap.to_string(),
            Ok(()) => "it ended without a word".to_owned(),
        };
        let message = format!(
            "the sandbox broke, which no other run notices: {how}. Built-in functions that call each other \
             thousands of levels deep can do that; if the lambda does nothing of the kind, please report it"
        );
        Self::platform(FailureKind::Crashed, "SandboxError", message)
    }
}
