//! Time, for code that runs. The image is made at time zero.

use std::time::Instant;

use wasmtime::{Caller, Linker, Result};

use super::MODULE;
use crate::sandbox::{Phase, Sandbox};

pub(super) fn add(linker: &mut Linker<Sandbox>) -> Result<()> {
    linker.func_wrap(MODULE, "monotonic_ms", |caller: Caller<'_, Sandbox>| match caller.data().phase {
        Phase::Init => 0.0,
        Phase::Compile | Phase::Prepare | Phase::Run => caller.data().started.elapsed().as_secs_f64() * 1e3,
    })?;
    linker.func_wrap(MODULE, "remaining_ms", |caller: Caller<'_, Sandbox>| {
        let left = caller.data().deadline.saturating_duration_since(Instant::now());
        (left.as_secs_f64() * 1e3).floor()
    })?;
    Ok(())
}
