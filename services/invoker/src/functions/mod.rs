//! Functions that are ready to run.
//!
//! Promises: a version is prepared once, however many runs wait for it; what is prepared stays within a budget of
//! bytes; a version that cannot be prepared fails at once for a while instead of costing a sandbox each time.

mod cache;
mod warm;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use chatfn_deployments::Deployment;
use chatfn_domain::settings::FunctionSettings;
use chatfn_engine::{Engine, PrepareError, PrepareLimits, Prepared};
use tokio::sync::Semaphore;

use self::cache::{Cache, Slot};
pub(crate) use self::warm::keep_warm;
use crate::{
    lines::Lines,
    metrics::{self, Found, InvokerMetrics},
    source,
};

/// A version that is ready to run. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    pub(crate) prepared: Prepared,
    /// `process.env`.
    pub(crate) env_json: Bytes,
}

impl Loaded {
    /// What was prepared, with what a run needs of its settings besides.
    pub(crate) fn new(prepared: Prepared, settings: &FunctionSettings) -> Self {
        let env_json = serde_json::to_vec(&settings.environment).expect("strings are JSON");
        Self { prepared, env_json: env_json.into() }
    }
}

/// Why a version is not ready to run. Shared by everyone who waited for it.
pub(crate) type LoadError = Arc<PrepareError>;

/// The functions of this process that are ready to run. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Functions(Arc<Inner>);

struct Inner {
    engine: Engine,
    cache: Cache,
    metrics: InvokerMetrics,
    /// Preparations under way.
    preparing: Semaphore,
    /// One of them for each account.
    lines: Lines,
}

impl Functions {
    /// Keeps up to `max_bytes` of prepared functions, and prepares up to `max_prepares` at once.
    pub(crate) fn new(engine: Engine, max_bytes: usize, max_prepares: u32, metrics: InvokerMetrics) -> Self {
        Self(Arc::new(Inner {
            engine,
            cache: Cache::new(max_bytes),
            metrics,
            preparing: Semaphore::new(max_prepares as usize),
            lines: Lines::default(),
        }))
    }

    /// The version, prepared now if it is not yet. Cancel safe: a preparation that was begun goes on.
    ///
    /// # Errors
    /// Why it cannot be prepared.
    pub(crate) async fn get(&self, deployment: &Arc<Deployment>) -> Result<Loaded, LoadError> {
        let (slot, dropped) = self.0.cache.get(&deployment.digest);
        self.0.metrics.evicted(dropped);
        let mut waiting = match slot {
            Slot::Ready(outcome) => {
                self.0.metrics.looked_up(Found::Kept);
                return outcome;
            }
            Slot::Preparing(waiting) => {
                self.0.metrics.looked_up(Found::Joined);
                waiting
            }
            Slot::Empty(filler) => {
                self.0.metrics.looked_up(Found::Missed);
                if filler.was_dropped() {
                    self.0.metrics.rebuilt();
                }
                let (functions, deployment) = (self.clone(), Arc::clone(deployment));
                let waiting = filler.waiting();
                // A task of its own: the first who asks may have the least time left.
                tokio::spawn(async move {
                    let begun = Instant::now();
                    let outcome = filler.judge(functions.prepare(&deployment).await);
                    let is = match &outcome {
                        Ok(_) => metrics::Prepared::Done,
                        Err(error) if is_authors(error) => metrics::Prepared::Authors,
                        Err(_) => metrics::Prepared::Platforms,
                    };
                    functions.0.metrics.prepared(is, begun.elapsed());
                    let dropped = functions.0.cache.fill(filler, outcome);
                    functions.0.metrics.evicted(dropped);
                });
                waiting
            }
        };
        match waiting.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or_else(|| Err(abandoned())),
            Err(_) => Err(abandoned()),
        }
    }

    /// How many are kept ready, and the memory that they take in bytes.
    pub(crate) fn kept(&self) -> (usize, usize) {
        self.0.cache.kept()
    }

    /// Most such memory.
    pub(crate) fn max_bytes(&self) -> usize {
        self.0.cache.max_bytes()
    }

    /// Prepares the version unless it is prepared, or there is no room without dropping another.
    pub(crate) async fn warm(&self, deployment: &Arc<Deployment>) {
        if self.0.cache.has_room() {
            // Whoever runs it sees the same outcome.
            let _ = self.get(deployment).await;
        }
    }

    async fn prepare(&self, deployment: &Deployment) -> Result<Loaded, PrepareError> {
        // One account's versions wait for each other before they wait for those of others.
        let _turn = self.0.lines.turn(&deployment.function.account).await;
        let _permit = self.0.preparing.acquire().await.expect("it is never closed");
        let limits = PrepareLimits {
            timeout: LOAD_TIMEOUT,
            memory_bytes: (deployment.settings.memory_mib as usize) << 20,
            ..PrepareLimits::default()
        };
        let language = deployment.settings.language;
        let outcome = source::prepare(&self.0.engine, &deployment.source, language, limits).await;
        match &outcome {
            Ok(prepared) => tracing::debug!(
                function = %deployment.function,
                version = %deployment.version,
                bytes = prepared.size_bytes(),
                "prepared {} version {}", deployment.function, deployment.version,
            ),
            Err(error) => tracing::warn!(
                function = %deployment.function,
                version = %deployment.version,
                %error,
                "{} version {} cannot be prepared", deployment.function, deployment.version,
            ),
        }
        Ok(Loaded::new(outcome?, &deployment.settings))
    }
}

/// How long top-level code of what is not live may run.
pub(crate) const PREPARE_TIMEOUT: Duration = Duration::from_secs(1);
/// The same for a live version. It kept to [`PREPARE_TIMEOUT`] when it was deployed, so most of this is for waiting until the
/// processors are free.
const LOAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether the author of a source has to solve a failure; otherwise the platform has.
pub(crate) fn is_authors(error: &PrepareError) -> bool {
    !matches!(error, PrepareError::NoCapacity | PrepareError::Internal { .. })
}

/// The task that prepared a version is gone, which only the end of the process or a bug brings about.
fn abandoned() -> LoadError {
    internal("the preparation was abandoned".to_owned())
}

fn internal(message: String) -> LoadError {
    Arc::new(PrepareError::Internal { message, source: None })
}
