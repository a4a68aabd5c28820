//! The engine: made once, then prepares and runs functions.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use futures_util::FutureExt as _;
use tokio::sync::{Semaphore, SemaphorePermit};
use wasmtime::{
    Config, Enabled, InstanceAllocationStrategy, InstancePre, Memory, Module, ModuleExport, OptLevel,
    PoolingAllocationConfig, Store, TypedFunc, UpdateDeadline,
};

use crate::artifact;
use crate::config::{EngineConfig, ResetPath};
use crate::delta::Delta;
use crate::imports;
use crate::sandbox::{DeadlinePassed, Sandbox};
use crate::ticker::Ticker;

/// The guest as the build made it, before its `init` has run.
static GUEST: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest.wasm"));

/// How deep WebAssembly may nest. Deep JavaScript meets the guest's own limit first and gets a RangeError.
const WASM_STACK_BYTES: usize = 4 << 20;
/// Room for host functions on the same stack.
const HOST_STACK_BYTES: usize = 256 << 10;

/// Prepares and runs functions. Cheap to clone; all clones share slots.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) id: u64,
    pub(crate) config: EngineConfig,
    engine: wasmtime::Engine,
    pre: InstancePre<Sandbox>,
    exports: Exports,
    /// The memory that every sandbox starts with.
    image: Box<[u8]>,
    slots: Semaphore,
    ticker: Ticker,
    reset: ResetPath,
    from_cache: bool,
}

struct Exports {
    memory: ModuleExport,
    prepare: ModuleExport,
    run: ModuleExport,
}

/// A sandbox, before or after its guest has run.
pub(crate) struct Live {
    pub(crate) store: Store<Sandbox>,
    pub(crate) memory: Memory,
    entry: Entry,
}

enum Entry {
    Prepare(TypedFunc<(u32, u32), ()>),
    Run(TypedFunc<(u32, u32, u32), ()>),
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
    /// Blocks, for some milliseconds with a warm cache and for about two seconds without: call it before
    /// serving or on a blocking thread. Needs no async runtime.
    ///
    /// # Errors
    ///
    /// When the cache folder is not safe, or the system gives too little address space. A cache that cannot
    /// be read or written only costs time.
    pub fn new(config: EngineConfig) -> Result<Self, EngineError> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let pagemap_scan = PoolingAllocationConfig::is_pagemap_scan_available();
        let setup = |source| EngineError::Setup { max_sandboxes: config.max_sandboxes, source };

        let engine = wasmtime::Engine::new(&wasmtime_config(&config, pagemap_scan)).map_err(setup)?;
        let (module, from_cache) = artifact::load_or_compile(&engine, GUEST, config.cache_dir.as_deref())?;
        let pre = imports::linker(&engine)
            .and_then(|linker| linker.instantiate_pre(&module))
            .map_err(EngineError::Image)?;
        let exports = Exports {
            memory: export(&module, "memory")?,
            prepare: export(&module, "prepare")?,
            run: export(&module, "run")?,
        };
        let image = read_image(&engine, &pre, &exports.memory).map_err(EngineError::Image)?;
        let ticker = Ticker::start(engine.clone()).map_err(EngineError::Thread)?;
        let inner = Inner {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            slots: Semaphore::new(config.max_sandboxes as usize),
            config,
            engine,
            pre,
            exports,
            image,
            ticker,
            reset: if pagemap_scan { ResetPath::PagemapScan } else { ResetPath::CopyKept },
            from_cache,
        };
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

    /// How many sandboxes could start now without waiting.
    #[must_use]
    pub fn free_slots(&self) -> usize {
        self.inner.slots.available_permits()
    }
}

