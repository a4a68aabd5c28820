//! Makes the image that every sandbox starts from: the guest with its prelude already evaluated.

use bytes::Bytes;
use futures_util::FutureExt as _;
use wasmtime::{Config, Instance, InstancePre, Module, OptLevel, Store, Val, WasmParams};
use wasmtime_wizer::{InstanceState, SnapshotVal, ValType, Wizer};

use crate::engine::EngineError;
use crate::imports;
use crate::sandbox::Sandbox;
use crate::verdict::Verdict;

/// The guest as the build made it.
pub(crate) static GUEST: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest.wasm"));
/// The names and texts of what it evaluates, in this order.
static PRELUDE: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/prelude.rs"));

const INIT: &str = "init";

/// All that the image is made of.
pub(crate) fn ingredients() -> impl Iterator<Item = &'static [u8]> {
    let prelude = PRELUDE.iter().flat_map(|(name, text)| [name.as_bytes(), text.as_bytes()]);
    std::iter::once(GUEST).chain(prelude)
}

/// Evaluates the prelude in the guest and gives a module whose memory is what that left. The same module each time.
pub(crate) fn preinitialise() -> Result<Vec<u8>, EngineError> {
    // What is compiled here runs for a few milliseconds: optimising it would take longer.
    let mut config = Config::new();
    config.cranelift_opt_level(OptLevel::None);
    let engine = wasmtime::Engine::new(&config).map_err(EngineError::Image)?;
    let mut wizer = Wizer::new();
    wizer.init_func(INIT);
    // No import waits meanwhile, so the future is ready at once.
    run(&engine, &wizer)
        .now_or_never()
        .unwrap_or_else(|| Err(wasmtime::Error::msg("the guest waits while its image is made")))
        .map_err(EngineError::Image)
}

async fn run(engine: &wasmtime::Engine, wizer: &Wizer) -> wasmtime::Result<Vec<u8>> {
    let (context, instrumented) = wizer.instrument(GUEST)?;
    let module = Module::new(engine, &instrumented)?;
    let pre = imports::linker(engine)?.instantiate_pre(&module)?;
    // In two instances. What the compiler leaves behind would lie between the parts of the image, and a run costs the more
    // the more page tables it touches.
    let mut compiler = Begun::new(&pre, Sandbox::for_compile_prelude()).await?;
    let mut image = Begun::new(&pre, Sandbox::for_init()).await?;
    for (name, text) in PRELUDE {
        let (text, name) = (Bytes::from_static(text.as_bytes()), Bytes::from_static(name.as_bytes()));
        compiler.store.data_mut().inputs = [text, name, Bytes::new()];
        let (text, name, _) = compiler.store.data().input_lengths()?;
        compiler.call("compile_prelude", (text, name)).await?;

        let sandbox = image.store.data_mut();
        sandbox.inputs[0] = std::mem::take(&mut compiler.store.data_mut().bytecode).into();
        let (bytecode, ..) = sandbox.input_lengths()?;
        image.call("evaluate", bytecode).await?;
    }
    image.call(INIT, ()).await?;
    wizer.snapshot(&context, &mut image).await
}

/// A guest in which the prelude is compiled, or evaluated: Wizer's view of it after `init`.
struct Begun {
    store: Store<Sandbox>,
    instance: Instance,
}

impl Begun {
    async fn new(pre: &InstancePre<Sandbox>, sandbox: Sandbox) -> wasmtime::Result<Self> {
        let mut store = Store::new(pre.module().engine(), sandbox);
        let instance = pre.instantiate_async(&mut store).await?;
        instance.get_typed_func::<(), ()>(&mut store, "_initialize")?.call_async(&mut store, ()).await?;
        let mut begun = Self { store, instance };
        begun.call("begin", ()).await?;
        Ok(begun)
    }

    /// Calls an export that says whether it succeeded.
    async fn call(&mut self, name: &str, params: impl WasmParams + Sync) -> wasmtime::Result<()> {
        let entry = self.instance.get_typed_func::<_, ()>(&mut self.store, name)?;
        entry.call_async(&mut self.store, params).await?;
        match self.store.data_mut().verdict.take() {
            Some(Verdict::Finished(_)) => Ok(()),
            other => Err(wasmtime::Error::msg(format!("the prelude failed in {name}: {other:?}"))),
        }
    }
}

impl InstanceState for Begun {
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
