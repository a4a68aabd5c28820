//! Turns a source into a [`Prepared`] function.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::call::Failure;
use crate::engine::Engine;
use crate::pool::Live;
use crate::prepared::{Artifact, LOGS, PrepareError, PrepareLimits, Prepared, READS_CLOCK};
use crate::sandbox::{DeadlinePassed, Sandbox};
use crate::verdict::{GuestFailure, GuestFailureKind, Verdict};

/// How a source is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    Script,
    Module,
}

impl Engine {
    /// Runs the top-level code of a source in a throw-away sandbox and keeps what it left.
    ///
    /// The source is a script, or an ES module if it does not parse as a script. Its lambda is what it
    /// exports (`module.exports`, `exports.lambda`, `export`, as function or under the names `lambda` and
    /// `default`), else what it calls `lambda` at top level. Cancel safe.
    ///
    /// # Errors
    ///
    /// Says why the source cannot be deployed; only [`PrepareError::NoCapacity`] and
    /// [`PrepareError::Internal`] are not the author's to solve.
    pub async fn prepare(&self, source: &str, limits: PrepareLimits) -> Result<Prepared, PrepareError> {
        limits.check_source(source)?;
        let source = Bytes::copy_from_slice(source.as_bytes());
        let deadline = Instant::now() + limits.timeout;
        match self.prepare_as(Goal::Script, source.clone(), deadline, limits).await {
            Err(script) if place(&script).is_some() => {
                match self.prepare_as(Goal::Module, source, deadline, limits).await {
                    // Neither: the reading that got further is the one that was meant.
                    Err(module) if place(&module).is_some() && place(&module) < place(&script) => Err(script),
                    result => result,
                }
            }
            result => result,
        }
    }

    async fn prepare_as(
        &self,
        goal: Goal,
        source: Bytes,
        deadline: Instant,
        limits: PrepareLimits,
    ) -> Result<Prepared, PrepareError> {
        let _slot = self.inner.prepares.slot(deadline).await.ok_or(PrepareError::NoCapacity)?;
        let _tick = self.inner.tick();
        let memory_bytes = limits.memory_bytes.min(self.inner.config.max_memory_bytes);
        if memory_bytes < self.image_bytes() {
            return Err(PrepareError::Memory { limit_bytes: memory_bytes });
        }
        let pool = &self.inner.prepares;
        // What compiling leaves in memory would lie between the parts of the function.
        let bytecode = {
            let sandbox = Sandbox::for_compile(source.clone(), deadline, memory_bytes);
            let made = pool.sandbox_for_compile(sandbox, goal == Goal::Module).await;
            let mut live = made.map_err(PrepareError::internal)?;
            let ended = live.enter().await;
            check(&mut live, ended, limits)?;
            live.take_sandbox().bytecode
        };
        let sandbox = Sandbox::for_prepare(bytecode.into(), source, deadline, memory_bytes);
        let mut live = pool.sandbox_for_prepare(sandbox).await.map_err(PrepareError::internal)?;
        let ended = live.enter().await;
        check(&mut live, ended, limits)?;

        // What is made may be as large as the sandbox, whose memory is still there.
        let delta = self.inner.delta(&live, limits.artifact_bytes);
        let size = self.inner.size(&delta);
        let sandbox = live.take_sandbox();
        let warnings = [(sandbox.reads_clock, READS_CLOCK), (!sandbox.logs.finish().0.is_empty(), LOGS)];
        let artifact = Artifact {
            engine_id: self.inner.id,
            source: sandbox.source,
            delta,
            size,
            warnings: warnings.into_iter().filter(|(is_so, _)| *is_so).map(|(_, warning)| warning).collect(),
        };
        let actual = artifact.size_bytes();
        if actual > limits.artifact_bytes {
            let (what, limit, unit) = ("what top-level code makes", limits.artifact_bytes, "bytes");
            return Err(PrepareError::TooLarge { what, actual, limit, unit });
        }
        Ok(Prepared(Arc::new(artifact)))
    }
}

/// Where a syntax error is; nothing for other errors.
fn place(error: &PrepareError) -> Option<(u32, u32)> {
    match error {
        PrepareError::Syntax { line, column, .. } => Some((*line, *column)),
        _ => None,
    }
}

fn check(live: &mut Live, ended: wasmtime::Result<()>, limits: PrepareLimits) -> Result<(), PrepareError> {
    let sandbox = live.store.data_mut();
    let memory = PrepareError::Memory { limit_bytes: sandbox.memory.bytes };
    match (ended, sandbox.verdict.take()) {
        (Ok(()), Some(Verdict::Finished(_))) => Ok(()),
        (Ok(()), Some(Verdict::Failed(failure))) => {
            Err(if sandbox.memory.denied && failure.says_out_of_memory() {
                memory
            } else {
                refuse(failure, &sandbox.source)
            })
        }
        (Err(trap), _) if trap.is::<DeadlinePassed>() => Err(PrepareError::Timeout { limit: limits.timeout }),
        (Err(_), _) if sandbox.memory.denied => Err(memory),
        // Whatever breaks a sandbox here is in the source, and would do it again.
        (ended, _) => {
            let Failure { name, message, stack, .. } = Failure::broken(ended);
            Err(PrepareError::TopLevelThrow { name, message, stack, line: 0, column: 0 })
        }
    }
}

fn refuse(failure: GuestFailure, source: &[u8]) -> PrepareError {
    let (line, column) = failure.location();
    let GuestFailure { kind, name, message, stack } = failure;
    match kind {
        GuestFailureKind::Syntax => PrepareError::Syntax { message, line, column },
        GuestFailureKind::NoLambda => PrepareError::NoLambda,
        GuestFailureKind::Import => {
            let (line, column) = place_of(&message, source);
            let available = stack.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
            PrepareError::ForbiddenImport { specifier: message, available, line, column }
        }
        GuestFailureKind::TopLevel => PrepareError::ForbiddenAtTopLevel { what: message, line, column },
        GuestFailureKind::Thrown | GuestFailureKind::NeverSettles | GuestFailureKind::NotJson => {
            PrepareError::TopLevelThrow { name, message, stack, line, column }
        }
    }
}

/// Where a source first names a module, or zeros. The engine does not tell where an `import` is.
fn place_of(specifier: &str, source: &[u8]) -> (u32, u32) {
    let source = String::from_utf8_lossy(source);
    let quoted = ['\'', '"', '`'].map(|quote| source.find(&format!("{quote}{specifier}{quote}")));
    let Some(at) = quoted.into_iter().flatten().min() else { return (0, 0) };
    let before = &source[..at];
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|letter| *letter != '\n').count() + 1;
    (u32::try_from(line).unwrap_or(0), u32::try_from(column).unwrap_or(0))
}
