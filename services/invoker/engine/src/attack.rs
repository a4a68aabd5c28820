//! Sandboxes under the control of an attacker, for tests and fuzzing.
//!
//! Somebody who has found a hole in QuickJS writes what they like into the guest's memory and calls the host
//! with what they like. [`Attacker`] is the second: a guest with the imports of the real one, which does with
//! them what it is told. [`Engine::run_attacked`] is the first: a run of the real guest whose memory is
//! changed before it starts.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use wasm_encoder::{
    CodeSection, EntityType, ExportKind, ExportSection, Function, FunctionSection, ImportSection,
    MemorySection, MemoryType, TypeSection,
};
use wasmtime::{
    Extern, ExternType, Func, FuncType, Instance, InstancePre, Memory, Module, Store, Val, ValType,
};

use crate::call::{Call, Report, RunError};
use crate::engine::Engine;
use crate::imports;
use crate::prepared::Prepared;
use crate::sandbox::{DeadlinePassed, GuestFault, Sandbox};
use crate::verdict::Verdict;

/// A guest that hands what it is told to the host.
pub struct Attacker {
    store: Store<Sandbox>,
    instance: Instance,
    memory: Memory,
}

/// How large an [`Attacker`]'s memory is.
pub const MEMORY_BYTES: usize = 2 << 16;

/// What an [`Attacker`] in a run was made from.
pub const SOURCE: &str = "async function lambda() {}";

/// One import of the guest.
#[derive(Debug, Clone)]
pub struct Import {
    /// Its module and its name.
    pub name: (String, String),
    ty: FuncType,
}

impl Import {
    /// How many numbers it takes.
    #[must_use]
    pub fn arity(&self) -> usize {
        self.ty.params().len()
    }
}

/// What never differs between attackers.
struct Common {
    pre: InstancePre<Sandbox>,
    imports: Vec<Import>,
}

fn common() -> &'static Common {
    static COMMON: OnceLock<Common> = OnceLock::new();
    COMMON.get_or_init(|| {
        let engine = wasmtime::Engine::default();
        let linker = imports::linker(&engine).expect("the imports link");
        let mut store = Store::new(&engine, Sandbox::for_init());
        let mut imports: Vec<_> =
            linker.iter(&mut store).map(|(module, name, _)| (module.to_owned(), name.to_owned())).collect();
        imports.sort();
        let imports: Vec<_> = imports
            .into_iter()
            .map(|name| match linker.get(&mut store, &name.0, &name.1).map(|import| import.ty(&store)) {
                Ok(ExternType::Func(ty)) => Import { name, ty },
                other => panic!("{name:?} is no function: {other:?}"),
            })
            .collect();
        let module = Module::new(&engine, module(&imports)).expect("the attacker compiles");
        let pre = linker.instantiate_pre(&module).expect("the attacker links");
        Common { pre, imports }
    })
}

/// All that a guest can call, in order of their names.
#[must_use]
pub fn imports() -> &'static [Import] {
    &common().imports
}

impl Attacker {
    /// In a run of this call.
    pub async fn new(call: Call) -> Self {
        Self::of(Sandbox::for_run(call, Bytes::from_static(SOURCE.as_bytes()))).await
    }

    pub(crate) async fn of(sandbox: Sandbox) -> Self {
        let pre = &common().pre;
        let mut store = Store::new(pre.module().engine(), sandbox);
        let instance = pre.instantiate_async(&mut store).await.expect("the attacker starts");
        let memory = instance.get_memory(&mut store, "memory").expect("it has a memory");
        Self { store, instance, memory }
    }

    /// Its memory.
    pub fn memory(&mut self) -> &mut [u8] {
        self.memory.data_mut(&mut self.store)
    }

    /// Calls the import of this index; of each argument as many bits as it has. What it answers, zero if nothing;
    /// `None` if the host has ended it.
    ///
    /// # Panics
    ///
    /// If the host does anything else.
    pub async fn call(&mut self, import: usize, args: &[u64]) -> Option<i64> {
        let ty = &common().imports[import].ty;
        let params: Vec<_> = ty.params().zip(args).map(|(ty, bits)| value(&ty, *bits)).collect();
        let mut results: Vec<_> = ty.results().map(|ty| value(&ty, 0)).collect();
        let function = match self.instance.get_export(&mut self.store, &import.to_string()) {
            Some(Extern::Func(function)) => function,
            other => panic!("no such import: {other:?}"),
        };
        match invoke(&function, &mut self.store, &params, &mut results).await {
            Ok(()) => Some(match results.first() {
                Some(Val::I32(number)) => i64::from(*number),
                Some(Val::I64(number)) => *number,
                _ => 0,
            }),
            Err(fault) if fault.is::<GuestFault>() || fault.is::<DeadlinePassed>() => None,
            Err(error) => panic!("the host failed instead of ending its guest: {error:?}"),
        }
    }

