//! The host functions of a guest: all that it can reach. In step with guest/shim.c.
//!
//! A guest may be under the control of an attacker, so every pointer, length, id and number that it passes
//! is checked, and a wrong one ends that guest.

mod answers;
mod clock;
mod hash;
mod ops;
mod wasi;
mod zones;

use wasmtime::{Caller, Extern, Linker, Result};

use crate::call::LogLevel;
use crate::sandbox::{GuestFault, Phase, Sandbox};
use crate::verdict::{GuestFailure, GuestFailureKind, Verdict};

pub(crate) use hash::Hashing;

const MODULE: &str = "chatfn";

/// The most randomness that is drawn in one call: the deadline cannot end a run in between. As much as
/// `crypto.getRandomValues` gives at once.
const MAX_RANDOM_BYTES: u32 = 64 << 10;

/// All imports of the guest.
pub(crate) fn linker(engine: &wasmtime::Engine) -> Result<Linker<Sandbox>> {
    let mut linker = Linker::new(engine);
    linker.func_wrap(MODULE, "input", input)?;
    linker.func_wrap(MODULE, "source", source)?;
    linker.func_wrap(MODULE, "compiled", compiled)?;
    linker.func_wrap(MODULE, "log", log)?;
    linker.func_wrap(MODULE, "random", random)?;
    linker.func_wrap(MODULE, "finish", finish)?;
    linker.func_wrap(MODULE, "fail", fail)?;
    answers::add(&mut linker)?;
    clock::add(&mut linker)?;
    ops::add(&mut linker)?;
    wasi::add(&mut linker)?;
    Ok(linker)
}

/// The guest's memory and the host's side of it.
fn parts<'a>(caller: &'a mut Caller<'_, Sandbox>) -> Result<(&'a mut [u8], &'a mut Sandbox)> {
    match caller.get_export("memory") {
        Some(Extern::Memory(memory)) => Ok(memory.data_and_store_mut(caller)),
        _ => Err(GuestFault("no memory").into()),
    }
}

/// The bytes that the guest points to.
fn read(memory: &[u8], at: u32, len: u32) -> Result<&[u8]> {
    let start = at as usize;
    memory
        .get(start..start + len as usize)
        .ok_or_else(|| GuestFault("a pointer outside of its memory").into())
}

/// Writes to where the guest points.
fn write(memory: &mut [u8], at: u32, bytes: &[u8]) -> Result<()> {
    let start = at as usize;
    let target =
        memory.get_mut(start..start + bytes.len()).ok_or(GuestFault("a pointer outside of its memory"))?;
    target.copy_from_slice(bytes);
    Ok(())
}

fn input(mut caller: Caller<'_, Sandbox>, which: u32, to: u32, len: u32) -> Result<()> {
    let (memory, sandbox) = parts(&mut caller)?;
    let bytes = sandbox.inputs.get(which as usize).ok_or(GuestFault("an unknown input"))?;
    if bytes.len() != len as usize {
        return Err(GuestFault("a wrong length").into());
    }
    write(memory, to, bytes)
}

/// A part of the source that the guest's function was made from.
fn source(mut caller: Caller<'_, Sandbox>, at: u32, to: u32, len: u32) -> Result<()> {
    let (memory, sandbox) = parts(&mut caller)?;
    let start = at as usize;
    let part = sandbox.source.get(start..start + len as usize);
    write(memory, to, part.ok_or(GuestFault("a place outside of its source"))?)
}

/// Bytecode. It is as safe to load as its source is to compile: a sandbox of the same function does.
fn compiled(mut caller: Caller<'_, Sandbox>, bytecode: u32, len: u32) -> Result<()> {
    let (memory, sandbox) = parts(&mut caller)?;
    if sandbox.phase != Phase::Compile {
        return Err(GuestFault("bytecode that nobody asked for").into());
    }
    sandbox.bytecode = read(memory, bytecode, len)?.to_vec();
    Ok(())
}

fn log(
    mut caller: Caller<'_, Sandbox>,
    level: i32,
    text: u32,
    len: u32,
    extras: u32,
    extras_len: u32,
) -> Result<()> {
    let (memory, sandbox) = parts(&mut caller)?;
    let level = match level {
        0 => LogLevel::Debug,
        1 => LogLevel::Info,
        2 => LogLevel::Warn,
        3 => LogLevel::Error,
        _ => return Err(GuestFault("an unknown log level").into()),
    };
    sandbox.logs.push(level, read(memory, text, len)?, read(memory, extras, extras_len)?);
    Ok(())
}

fn random(mut caller: Caller<'_, Sandbox>, to: u32, len: u32) -> Result<()> {
    let (memory, sandbox) = parts(&mut caller)?;
    if sandbox.phase != Phase::Run {
        return Err(GuestFault("a request for randomness outside of a run").into());
    }
    if len > MAX_RANDOM_BYTES {
        return Err(GuestFault("a request for too much randomness").into());
    }
    let start = to as usize;
    let target =
        memory.get_mut(start..start + len as usize).ok_or(GuestFault("a pointer outside of its memory"))?;
    getrandom::fill(target).map_err(|error| wasmtime::Error::msg(format!("no randomness: {error}")))
}

fn finish(mut caller: Caller<'_, Sandbox>, json: u32, len: u32) -> Result<()> {
    let (memory, sandbox) = parts(&mut caller)?;
    let json = read(memory, json, len)?;
    let verdict = if json.len() > sandbox.result_bytes {
        Verdict::TooLarge(json.len())
    } else {
        match str::from_utf8(json) {
            Ok(json) => Verdict::Finished(json.to_owned()),
            Err(_) => return Err(GuestFault("a result that is not UTF-8").into()),
        }
    };
    sandbox.verdict.get_or_insert(verdict);
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "three strings, each a pointer and a length")]
fn fail(
    mut caller: Caller<'_, Sandbox>,
    kind: i32,
    name: u32,
    name_len: u32,
    message: u32,
    message_len: u32,
    stack: u32,
    stack_len: u32,
) -> Result<()> {
    let (memory, sandbox) = parts(&mut caller)?;
    let kind = GuestFailureKind::from_guest(kind).ok_or(GuestFault("an unknown failure"))?;
    let failure = GuestFailure::new(
        kind,
        read(memory, name, name_len)?,
        read(memory, message, message_len)?,
        read(memory, stack, stack_len)?,
    );
    sandbox.verdict.get_or_insert(Verdict::Failed(failure));
    Ok(())
}