impl Inner {
    /// Waits for a slot. `None` when there is none by the deadline. Drop the sandbox before the permit.
    pub(crate) async fn slot(&self, deadline: Instant) -> Option<SemaphorePermit<'_>> {
        match self.slots.try_acquire() {
            Ok(permit) => Some(permit),
            Err(_) => tokio::time::timeout_at(deadline.into(), self.slots.acquire()).await.ok()?.ok(),
        }
    }

    /// Keeps the epoch advancing while a sandbox is alive.
    pub(crate) fn tick(&self) -> crate::ticker::Ticking {
        self.ticker.enter()
    }

    /// A fresh sandbox that will run the top-level code of a source.
    pub(crate) async fn sandbox_for_prepare(&self, sandbox: Sandbox) -> wasmtime::Result<Live> {
        self.instantiate(sandbox, None).await
    }

    /// A fresh sandbox with a function in it.
    pub(crate) async fn sandbox_for_run(&self, sandbox: Sandbox, function: &Delta) -> wasmtime::Result<Live> {
        self.instantiate(sandbox, Some(function)).await
    }

    /// The difference between a sandbox's memory and the image.
    pub(crate) fn delta(&self, live: &Live) -> Delta {
        Delta::between(&self.image, live.memory.data(&live.store))
    }

    async fn instantiate(&self, sandbox: Sandbox, function: Option<&Delta>) -> wasmtime::Result<Live> {
        let deadline = sandbox.deadline;
        let mut store = Store::new(&self.engine, sandbox);
        store.limiter(|sandbox| &mut sandbox.memory);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(move |_| {
            if Instant::now() >= deadline {
                return Err(DeadlinePassed.into());
            }
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
        });
        let instance = self.pre.instantiate_async(&mut store).await?;
        let missing = || wasmtime::Error::msg("the guest lacks an export");
        let exported = instance.get_module_export(&mut store, &self.exports.memory);
        let memory = exported.and_then(wasmtime::Extern::into_memory).ok_or_else(missing)?;
        let name = if function.is_some() { &self.exports.run } else { &self.exports.prepare };
        let exported = instance.get_module_export(&mut store, name);
        let entry = exported.and_then(wasmtime::Extern::into_func).ok_or_else(missing)?;
        let entry = match function {
            None => Entry::Prepare(entry.typed(&store)?),
            Some(delta) => {
                let lacking = delta.memory_bytes().saturating_sub(memory.data_size(&store));
                if lacking > 0 {
                    let page = usize::try_from(memory.page_size(&store))?;
                    memory.grow(&mut store, lacking.div_ceil(page) as u64)?;
                }
                delta.apply(memory.data_mut(&mut store));
                Entry::Run(entry.typed(&store)?)
            }
        };
        Ok(Live { store, memory, entry })
    }
}

impl Live {
    /// Runs the guest. `as_module` matters for preparing only. An error is a trap, the deadline included.
    pub(crate) async fn enter(&mut self, as_module: bool) -> wasmtime::Result<()> {
        let (first, second, third) = self.store.data().input_lengths()?;
        match &self.entry {
            Entry::Prepare(entry) => entry.call_async(&mut self.store, (first, as_module.into())).await,
            Entry::Run(entry) => entry.call_async(&mut self.store, (first, second, third)).await,
        }
    }

    /// How large its memory became.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory.data_size(&self.store)
    }
}

fn export(module: &Module, name: &str) -> Result<ModuleExport, EngineError> {
    module
        .get_export_index(name)
        .ok_or_else(|| EngineError::Image(wasmtime::Error::msg(format!("the guest does not export {name}"))))
}

/// Copies the memory of a sandbox that has done nothing.
fn read_image(
    engine: &wasmtime::Engine,
    pre: &InstancePre<Sandbox>,
    memory: &ModuleExport,
) -> wasmtime::Result<Box<[u8]>> {
    let mut store = Store::new(engine, Sandbox::for_init());
    store.set_epoch_deadline(u64::MAX / 2);
    let unready = || Err(wasmtime::Error::msg("the guest waits while it is made"));
    let instance = pre.instantiate_async(&mut store).now_or_never().unwrap_or_else(unready)?;
    let exported = instance.get_module_export(&mut store, memory);
    let memory = exported.and_then(wasmtime::Extern::into_memory);
    memory
        .map(|memory| memory.data(&store).into())
        .ok_or_else(|| wasmtime::Error::msg("the guest has no memory"))
}

fn wasmtime_config(config: &EngineConfig, pagemap_scan: bool) -> Config {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_core_instances(config.max_sandboxes)
        .total_memories(config.max_sandboxes)
        .total_tables(config.max_sandboxes)
        .total_stacks(config.max_sandboxes)
        .max_memory_size(config.max_memory_bytes)
        .linear_memory_keep_resident(config.keep_resident_bytes)
        .table_keep_resident(config.keep_resident_bytes)
        .pagemap_scan(if pagemap_scan { Enabled::Yes } else { Enabled::No });
    let mut wasmtime = Config::new();
    wasmtime
        .cranelift_opt_level(OptLevel::Speed)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .epoch_interruption(true)
        .memory_init_cow(true)
        .max_wasm_stack(WASM_STACK_BYTES)
        .async_stack_size(WASM_STACK_BYTES + HOST_STACK_BYTES)
        // A trap's backtrace names C functions of QuickJS, which help nobody, and costs time.
        .wasm_backtrace_max_frames(None);
    wasmtime
}
