//! What the engine does without a service: the other limit.

use std::{sync::Arc, time::Instant};

use chatfn_engine::{Call, Engine, EngineConfig, NoHost, Outcome, PrepareLimits, Prepared};

use crate::measure::{PAYLOAD, throughput};

/// As in `make bench-invoke`: hashes the payload's JSON character by character, so that a known share of the time is interpretation.
pub(crate) const SEED: &str = r"
async function lambda(input) {
  const text = JSON.stringify(input.payload);
  let hash = 0;
  for (let i = 0; i < text.length; i++) hash = (hash * 31 + text.charCodeAt(i)) | 0;
  return { hash, wait: input.payload.ttr.newTtr.value };
}";

/// Longer than anything here takes.
const LONG: std::time::Duration = std::time::Duration::from_secs(30);

/// An engine with the seed's lambda.
pub(crate) struct Lambda {
    engine: Engine,
    prepared: Prepared,
}

impl Lambda {
    pub(crate) async fn prepare() -> Self {
        let engine = Engine::new(EngineConfig::default()).expect("the engine starts");
        let limits = PrepareLimits {
            source_chars: 100_000,
            timeout: LONG,
            memory_bytes: 64 << 20,
            artifact_bytes: 32 << 20,
        };
        let prepared = engine.prepare(SEED, limits).await.expect("the source prepares");
        Self { engine, prepared }
    }

    /// Runs per second, one task for each core.
    pub(crate) async fn ceiling(&self, runs: usize) -> f64 {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let input: Arc<str> = format!(r#"{{"headers":[],"payload":{PAYLOAD}}}"#).into();
        throughput(cores, runs / cores, |_| {
            let (engine, prepared, input) = (self.engine.clone(), self.prepared.clone(), input.clone());
            async move {
                for _ in 0..runs / cores {
                    let call = Call::new(input.to_string(), Instant::now() + LONG, Arc::new(NoHost));
                    let report = engine.run(&prepared, call).await.expect("a sandbox");
                    assert!(matches!(report.outcome, Outcome::Returned { .. }), "{:?}", report.outcome);
                }
            }
        })
        .await
    }
}
