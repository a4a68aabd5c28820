//! Finds out, once at start-up, which pages nearly every run writes.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::bridges;
use crate::call::Call;
use crate::engine::{Engine, Size};
use crate::host::NoHost;
use crate::prepared::{PrepareLimits, Prepared};
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

/// The numbers of those pages. Without any, runs are slower, and nothing else.
pub(crate) fn written_pages(engine: &Engine) -> Vec<usize> {
    block_on(try_it(engine)).unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot find out what runs write; they may be slower than they could be");
        Vec::new()
    })
}

async fn try_it(engine: &Engine) -> wasmtime::Result<Vec<usize>> {
    let limits = PrepareLimits { timeout: PATIENCE, ..PrepareLimits::default() };
    let Prepared(function) = engine.prepare(ORDINARY, limits).await?;
    let _tick = engine.inner.tick();
    let call = Call::new(INPUT, Instant::now() + PATIENCE, Arc::new(NoHost));
    let sandbox = Sandbox::for_run(call, function.source.clone());
    let mut run = engine.inner.pool(Size::Small).sandbox_for_run(sandbox, &function.delta).await?;
    run.enter().await?;
    match &run.store.data().verdict {
        Some(Verdict::Finished(_)) => Ok(bridges::written_pages(run.memory())?),
        other => Err(wasmtime::Error::msg(format!("the ordinary lambda failed: {other:?}"))),
    }
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
    use crate::EngineConfig;

    #[test]
    fn an_ordinary_run_writes_pages() {
        let engine = Engine::new(EngineConfig { max_sandboxes: 1, ..EngineConfig::default() }).unwrap();
        assert!(!block_on(try_it(&engine)).unwrap().is_empty());
    }
}
