//! The engine: made once, then prepares and runs functions.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Semaphore;

use crate::artifact;
use crate::config::EngineConfig;
use crate::delta::{self, Delta};
use crate::fresh::{Freshness, ResetPath};
use crate::pool::{Live, Pool, PoolConfig};
use crate::snapshot;
use crate::ticker::Ticker;
use crate::typescript::TypeScript;

/// How much memory of its own a slot keeps for small functions; larger ones have slots of theirs. Most runs write less
/// than half of it.
const SMALL_RESIDENT_BYTES: usize = 1 << 20;
/// As much as the garbage collector lets a run make before it sets in.
const LARGE_RESIDENT_BYTES: usize = 4 << 20;
/// The most pages that are written for a small function before its lambda begins.
const SMALL_PAGES: usize = SMALL_RESIDENT_BYTES / delta::PAGE / 2;

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
    /// The memory that every sandbox starts with.
    image: Arc<[u8]>,
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
    /// The kernel does not tell which pages were written, although it could.
    #[error("cannot read /proc/self/pagemap")]
    Pagemap(#[source] std::io::Error),
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
        let reset = ResetPath::of_this_machine();
        let pagemap_scan = reset == ResetPath::PagemapScan;
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
        let image = || snapshot::preinitialise().map(Cow::Owned);
        let made_of = snapshot::ingredients();
        let (module, from_cache) = artifact::load_or_compile(&small, "engine", made_of, image, cache_dir)?;
        let for_large = artifact::copy_to(&large, &module)?;
        let for_prepares = artifact::copy_to(&prepares, &module)?;
        let typescript = TypeScript::load(&prepares, cache_dir)?;
        let ticker = Ticker::start(vec![small.clone(), large.clone(), prepares.clone()]);
        let slots = |count: u32| Arc::new(Semaphore::new(count as usize));
        let run_slots = slots(config.max_sandboxes);
        // Nothing is kept there.
        let prepares = Pool::new(prepares, &for_prepares, slots(config.max_prepares), None)?;
        // Not of a slot for runs: reading leaves traces there.
        let image = prepares.read_image()?;
        let freshness = pagemap_scan.then(|| Freshness::new(Arc::clone(&image)).map(Arc::new)).transpose();
        let freshness = freshness.map_err(EngineError::Pagemap)?;
        Ok(Self {
            inner: Arc::new(Inner {
                id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
                image,
                small: Pool::new(small, &module, Arc::clone(&run_slots), freshness.clone())?,
                large: Pool::new(large, &for_large, run_slots, freshness)?,
                prepares,
                typescript,
                config,
                ticker: ticker.map_err(EngineError::Thread)?,
                reset,
                from_cache,
            }),
        })
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

    /// Where a function with this difference should run.
    pub(crate) fn size(&self, function: &Delta) -> Size {
        let small = function.memory_bytes() <= self.image.len() && function.pages() <= SMALL_PAGES;
        // When all that a slot keeps is restored each time, those that keep much are of no use.
        if small || self.reset == ResetPath::CopyKept { Size::Small } else { Size::Large }
    }

    /// The difference between a sandbox's memory and the image.
    pub(crate) fn delta(&self, live: &Live, most: usize) -> Delta {
        Delta::between(&self.image, live.memory(), most)
    }
}
