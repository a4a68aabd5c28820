//! Makes the image that every sandbox starts from: the guest with its prelude already evaluated.

use futures_util::FutureExt as _;
use wasmtime::{Config, Instance, Module, OptLevel, Store, Val};
use wasmtime_wizer::{InstanceState, SnapshotVal, ValType, Wizer};

use crate::engine::EngineError;
use crate::imports;
use crate::sandbox::Sandbox;
use crate::verdict::Verdict;

const INIT: &str = "init";

/// Runs the guest's `init` and gives a module whose memory is what it left. The same module in gives the
/// same module out.
pub(crate) fn preinitialise(guest: &[u8]) -> Result<Vec<u8>, EngineError> {
    // What is compiled here runs for a few milliseconds: optimising it would take longer.
    let mut config = Config::new();
    config.cranelift_opt_level(OptLevel::None);
    let engine = wasmtime::Engine::new(&config).map_err(EngineError::Image)?;
    let mut wizer = Wizer::new();
    wizer.init_func(INIT);
    // No import waits during `init`, so the future is ready at once.
    run(&engine, &wizer, guest)
        .now_or_never()
        .unwrap_or_else(|| Err(wasmtime::Error::msg("the guest waits while its image is made")))
        .map_err(EngineError::Image)
}

async fn run(engine: &wasmtime::Engine, wizer: &Wizer, guest: &[u8]) -> wasmtime::Result<Vec<u8>> {
    let (context, instrumented) = wizer.instrument(guest)?;
    let module = Module::new(engine, &instrumented)?;
    let mut store = Store::new(engine, Sandbox::for_init());
    let instance = imports::linker(engine)?.instantiate_async(&mut store, &module).await?;
    for name in ["_initialize", INIT] {
        instance.get_typed_func::<(), ()>(&mut store, name)?.call_async(&mut store, ()).await?;
    }
    match store.data_mut().verdict.take() {
        Some(Verdict::Finished(_)) => wizer.snapshot(&context, &mut Initialised { store, instance }).await,
        other => Err(wasmtime::Error::msg(format!("the prelude failed: {other:?}"))),
    }
}

/// Wizer's view of the guest after `init`.
struct Initialised {
    store: Store<Sandbox>,
    instance: Instance,
}

impl InstanceState for Initialised {
    async fn global_get(&mut self, name: &str, _: ValType) -> SnapshotVal {
        let global = self.instance.get_global(&mut self.store, name).expect("Wizer exports every global");
        match global.get(&mut self.store) {
            Val::I32(value) => SnapshotVal::I32(value),
            Val::I64(value) => SnapshotVal::I64(value),
            Val::F32(value) => SnapshotVal::F32(value),
            Val::F64(value) => SnapshotVal::F64(value),
            other => unreachable!("Wizer refuses modules with globals such as {other:?}"),
        }
    }

    async fn memory_contents(&mut self, name: &str, contents: impl FnOnce(&[u8]) + Send) {
        let memory = self.instance.get_memory(&mut self.store, name).expect("Wizer exports every memory");
        contents(memory.data(&self.store));
    }
}
