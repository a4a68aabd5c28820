//! Operations: the guest starts them, waits for any, takes results, cancels.

use std::time::Duration;

use wasmtime::{Caller, Linker, Result};

use super::{MODULE, parts, read, write};
use crate::ops::{Refused, Wakeup};
use crate::sandbox::{GuestFault, Sandbox};
use crate::wire;

// Answers to a start, in step with guest/prelude/30-ops.js.
const TOO_MANY: i32 = -1;
const NOT_VALID: i32 = -2;
const TOO_LARGE: i32 = -3;

// Answers to a wait, in step with guest/shim.c.
const NOTHING: i32 = 0;
const TIMER: i32 = -1;

pub(super) fn add(linker: &mut Linker<Sandbox>) -> Result<()> {
    linker.func_wrap(MODULE, "op_start", start)?;
    linker.func_wrap_async(MODULE, "op_wait", |mut caller: Caller<'_, Sandbox>, (wake_at,): (f64,)| {
        Box::new(async move { wait(caller.data_mut(), wake_at).await })
    })?;
    linker.func_wrap(MODULE, "op_size", |caller: Caller<'_, Sandbox>, id: i32| -> i32 {
        caller.data().ops.result(id).and_then(|result| i32::try_from(result.len()).ok()).unwrap_or(-1)
    })?;
    linker.func_wrap(MODULE, "op_take", take)?;
    linker.func_wrap(MODULE, "op_cancel", |mut caller: Caller<'_, Sandbox>, id: i32| {
        caller.data_mut().ops.cancel(id);
    })?;
    Ok(())
}

fn start(mut caller: Caller<'_, Sandbox>, kind: i32, request: u32, len: u32) -> Result<i32> {
    let (memory, sandbox) = parts(&mut caller)?;
    let request = read(memory, request, len)?;
    match sandbox.ops.admit(request.len()) {
        Ok(()) => {}
        Err(Refused::TooMany) => return Ok(TOO_MANY),
        Err(Refused::TooLarge) => return Ok(TOO_LARGE),
    }
    let Some(op) = wire::decode(kind, request) else { return Ok(NOT_VALID) };
    Ok(sandbox.ops.start(op, request.len()))
}

async fn wait(sandbox: &mut Sandbox, wake_at_ms: f64) -> Result<i32> {
    let wake_at = if wake_at_ms < 0.0 {
        None
    } else {
        // Beyond the deadline nothing matters; and a Duration cannot hold every number.
        let seconds = Duration::try_from_secs_f64(wake_at_ms / 1e3).unwrap_or(Duration::MAX);
        Some(sandbox.started.checked_add(seconds).unwrap_or(sandbox.deadline))
    };
    Ok(match sandbox.ops.wait(wake_at, sandbox.deadline).await? {
        Wakeup::Nothing => NOTHING,
        Wakeup::Timer => TIMER,
        Wakeup::Op(id) => id,
    })
}

fn take(mut caller: Caller<'_, Sandbox>, id: i32, to: u32, len: u32) -> Result<()> {
    let (memory, sandbox) = parts(&mut caller)?;
    let result = sandbox.ops.take(id).ok_or(GuestFault("an operation that is not done"))?;
    if result.len() != len as usize {
        return Err(GuestFault("a wrong length").into());
    }
    write(memory, to, &result)
}
