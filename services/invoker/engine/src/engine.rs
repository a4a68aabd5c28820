//! The engine: made once, then prepares and runs functions.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use wasmtime::PoolingAllocationConfig;

use crate::artifact;
use crate::bridges::Bridges;
use crate::calibrate;
use crate::config::{EngineConfig, ResetPath};
use crate::delta::Delta;
use crate::pool::{KEEP_RESIDENT_BYTES, Live, Pool, PoolConfig};
use crate::snapshot;
use crate::ticker::Ticker;
use crate::typescript::TypeScript;

/// The guest as the build made it, before its `init` has run.
static GUEST: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest.wasm"));

/// After as many runs one of no special kind gives its slot's memory back. Its next run there pays for some hundred
/// page faults.
const RUNS_TO_GIVE_BACK: u64 = 256;

/// Prepares and runs functions. Cheap to clone; all clones share slots.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) id: u64,
    pub(crate) config: EngineConfig,
    pub(crate) runs: Pool,
    /// Apart from `runs`: top-level code writes far more memory than a run, and a slot that keeps so much
    /// costs every later run in it.
    pub(crate) prepares: Pool,
    /// Used in the slots of `prepares`.
    pub(crate) typescript: TypeScript,
    pub(crate) bridges: Bridges,
    /// Counts runs, so that each slot is given back now and then.
    ended: AtomicU64,
    /// The memory that every sandbox starts with.
    image: Box<[u8]>,
    ticker: Ticker,
    reset: ResetPath,
    from_cache: bool,
}

/// Why an engine cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Others could put machine code into the cache.
    #[error("the cache folder {} is not safe: {why}; give it to this process alone (chmod 700)", path.display())]
    CacheDirUnsafe {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The cache folder cannot be made or read.
    #[error("cannot use the cache folder {}", path.display())]
    CacheDir {
        /// The folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The guest did not start.
    #[error("cannot make the image of the sandbox")]
    Image(#[source] wasmtime::Error),
    /// The guest did not compile.
    #[error("cannot compile the sandbox")]
    Compile(#[source] wasmtime::Error),
    /// Wasmtime refused its configuration, usually for want of address space.
    #[error("cannot set up {max_sandboxes} sandboxes: is the address space of this process limited?")]
    Setup {
        /// How many were asked for.
        max_sandboxes: u32,
        /// The cause.
        #[source]
        source: wasmtime::Error,
    },
    /// The ticker's thread did not start.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
}

impl Engine {
    /// Makes an engine: loads the compiled sandbox from the cache, or compiles it.
    ///
    /// Blocks, for less than a second with a warm cache and for some seconds without: call it before
    /// serving or on a blocking thread. Needs no async runtime.
    ///
    /// # Errors
    ///
    /// When the cache folder is not safe, or the system gives too little address space. A cache that cannot
    /// be read or written only costs time.
    pub fn new(config: EngineConfig) -> Result<Self, EngineError> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let pagemap_scan = PoolingAllocationConfig::is_pagemap_scan_available();
        let runs = PoolConfig {
            slots: config.max_sandboxes,
            memory_bytes: config.max_memory_bytes,
            keep_resident_bytes: KEEP_RESIDENT_BYTES,
            pagemap_scan,
        };
        let prepares = PoolConfig { slots: config.max_prepares, keep_resident_bytes: 0, ..runs };

        let (run_engine, prepare_engine) = (runs.engine()?, prepares.engine()?);
        let cache_dir = config.cache_dir.as_deref();
        let finish = |guest: &'static [u8]| snapshot::preinitialise(guest).map(Cow::Owned);
        let (module, from_cache) =
            artifact::load_or_compile(&run_engine, "engine", GUEST, finish, cache_dir)?;
        let again = artifact::copy_to(&prepare_engine, &module)?;
        let typescript = TypeScript::load(&prepare_engine, cache_dir)?;
        let ticker = Ticker::start(vec![run_engine.clone(), prepare_engine.clone()]);
        let runs = Pool::new(run_engine, &module, config.max_sandboxes)?;
        let prepares = Pool::new(prepare_engine, &again, config.max_prepares)?;
        let mut inner = Inner {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            // Not of a slot for runs: reading leaves traces there.
            image: prepares.read_image()?,
            prepares,
            typescript,
            runs,
            bridges: Bridges::default(),
            ended: AtomicU64::new(0),
            config,
            ticker: ticker.map_err(EngineError::Thread)?,
            reset: if pagemap_scan { ResetPath::PagemapScan } else { ResetPath::CopyKept },
            from_cache,
        };
        if pagemap_scan {
            inner.bridges = calibrate::bridges(&inner);
        }
        Ok(Self { inner: Arc::new(inner) })
    }

    /// How memory is reset between sandboxes, for the start-up log: it decides how fast small lambdas are.
    #[must_use]
    pub fn reset_path(&self) -> ResetPath {
        self.inner.reset
    }

    /// Whether the compiled sandbox came from the cache.
    #[must_use]
    pub fn is_from_cache(&self) -> bool {
        self.inner.from_cache
    }

    /// How large the memory of a sandbox is before it runs anything, in bytes.
    #[must_use]
    pub fn image_bytes(&self) -> usize {
        self.inner.image.len()
    }

    /// How many runs could start now without waiting.
    #[must_use]
    pub fn free_slots(&self) -> usize {
        self.inner.runs.free_slots()
    }
}

impl Inner {
    /// Keeps the epoch advancing while a sandbox is alive.
    pub(crate) fn tick(&self) -> crate::ticker::Ticking {
        self.ticker.enter()
    }

    /// To be called after a run. Wasmtime keeps for its slot whatever it wrote, the lowest pages first, up to
    /// [`KEEP_RESIDENT_BYTES`], and restores all of it after every later run there: once that is used up, small
    /// runs pay for a large one for ever. So the memory of a run that grew goes back to the kernel at once, and
    /// any other's now and then, for those that wrote much within what there was.
    pub(crate) fn clean(&self, live: &mut Live) {
        let ended = self.ended.fetch_add(1, Ordering::Relaxed);
        if live.memory_bytes() > self.image.len() || ended.is_multiple_of(RUNS_TO_GIVE_BACK) {
            live.give_back();
        }
    }

    /// The difference between a sandbox's memory and the image.
    pub(crate) fn delta(&self, live: &Live) -> Delta {
        Delta::between(&self.image, live.memory())
    }
}
