//! Slots for sandboxes, and the making of a sandbox in one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use futures_util::FutureExt as _;
use tokio::sync::{Semaphore, SemaphorePermit};
use wasmtime::{
    Config, Enabled, InstanceAllocationStrategy, InstancePre, Memory, Module, ModuleExport, OptLevel,
    PoolingAllocationConfig, Store, Table, TypedFunc, UpdateDeadline,
};

use crate::delta::Delta;
use crate::engine::EngineError;
use crate::fresh::{self, Behind, Freshness};
use crate::imports;
use crate::sandbox::{DeadlinePassed, Sandbox};
use crate::table;

/// How deep WebAssembly may nest. Deep JavaScript meets the guest's own limit first and gets a RangeError.
const WASM_STACK_BYTES: usize = 4 << 20;
/// Room for host functions on the same stack.
const HOST_STACK_BYTES: usize = 256 << 10;

/// After as many runs a pool gives a slot's memory back. The next run there pays for some hundred page faults.
const RUNS_TO_GIVE_BACK: u64 = 256;

/// What a pool is for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PoolConfig {
    /// How many sandboxes may live at once.
    pub(crate) slots: u32,
    /// The most memory in bytes that one may have.
    pub(crate) memory_bytes: usize,
    /// How much of what a sandbox has written in bytes is restored by copying for the next one in its slot, instead
    /// of being given back to the kernel, which costs a fault for each page. All of what is kept is restored each time.
    pub(crate) keep_resident_bytes: usize,
    /// Whether the kernel names the pages that were written.
    pub(crate) pagemap_scan: bool,
}

impl PoolConfig {
    /// A Wasmtime engine with slots of its own. The same machine code fits all of them.
    pub(crate) fn engine(self) -> Result<wasmtime::Engine, EngineError> {
        let setup = |source| EngineError::Setup { max_sandboxes: self.slots, source };
        wasmtime::Engine::new(&self.wasmtime()).map_err(setup)
    }

    fn wasmtime(self) -> Config {
        let mut pool = PoolingAllocationConfig::new();
        pool.total_core_instances(self.slots)
            .total_memories(self.slots)
            .total_tables(self.slots)
            .total_stacks(self.slots)
            .max_memory_size(self.memory_bytes)
            .linear_memory_keep_resident(self.keep_resident_bytes)
            .table_keep_resident(self.keep_resident_bytes)
            .pagemap_scan(if self.pagemap_scan { Enabled::Yes } else { Enabled::No });
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
}

/// Slots for sandboxes, bounded. Sandboxes of different pools never share a slot.
pub(crate) struct Pool {
    engine: wasmtime::Engine,
    pre: InstancePre<Sandbox>,
    exports: Exports,
    /// Of this pool, or of several together.
    slots: Arc<Semaphore>,
    /// Where slots keep what was written, and the reset may overlook some of it.
    freshness: Option<Arc<Freshness>>,
    /// Counts the runs, so that each slot's memory is given back now and then.
    runs: AtomicU64,
    /// The most memory in bytes that a slot may have kept.
    kept: AtomicUsize,
}

struct Exports {
    memory: ModuleExport,
    table: ModuleExport,
    compile: ModuleExport,
    prepare: ModuleExport,
    run: ModuleExport,
}

/// A sandbox, before or after its guest has run.
pub(crate) struct Live {
    pub(crate) store: Store<Sandbox>,
    pub(crate) memory: Memory,
    entry: Entry,
    /// How large its memory may become for its slot to keep it.
    kept_up_to: usize,
    /// To be marked at its end.
    pub(crate) table: Option<Table>,
}

/// What is done in a sandbox.
#[derive(Clone, Copy)]
enum Stage<'a> {
    Compile { as_module: bool },
    Prepare,
    Run(&'a Delta),
}

enum Entry {
    Compile(TypedFunc<(u32, u32), ()>, bool),
    Prepare(TypedFunc<u32, ()>),
    Run(TypedFunc<(u32, u32, u32), ()>),
}

impl Pool {
    /// A pool for a module that was made for `engine`, which has as many slots as there are permits.
    pub(crate) fn new(
        engine: wasmtime::Engine,
        module: &Module,
        slots: Arc<Semaphore>,
        freshness: Option<Arc<Freshness>>,
    ) -> Result<Self, EngineError> {
        let pre = imports::linker(&engine)
            .and_then(|linker| linker.instantiate_pre(module))
            .map_err(EngineError::Image)?;
        let exports = Exports {
            memory: export(module, "memory")?,
            table: export(module, "__indirect_function_table")?,
            compile: export(module, "compile")?,
            prepare: export(module, "prepare")?,
            run: export(module, "run")?,
        };
        Ok(Self {
            engine,
            pre,
            exports,
            slots,
            freshness,
            runs: AtomicU64::new(0),
            kept: AtomicUsize::new(0),
        })
    }

