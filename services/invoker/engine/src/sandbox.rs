//! The host's side of one sandbox: what its imports read and write.

use std::fmt;
use std::time::Instant;

use bytes::Bytes;

use crate::call::{Call, LogLimits};
use crate::fresh::Behind;
use crate::imports::Hashing;
use crate::logs::LogBuffer;
use crate::ops::{OpLimits, Ops};
use crate::verdict::Verdict;

/// What a sandbox is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The image is being made; nothing of the host may get into it.
    Init,
    /// A source is turned into bytecode.
    Compile,
    /// Top-level code of a source runs.
    Prepare,
    /// A lambda runs.
    Run,
}

/// The data of one Wasmtime store.
pub(crate) struct Sandbox {
    pub(crate) phase: Phase,
    pub(crate) started: Instant,
    pub(crate) deadline: Instant,
    /// What the guest may read: a source, bytecode, or input, context and environment.
    pub(crate) inputs: [Bytes; 3],
    /// What its functions were made from.
    pub(crate) source: Bytes,
    pub(crate) logs: LogBuffer,
    pub(crate) ops: Ops,
    /// What the guest made of its source.
    pub(crate) bytecode: Vec<u8>,
    /// The answer to the guest's last question.
    pub(crate) answer: Vec<u8>,
    /// A hash that the guest is handing over in parts.
    pub(crate) hashing: Option<Hashing>,
    pub(crate) verdict: Option<Verdict>,
    /// The longest result; only a run has one.
    pub(crate) result_bytes: usize,
    pub(crate) memory: MemoryLimit,
    pub(crate) reads_clock: bool,
}

impl Sandbox {
    /// For making the image.
    pub(crate) fn for_init() -> Self {
        let started = Instant::now();
        Self::new(Phase::Init, started, started, usize::MAX, LogLimits::default())
    }

    /// For compiling the prelude.
    pub(crate) fn for_compile_prelude() -> Self {
        Self { phase: Phase::Compile, ..Self::for_init() }
    }

    /// For compiling a source.
    pub(crate) fn for_compile(source: Bytes, deadline: Instant, memory_bytes: usize) -> Self {
        let limits = LogLimits::default();
        let mut sandbox = Self::new(Phase::Compile, Instant::now(), deadline, memory_bytes, limits);
        sandbox.inputs[0] = source.clone();
        sandbox.source = source;
        sandbox
    }

    /// For running the top-level code of a source, as bytecode.
    pub(crate) fn for_prepare(
        bytecode: Bytes,
        source: Bytes,
        deadline: Instant,
        memory_bytes: usize,
    ) -> Self {
        let limits = LogLimits::default();
        let mut sandbox = Self::new(Phase::Prepare, Instant::now(), deadline, memory_bytes, limits);
        sandbox.inputs[0] = bytecode;
        sandbox.source = source;
        sandbox
    }

    /// For a run of what was made from `source`.
    pub(crate) fn for_run(call: Call, source: Bytes) -> Self {
        let mut sandbox =
            Self::new(Phase::Run, Instant::now(), call.deadline, call.memory_bytes, call.log_limits);
        sandbox.source = source;
        sandbox.inputs = [call.input_json, call.context_json, call.env_json];
        sandbox.result_bytes = call.result_bytes;
        let limits = OpLimits { count: call.max_ops, request_bytes: call.max_op_bytes };
        sandbox.ops = Ops::new(call.host, limits);
        sandbox
    }

    fn new(phase: Phase, started: Instant, deadline: Instant, memory: usize, logs: LogLimits) -> Self {
        Self {
            phase,
            started,
            deadline,
            inputs: [Bytes::new(), Bytes::new(), Bytes::new()],
            source: Bytes::new(),
            logs: LogBuffer::new(logs, started),
            ops: Ops::none(),
            bytecode: Vec::new(),
            answer: Vec::new(),
            hashing: None,
            verdict: None,
            result_bytes: 0,
            memory: MemoryLimit::new(memory),
            reads_clock: false,
        }
    }

    /// The guest's lengths of its inputs.
    pub(crate) fn input_lengths(&self) -> Result<(u32, u32, u32), std::num::TryFromIntError> {
        let [a, b, c] = &self.inputs;
        Ok((a.len().try_into()?, b.len().try_into()?, c.len().try_into()?))
    }
}

/// Bounds the memory of a sandbox and remembers whether the bound was met.
#[derive(Debug)]
pub(crate) struct MemoryLimit {
    pub(crate) bytes: usize,
    pub(crate) denied: bool,
    pub(crate) behind: Behind,
}

impl MemoryLimit {
    pub(crate) fn new(bytes: usize) -> Self {
        Self { bytes, denied: false, behind: Behind::default() }
    }
}

impl wasmtime::ResourceLimiter for MemoryLimit {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let allowed = desired <= self.bytes;
        self.denied |= !allowed;
        if allowed {
            self.behind.give_back(current, desired)?;
        }
        Ok(allowed)
    }

    fn table_growing(
        &mut self,
        current: usize,
        _desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // Made with the sandbox, then never grown.
        Ok(current == 0)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.denied = true;
        Ok(())
    }
}

/// Ends a guest whose deadline has passed.
#[derive(Debug)]
pub(crate) struct DeadlinePassed;

impl fmt::Display for DeadlinePassed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the deadline has passed")
    }
}

impl std::error::Error for DeadlinePassed {}

/// Ends a guest that calls the host with what no sound guest would.
#[derive(Debug)]
pub(crate) struct GuestFault(pub(crate) &'static str);

impl fmt::Display for GuestFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the sandbox called the host with {}", self.0)
    }
}

impl std::error::Error for GuestFault {}
