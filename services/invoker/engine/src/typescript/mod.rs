//! Erases the types of TypeScript sources: with the module that Node erases them with, in a sandbox like any other.
//!
//! In a sandbox, because the source is untrusted and the parser is not made for that: it takes exponential time for some
//! sources of two hundred characters, and recurses as deep as a source nests.

mod values;

use std::borrow::Cow;
use std::path::Path;
use std::time::Instant;

use wasmtime::{InstancePre, Store, Trap};

use self::values::Values;
use crate::artifact;
use crate::engine::{Engine, EngineError};
use crate::prepared::{PrepareError, PrepareLimits, TAKES_TOO_LONG};
use crate::sandbox::DeadlinePassed;

/// The module as the build found it.
pub(crate) static MODULE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/typescript.wasm"));

/// How large the sandbox's memory may grow. Sources of the greatest length need a fifth of it.
const MEMORY_BYTES: usize = 64 << 20;

/// The names that the module has for what its callers need of it.
const MALLOC: &str = "__wbindgen_export_2";
const STACK: &str = "__wbindgen_add_to_stack_pointer";
const TRANSFORM: &str = "transformSync";

/// The module, ready to be instantiated.
pub(crate) struct TypeScript(InstancePre<Values>);

impl TypeScript {
    /// Loads the module from the cache, or compiles it.
    pub(crate) fn load(engine: &wasmtime::Engine, cache_dir: Option<&Path>) -> Result<Self, EngineError> {
        let as_it_is = || Ok(Cow::Borrowed(MODULE));
        let made_of = std::iter::once(MODULE);
        let (module, _) = artifact::load_or_compile(engine, "typescript", made_of, as_it_is, cache_dir)?;
        values::linker(engine, &module)
            .and_then(|linker| linker.instantiate_pre(&module))
            .map(Self)
            .map_err(EngineError::Image)
    }
}

impl Engine {
    /// The JavaScript of a TypeScript source: its types give way to blanks, so that lines and columns stay what they were.
    /// Types are not checked. Cancel safe.
    ///
    /// # Errors
    ///
    /// The source is not TypeScript, or uses what is more than a type (enums, namespaces with code, parameter properties);
    /// only [`PrepareError::NoCapacity`] and [`PrepareError::Internal`] are not the author's to solve.
    pub async fn erase_types(&self, source: &str, limits: PrepareLimits) -> Result<String, PrepareError> {
        limits.check_source(source)?;
        let deadline = Instant::now() + limits.timeout;
        let _slot = self.inner.prepares.slot(deadline).await.ok_or(PrepareError::NoCapacity)?;
        let _tick = self.inner.tick();
        let memory_bytes = MEMORY_BYTES.min(self.inner.config.max_memory_bytes);
        let mut store = self.inner.prepares.store(Values::new(memory_bytes), deadline);
        store.limiter(|values| &mut values.memory);
        match transform(&self.inner.typescript.0, &mut store, source).await {
            Ok(Ok(javascript)) => Ok(javascript),
            Ok(Err(refusal)) => Err(refusal),
            Err(error) => {
                let denied = store.data().memory.denied;
                // Anything else is not the source's doing.
                if denied || error.is::<Trap>() || error.is::<DeadlinePassed>() {
                    return Err(PrepareError::Unreadable { why: why(&error, denied) });
                }
                Err(PrepareError::internal(error))
            }
        }
    }
}

/// What the module makes of a source, as its own wrapper for Node would ask it.
async fn transform(
    module: &InstancePre<Values>,
    store: &mut Store<Values>,
    source: &str,
) -> wasmtime::Result<Result<String, PrepareError>> {
    let instance = module.instantiate_async(&mut *store).await?;
    let memory = instance
        .get_memory(&mut *store, "memory")
        .ok_or_else(|| wasmtime::Error::msg("the module has no memory"))?;
    let malloc = instance.get_typed_func::<(u32, u32), u32>(&mut *store, MALLOC)?;
    let stack = instance.get_typed_func::<i32, u32>(&mut *store, STACK)?;
    let transform = instance.get_typed_func::<(u32, u32, u32), ()>(&mut *store, TRANSFORM)?;

    let length = u32::try_from(source.len())?;
    let at = malloc.call_async(&mut *store, (length, 1)).await?;
    memory.write(&mut *store, at as usize, source.as_bytes())?;
    let input = store.data_mut().input(at, length);

    let answer = stack.call_async(&mut *store, -16).await?;
    transform.call_async(&mut *store, (answer, input, values::UNDEFINED)).await?;
    let mut words = [0; 12];
    memory.read(&*store, answer as usize, &mut words)?;
    let word = |at: usize| u32::from_le_bytes([words[at], words[at + 1], words[at + 2], words[at + 3]]);
    let (output, error, failed) = (word(0), word(4), word(8) != 0);
    if failed { Ok(Err(store.data().refusal(error)?)) } else { Ok(Ok(store.data().code(output)?)) }
}

fn why(trap: &wasmtime::Error, denied: bool) -> &'static str {
    if trap.is::<DeadlinePassed>() {
        TAKES_TOO_LONG
    } else if denied {
        "that takes too much memory"
    } else if trap.downcast_ref() == Some(&Trap::StackOverflow) {
        "it nests too deeply"
    } else {
        "the parser gave up"
    }
}