    /// Waits for a slot. `None` when there is none by the deadline. Drop the sandbox before the permit.
    pub(crate) async fn slot(&self, deadline: Instant) -> Option<SemaphorePermit<'_>> {
        match self.slots.try_acquire() {
            Ok(permit) => Some(permit),
            Err(_) => tokio::time::timeout_at(deadline.into(), self.slots.acquire()).await.ok()?.ok(),
        }
    }

    /// How many sandboxes could start now without waiting.
    pub(crate) fn free_slots(&self) -> usize {
        self.slots.available_permits()
    }

    /// A store for whatever is made in a slot. Its code traps at `deadline`.
    pub(crate) fn store<T: 'static>(&self, data: T, deadline: Instant) -> Store<T> {
        let mut store = Store::new(&self.engine, data);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(move |_| {
            if Instant::now() >= deadline {
                return Err(DeadlinePassed.into());
            }
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
        });
        store
    }

    /// The memory that every sandbox starts with.
    pub(crate) fn read_image(&self) -> Result<Arc<[u8]>, EngineError> {
        let mut store = Store::new(&self.engine, Sandbox::for_init());
        store.set_epoch_deadline(u64::MAX / 2);
        let unready = || Err(wasmtime::Error::msg("the guest waits while it is made"));
        let made = self.pre.instantiate_async(&mut store).now_or_never().unwrap_or_else(unready);
        let instance = made.map_err(EngineError::Image)?;
        let exported = instance.get_module_export(&mut store, &self.exports.memory);
        exported
            .and_then(wasmtime::Extern::into_memory)
            .map(|memory| memory.data(&store).into())
            .ok_or_else(|| EngineError::Image(wasmtime::Error::msg("the guest has no memory")))
    }

    /// A fresh sandbox that will turn a source into bytecode.
    pub(crate) async fn sandbox_for_compile(
        &self,
        sandbox: Sandbox,
        as_module: bool,
    ) -> wasmtime::Result<Live> {
        self.instantiate(sandbox, Stage::Compile { as_module }).await
    }

    /// A fresh sandbox that will run the top-level code of a source.
    pub(crate) async fn sandbox_for_prepare(&self, sandbox: Sandbox) -> wasmtime::Result<Live> {
        self.instantiate(sandbox, Stage::Prepare).await
    }

    /// A fresh sandbox with a function in it.
    pub(crate) async fn sandbox_for_run(&self, sandbox: Sandbox, function: &Delta) -> wasmtime::Result<Live> {
        self.instantiate(sandbox, Stage::Run(function)).await
    }

    async fn instantiate(&self, sandbox: Sandbox, stage: Stage<'_>) -> wasmtime::Result<Live> {
        let deadline = sandbox.deadline;
        let mut store = self.store(sandbox, deadline);
        store.limiter(|sandbox| &mut sandbox.memory);
        let instance = self.pre.instantiate_async(&mut store).await?;
        let missing = || wasmtime::Error::msg("the guest lacks an export");
        let exported = instance.get_module_export(&mut store, &self.exports.memory);
        let memory = exported.and_then(wasmtime::Extern::into_memory).ok_or_else(missing)?;
        let name = match stage {
            Stage::Compile { .. } => &self.exports.compile,
            Stage::Prepare => &self.exports.prepare,
            Stage::Run(_) => &self.exports.run,
        };
        let exported = instance.get_module_export(&mut store, name);
        let entry = exported.and_then(wasmtime::Extern::into_func).ok_or_else(missing)?;
        let mut table = None;
        let entry = match stage {
            Stage::Compile { as_module } => Entry::Compile(entry.typed(&store)?, as_module),
            Stage::Prepare => Entry::Prepare(entry.typed(&store)?),
            Stage::Run(delta) => {
                let lacking = delta.memory_bytes().saturating_sub(memory.data_size(&store));
                if lacking > 0 {
                    let page = usize::try_from(memory.page_size(&store))?;
                    memory.grow(&mut store, lacking.div_ceil(page) as u64)?;
                }
                if let Some(freshness) = &self.freshness {
                    let kept = self.kept.fetch_max(delta.memory_bytes(), Ordering::Relaxed);
                    let (memory, sandbox) = memory.data_and_store_mut(&mut store);
                    sandbox.memory.behind = Behind::new(memory, kept);
                    freshness.ensure(memory)?;
                    let exported = instance.get_module_export(&mut store, &self.exports.table);
                    table = Some(exported.and_then(wasmtime::Extern::into_table).ok_or_else(missing)?);
                }
                delta.apply(memory.data_mut(&mut store));
                Entry::Run(entry.typed(&store)?)
            }
        };
        let kept_up_to = match stage {
            Stage::Compile { .. } | Stage::Prepare => usize::MAX,
            Stage::Run(delta) => self.kept_of_run(delta),
        };
        // From here on its end leaves marks in its table.
        let mut live = Live { store, memory, entry, kept_up_to, table };
        if table.is_some_and(|table| !table::is_fresh(&mut live.store, table)) {
            return Err(wasmtime::Error::msg("the table of an earlier run was overlooked in its reset"));
        }
        Ok(live)
    }

    /// Wasmtime keeps for a slot whatever a run wrote, the lowest pages first, as far as it may, and restores all of it
    /// after every later run there: once that is used up, small runs pay for a large one for ever. So the memory of a
    /// run that grew goes back to the kernel at its end, and any other's now and then, for those that wrote much
    /// within what there was.
    fn kept_of_run(&self, function: &Delta) -> usize {
        let runs = self.runs.fetch_add(1, Ordering::Relaxed);
        if runs.is_multiple_of(RUNS_TO_GIVE_BACK) { 0 } else { function.memory_bytes() }
    }
}

