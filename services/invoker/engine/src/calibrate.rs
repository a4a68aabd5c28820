//! Finds out, once at start-up, which pages nearly every run writes.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::bridges::{Bridges, written_pages};
use crate::call::Call;
use crate::engine::Inner;
use crate::host::NoHost;
use crate::prepared::PrepareLimits;
use crate::sandbox::Sandbox;
use crate::verdict::Verdict;

/// Long enough on any machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// A run of no special kind: what it does, nearly every lambda does.
const ORDINARY: &str = r#"
class Case { constructor(id) { this.id = id; } describe() { return `case ${this.id}`; } }
async function lambda(input, context) {
  const words = JSON.stringify(input.payload).split(',').map((word) => word.trim()).filter(Boolean);
  const found = new Map(words.map((word, index) => [word, new Case(index)]));
  const [first = null] = await Promise.all([...found.values()].map(async (entry) => entry.describe()));
  console.info('found', { count: found.size, at: new Date().toISOString(), left: context.getRemainingTimeMs() });
  try { throw new Error('an error'); } catch (error) { console.warn(error.message); }
  return { first, sum: words.reduce((sum, word) => sum + word.length, 0), match: /a+b?/.test(first) };
}"#;
const INPUT: &str =
    r#"{"headers":[],"payload":{"campaignId":"1","chatSessionKey":"2","ttr":{"newTtr":{"value":300}}}}"#;

/// The bridges for runs in `inner`. Without any, runs are slower, and nothing else.
pub(crate) fn bridges(inner: &Inner) -> Bridges {
    let written = block_on(written(inner)).unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot find out what runs write; they may be slower than they could be");
        Vec::new()
    });
    Bridges::between(&written)
}

async fn written(inner: &Inner) -> wasmtime::Result<Vec<usize>> {
    let deadline = Instant::now() + PATIENCE;
    let _tick = inner.tick();
    let source = ORDINARY.into();
    let sandbox = Sandbox::for_prepare(source, deadline, PrepareLimits::default().memory_bytes);
    let mut prepared = inner.prepares.sandbox_for_prepare(sandbox).await?;
    prepared.enter(false).await?;
    let function = inner.delta(&prepared);

    let call = Call::new(INPUT, deadline, Arc::new(NoHost));
    let mut run = inner.runs.sandbox_for_run(Sandbox::for_run(call), &function).await?;
    run.enter(false).await?;
    match &run.store.data().verdict {
        Some(Verdict::Finished(_)) => {}
        other => return Err(wasmtime::Error::msg(format!("the ordinary lambda failed: {other:?}"))),
    }
    Ok(written_pages(run.memory())?)
}

/// Nothing here waits but for its turn.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = Box::pin(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Engine, EngineConfig};

    #[test]
    fn an_ordinary_run_writes_pages() {
        let engine = Engine::new(EngineConfig { max_sandboxes: 1, ..EngineConfig::default() }).unwrap();
        assert!(!block_on(written(&engine.inner)).unwrap().is_empty());
    }
}
