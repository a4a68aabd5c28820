//! The engine: made once, then prepares and runs functions.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::Semaphore;
use wasmtime::PoolingAllocationConfig;

use crate::artifact;
use crate::bridges::{Bridges, PAGE};
use crate::calibrate;
use crate::config::{EngineConfig, ResetPath};
use crate::delta::Delta;
use crate::pool::{Live, Pool, PoolConfig};
use crate::snapshot;
use crate::ticker::Ticker;
use crate::typescript::TypeScript;

/// The guest as the build made it, before its `init` has run.
static GUEST: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest.wasm"));

/// How much memory of its own a slot keeps for small functions; larger ones have slots of theirs. Most runs write less
/// than half of it.
const SMALL_RESIDENT_BYTES: usize = 1 << 20;
/// As much as the garbage collector lets a run make before it sets in.
const LARGE_RESIDENT_BYTES: usize = 4 << 20;
/// The most pages that a run of a small function writes before its lambda begins.
const SMALL_PAGES: usize = SMALL_RESIDENT_BYTES / PAGE / 4 * 3;

/// Prepares and runs functions. Cheap to clone; all clones share slots.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) id: u64,
    pub(crate) config: EngineConfig,
    /// For runs of functions that write little.
    small: Pool,
    /// For those of the others: a slot that keeps much costs every later run in it. There are never more runs in both
    /// together than in one.
    large: Pool,
    /// For top-level code, which writes far more than a run.
    pub(crate) prepares: Pool,
    /// Used in the slots of `prepares`.
    pub(crate) typescript: TypeScript,
    /// The pages that a run of no special kind writes, known once it was tried.
    ordinary: OnceLock<Vec<usize>>,
    /// The memory that every sandbox starts with.
    image: Box<[u8]>,
    ticker: Ticker,
    reset: ResetPath,
    from_cache: bool,
}

/// How much a run of a function writes before its lambda begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    Small,
    Large,
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
        let small = PoolConfig {
            slots: config.max_sandboxes,
            memory_bytes: config.max_memory_bytes,
            keep_resident_bytes: SMALL_RESIDENT_BYTES,
            pagemap_scan,
        };
        let large = PoolConfig { keep_resident_bytes: LARGE_RESIDENT_BYTES, ..small }.engine()?;
        let prepares = PoolConfig { slots: config.max_prepares, keep_resident_bytes: 0, ..small }.engine()?;
        let small = small.engine()?;

        let cache_dir = config.cache_dir.as_deref();
        let finish = |guest: &'static [u8]| snapshot::preinitialise(guest).map(Cow::Owned);
        let (module, from_cache) = artifact::load_or_compile(&small, "engine", GUEST, finish, cache_dir)?;
        let for_large = artifact::copy_to(&large, &module)?;
        let for_prepares = artifact::copy_to(&prepares, &module)?;
        let typescript = TypeScript::load(&prepares, cache_dir)?;
        let ticker = Ticker::start(vec![small.clone(), large.clone(), prepares.clone()]);
        let slots = |count: u32| Arc::new(Semaphore::new(count as usize));
        let run_slots = slots(config.max_sandboxes);
        let prepares = Pool::new(prepares, &for_prepares, slots(config.max_prepares))?;
        let engine = Self {
            inner: Arc::new(Inner {
                id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
                // Not of a slot for runs: reading leaves traces there.
                image: prepares.read_image()?,
                small: Pool::new(small, &module, Arc::clone(&run_slots))?,
                large: Pool::new(large, &for_large, run_slots)?,
                prepares,
                typescript,
                ordinary: OnceLock::new(),
                config,
                ticker: ticker.map_err(EngineError::Thread)?,
                reset: if pagemap_scan { ResetPath::PagemapScan } else { ResetPath::CopyKept },
                from_cache,
            }),
        };
        if pagemap_scan {
            let ordinary = calibrate::written_pages(&engine);
            engine.inner.ordinary.get_or_init(|| ordinary);
        }
        Ok(engine)
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
        self.inner.small.free_slots()
    }
}

impl Inner {
    /// Keeps the epoch advancing while a sandbox is alive.
    pub(crate) fn tick(&self) -> crate::ticker::Ticking {
        self.ticker.enter()
    }

    /// Where to run a function.
    pub(crate) fn pool(&self, size: Size) -> &Pool {
        match size {
            Size::Small => &self.small,
            Size::Large => &self.large,
        }
    }

    /// What a run of a function with this difference should write to besides, and where it should run.
    pub(crate) fn fit(&self, function: &Delta) -> (Bridges, Size) {
        let mut written = function.pages();
        written.extend(self.ordinary.get().into_iter().flatten());
        written.sort_unstable();
        written.dedup();
        let bridges = Bridges::between(&written);
        let small =
            function.memory_bytes() <= self.image.len() && written.len() + bridges.len() <= SMALL_PAGES;
        (bridges, if small { Size::Small } else { Size::Large })
    }

    /// The difference between a sandbox's memory and the image.
    pub(crate) fn delta(&self, live: &Live) -> Delta {
        Delta::between(&self.image, live.memory())
    }
}