impl Live {
    /// Runs the guest. An error is a trap, the deadline included.
    pub(crate) async fn enter(&mut self) -> wasmtime::Result<()> {
        let (first, second, third) = self.store.data().input_lengths()?;
        match &self.entry {
            Entry::Compile(entry, as_module) => {
                entry.call_async(&mut self.store, (first, (*as_module).into())).await
            }
            Entry::Prepare(entry) => entry.call_async(&mut self.store, first).await,
            Entry::Run(entry) => entry.call_async(&mut self.store, (first, second, third)).await,
        }
    }

    /// Its memory as it is.
    pub(crate) fn memory(&self) -> &[u8] {
        self.memory.data(&self.store)
    }

    /// What the host knows of it, once it has ended.
    pub(crate) fn take_sandbox(&mut self) -> Sandbox {
        std::mem::replace(self.store.data_mut(), Sandbox::for_init())
    }

    /// How large its memory became.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory.data_size(&self.store)
    }
}

impl Drop for Live {
    // Here, so that a run that is cancelled does it, too.
    fn drop(&mut self) {
        if let Some(table) = self.table
            && let Err(error) = table::mark(&mut self.store, table)
        {
            tracing::error!(%error, "the table of a sandbox has no marks");
        }
        if self.memory_bytes() > self.kept_up_to
            && let Err(error) = fresh::give_back(self.memory.data_mut(&mut self.store))
        {
            tracing::debug!(%error, "the memory of a sandbox stays with its slot");
        }
    }
}

fn export(module: &Module, name: &str) -> Result<ModuleExport, EngineError> {
    module
        .get_export_index(name)
        .ok_or_else(|| EngineError::Image(wasmtime::Error::msg(format!("the guest does not export {name}"))))
}