    /// Calls an import of the guest's own module by its name.
    ///
    /// # Panics
    ///
    /// If there is none of this name, or as [`call`](Self::call).
    pub async fn call_named(&mut self, name: &str, args: &[u64]) -> Option<i64> {
        let index =
            imports().iter().position(|import| import.name.1 == name).expect("an import of this name");
        self.call(index, args).await
    }

    /// How many bytes the host holds on its behalf, beyond what lives in its memory.
    #[must_use]
    pub fn held_by_host(&self) -> usize {
        let sandbox = self.store.data();
        let verdict = match &sandbox.verdict {
            Some(Verdict::Finished(json)) => json.len(),
            Some(Verdict::Failed(failure)) => {
                failure.name.len() + failure.message.len() + failure.stack.len()
            }
            Some(Verdict::TooLarge(_)) | None => 0,
        };
        verdict
            + sandbox.bytecode.len()
            + sandbox.answer.len()
            + sandbox.ops.held_bytes()
            + sandbox.logs.held_bytes()
    }
}

async fn invoke(
    function: &Func,
    store: &mut Store<Sandbox>,
    params: &[Val],
    results: &mut [Val],
) -> wasmtime::Result<()> {
    function.call_async(store, params, results).await
}

fn value(ty: &ValType, bits: u64) -> Val {
    match ty {
        ValType::I32 => Val::I32(bits as i32),
        ValType::I64 => Val::I64(bits as i64),
        ValType::F64 => Val::F64(bits),
        other => panic!("no import has a {other}"),
    }
}

/// A module with a function for each import, exported under its index, that hands on its arguments.
fn module(imports: &[Import]) -> Vec<u8> {
    let encoded = |ty: ValType| match ty {
        ValType::I32 => wasm_encoder::ValType::I32,
        ValType::I64 => wasm_encoder::ValType::I64,
        ValType::F64 => wasm_encoder::ValType::F64,
        other => panic!("no import has a {other}"),
    };
    let (mut types, mut imported, mut functions) =
        (TypeSection::new(), ImportSection::new(), FunctionSection::new());
    let (mut exports, mut code) = (ExportSection::new(), CodeSection::new());
    for (index, Import { name: (module, name), ty }) in (0_u32..).zip(imports) {
        types.ty().function(ty.params().map(encoded), ty.results().map(encoded));
        imported.import(module, name, EntityType::Function(index));
        functions.function(index);
        exports.export(&index.to_string(), ExportKind::Func, imports.len() as u32 + index);
        let mut body = Function::new([]);
        for param in 0..ty.params().len() as u32 {
            body.instructions().local_get(param);
        }
        body.instructions().call(index).end();
        code.function(&body);
    }
    let mut memories = MemorySection::new();
    let pages = (MEMORY_BYTES >> 16) as u64;
    memories.memory(MemoryType {
        minimum: pages,
        maximum: Some(pages),
        memory64: false,
        shared: false,
        page_size_log2: None,
    });
    exports.export("memory", ExportKind::Memory, 0);
    let mut module = wasm_encoder::Module::new();
    module.section(&types).section(&imported).section(&functions).section(&memories).section(&exports);
    module.section(&code);
    module.finish()
}

impl Engine {
    /// [`run`](Self::run), with a hand in the guest's memory before it starts.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub async fn run_attacked(
        &self,
        prepared: &Prepared,
        call: Call,
        attack: impl FnOnce(&mut [u8]) + Send,
    ) -> Result<Report, RunError> {
        self.run_after(prepared, call, |live| attack(live.memory.data_mut(&mut live.store))).await
    }
}

/// A call that nothing but its deadline bounds, which has passed.
#[must_use]
pub fn late_call() -> Call {
    Call::new("{}", std::time::Instant::now(), Arc::new(crate::host::NoHost))
}

#[cfg(test)]
mod boundary;
#[cfg(test)]
mod corruption;
