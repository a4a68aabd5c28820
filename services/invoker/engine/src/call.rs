//! One run of a lambda: what goes in and what comes out.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::host::Host;

/// One run of a prepared function.
#[derive(Clone)]
pub struct Call {
    /// The lambda's first argument as JSON in UTF-8.
    pub input_json: Bytes,
    /// The fields of the lambda's `context` as a JSON object; `getRemainingTimeMs()` is added.
    pub context_json: Bytes,
    /// `process.env` as a JSON object of strings.
    pub env_json: Bytes,
    /// When the run is ended, whatever it does. Typically kept within 2 ms.
    pub deadline: Instant,
    /// How large the sandbox's memory may grow, engine included (see
    /// [`Engine::image_bytes`](crate::Engine::image_bytes)). At most
    /// [`EngineConfig::max_memory_bytes`](crate::EngineConfig::max_memory_bytes).
    pub memory_bytes: usize,
    /// How much of its log is kept.
    pub log_limits: LogLimits,
    /// The longest result in bytes of JSON.
    pub result_bytes: usize,
    /// How many operations may be under way at once; the next one is refused.
    pub max_ops: usize,
    /// How many bytes the requests of the operations under way may have together; one that does not fit is
    /// refused. They do not count towards `memory_bytes`.
    pub max_op_bytes: usize,
    /// Carries out what the lambda asks for.
    pub host: Arc<dyn Host>,
}

impl Call {
    /// A call with the documented default limits: 64 MiB of memory, 100 log lines or 64 KiB, a result of
    /// 1 MiB, 64 operations with 8 MiB of requests, an empty context and no environment variables.
    #[must_use]
    pub fn new(input_json: impl Into<Bytes>, deadline: Instant, host: Arc<dyn Host>) -> Self {
        Self {
            input_json: input_json.into(),
            context_json: Bytes::from_static(b"{}"),
            env_json: Bytes::from_static(b"{}"),
            deadline,
            memory_bytes: 64 << 20,
            log_limits: LogLimits::default(),
            result_bytes: 1 << 20,
            max_ops: 64,
            max_op_bytes: 8 << 20,
            host,
        }
    }
}

impl fmt::Debug for Call {
    // Payloads and secrets stay out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("input_bytes", &self.input_json.len())
            .field("deadline", &self.deadline)
            .field("memory_bytes", &self.memory_bytes)
            .finish_non_exhaustive()
    }
}

/// How much of a log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// The most lines, not counting the marker that follows when lines were dropped.
    pub entries: usize,
    /// The most bytes of all messages and extras together.
    pub bytes: usize,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { entries: 100, bytes: 64 << 10 }
    }
}

/// What became of a run.
#[derive(Debug, Clone)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// What the lambda logged, in order, also before a timeout, a crash or the end of its memory.
    pub logs: Vec<LogEntry>,
    /// Whether lines were dropped or cut; the last entry then says so.
    pub logs_truncated: bool,
    /// Where the time went.
    pub timing: Timing,
    /// How large the sandbox's memory became, engine included. Zero if it never began.
    pub peak_memory_bytes: usize,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The lambda returned.
    Returned {
        /// What it returned, as JSON; `null` for `undefined`.
        json: String,
    },
    /// The lambda did not return.
    Failed(Failure),
}

/// Why a lambda did not return.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// For programs.
    pub kind: FailureKind,
    /// The error's name, such as `TypeError`. At most 256 bytes.
    pub name: String,
    /// The error's message. At most 8 KiB.
    pub message: String,
    /// Lines of `    at function (lambda.js:line:column)`, innermost first; empty if there are none. At most
    /// 16 KiB.
    pub stack: String,
}

/// The kinds of [`Failure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// It threw, or its promise was rejected.
    Thrown,
    /// It was still running at the deadline.
    Timeout,
    /// It needed more memory than it may have.
    OutOfMemory,
    /// Its promise cannot settle any more: nothing is left that it could wait for.
    NeverSettles,
    /// Its result is longer than allowed.
    ResultTooLarge,
    /// Its result is nothing that JSON can hold: a cycle, a BigInt, a function.
    ResultNotJson,
    /// It used up the stack inside of built-in functions. In JavaScript this is a thrown `RangeError`.
    StackOverflow,
    /// The sandbox broke. No other run is affected.
    Crashed,
}

impl FailureKind {
    /// A stable name for logs, metrics and records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Thrown => "thrown",
            Self::Timeout => "timeout",
            Self::OutOfMemory => "out_of_memory",
            Self::NeverSettles => "never_settles",
            Self::ResultTooLarge => "result_too_large",
            Self::ResultNotJson => "result_not_json",
            Self::StackOverflow => "stack_overflow",
            Self::Crashed => "crashed",
        }
    }
}

/// One line that a lambda logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Which function of `console` wrote it.
    pub level: LogLevel,
    /// The text; never empty of what the limits allow, and cut between characters.
    pub message: String,
    /// JSON array of what was logged after a first string, if not all of it is strings; otherwise empty.
    pub extras_json: String,
    /// Since the run began.
    pub offset: Duration,
}

/// The level of a [`LogEntry`]. `console.log` writes [`Info`](Self::Info).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogLevel {
    /// `console.debug`, `console.trace`
    Debug,
    /// `console.log`, `console.info` and all others
    Info,
    /// `console.warn`, and what the engine itself has to say
    Warn,
    /// `console.error`, `console.assert`, and unhandled rejections
    Error,
}

/// Where the time of a run went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing {
    /// From the call of [`Engine::run`](crate::Engine::run) to its report.
    pub total: Duration,
    /// Waiting for a free slot.
    pub slot: Duration,
    /// Making the sandbox and copying the function in.
    pub instantiate: Duration,
    /// The lambda itself, its waits included.
    pub execute: Duration,
}

/// Why there is no [`Report`]: the platform failed, not the lambda.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No slot became free before the deadline.
    #[error("no sandbox became free before the deadline")]
    NoCapacity,
    /// The call asks for what this engine cannot give; a mistake of the caller.
    #[error("the call is not valid: {0}")]
    InvalidCall(&'static str),
    /// The sandbox could not be made.
    #[error("cannot make a sandbox")]
    Internal(#[source] wasmtime::Error),
}
