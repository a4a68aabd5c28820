//! A function that is ready to run, and why a source may not become one.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;

use crate::delta::Delta;
use crate::engine::Size;

/// A function that is ready to run on the [`Engine`](crate::Engine) that prepared it. Cheap to clone.
#[derive(Clone)]
pub struct Prepared(pub(crate) Arc<Artifact>);

pub(crate) struct Artifact {
    pub(crate) engine_id: u64,
    pub(crate) source: Bytes,
    pub(crate) delta: Delta,
    pub(crate) size: Size,
    pub(crate) warnings: Vec<&'static str>,
}

impl Artifact {
    pub(crate) fn size_bytes(&self) -> usize {
        self.source.len() + self.delta.size_bytes()
    }
}

impl Prepared {
    /// How much memory in bytes it takes, for caches.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.0.size_bytes()
    }

    /// What its top-level code does that is allowed, and is seldom what its author means.
    #[must_use]
    pub fn warnings(&self) -> &[&'static str] {
        &self.0.warnings
    }

    /// What finds it as long as somebody has it.
    #[must_use]
    pub fn downgrade(&self) -> WeakPrepared {
        WeakPrepared(Arc::downgrade(&self.0))
    }
}

/// A [`Prepared`] that takes no memory by itself. Cheap to clone.
#[derive(Clone)]
pub struct WeakPrepared(Weak<Artifact>);

impl WeakPrepared {
    /// The function, if somebody has it still: a run, say.
    #[must_use]
    pub fn upgrade(&self) -> Option<Prepared> {
        self.0.upgrade().map(Prepared)
    }
}

impl fmt::Debug for WeakPrepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakPrepared").finish_non_exhaustive()
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").field("size_bytes", &self.size_bytes()).finish_non_exhaustive()
    }
}

/// See [`Prepared::warnings`].
pub(crate) const READS_CLOCK: &str = "top-level code reads the clock: what it finds is the time when the function was deployed or \
     loaded, in every run; for the time of the event, ask inside of the lambda";
/// See [`Prepared::warnings`].
pub(crate) const LOGS: &str = "top-level code logs, and nobody sees it: it runs when the function is deployed or loaded, not for \
     each event; log inside of the lambda";

/// What preparing a source may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrepareLimits {
    /// The longest source in characters.
    pub source_chars: usize,
    /// How long top-level code may run, and how long to wait for a slot.
    pub timeout: Duration,
    /// How large the sandbox's memory may grow, engine included.
    pub memory_bytes: usize,
    /// The largest [`Prepared::size_bytes`].
    pub artifact_bytes: usize,
}

impl PrepareLimits {
    /// Refuses a source that is too long.
    pub(crate) fn check_source(&self, source: &str) -> Result<(), PrepareError> {
        let (actual, limit) = (source.chars().count(), self.source_chars);
        if actual > limit {
            return Err(PrepareError::TooLarge { what: "the source", actual, limit, unit: "characters" });
        }
        Ok(())
    }
}

impl Default for PrepareLimits {
    fn default() -> Self {
        Self {
            source_chars: 100_000,
            timeout: Duration::from_secs(1),
            memory_bytes: 64 << 20,
            artifact_bytes: 32 << 20,
        }
    }
}

/// In [`PrepareError::Unreadable`].
pub(crate) const TAKES_TOO_LONG: &str = "that takes too long";

/// Why a source cannot be deployed. Lines and columns count from 1; they are those of the source, and zero
/// when they are not known.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// It is not JavaScript.
    #[error("syntax error{}: {message}. Correct the source there", at(*line, *column))]
    Syntax {
        /// What the parser said.
        message: String,
        /// Where it gave up.
        line: u32,
        /// Where it gave up, in characters.
        column: u32,
    },
    /// It may be TypeScript, but nobody will ever know.
    #[error("the source cannot be read as TypeScript, {why}: simplify what nests, or write it in JavaScript")]
    Unreadable {
        /// What kept the parser from it.
        why: &'static str,
    },
    /// It defines and exports no `lambda`.
    #[error(
        "the source has no function named lambda: write `async function lambda(input, context) {{ … }}`, \
         or export one"
    )]
    NoLambda,
    /// Its top-level code threw.
    #[error("top-level code threw {name}{}: {message}", at(*line, *column))]
    TopLevelThrow {
        /// The error's name.
        name: String,
        /// The error's message.
        message: String,
        /// As in [`Failure::stack`](crate::Failure::stack).
        stack: String,
        /// Where it was thrown.
        line: u32,
        /// Where it was thrown, in characters.
        column: u32,
    },
    /// It asks for a module that does not exist.
    #[error(
        "there is no module '{specifier}'{}; import one of these, or bundle what you need into the source: {}",
        at(*line, *column),
        available.join(", ")
    )]
    ForbiddenImport {
        /// What it asked for.
        specifier: String,
        /// All that it may ask for.
        available: Vec<String>,
        /// Where it asks.
        line: u32,
        /// Where it asks, in characters.
        column: u32,
    },
    /// Its top-level code did what only a run may do: fetch, set a timer, draw a random number.
    #[error(
        "{what} is not available in top-level code{}: that runs once, when the function is deployed; move the call into \
         the lambda",
        at(*line, *column)
    )]
    ForbiddenAtTopLevel {
        /// What it did.
        what: String,
        /// Where.
        line: u32,
        /// Where, in characters.
        column: u32,
    },
    /// Its top-level code did not end.
    #[error("top-level code did not end within {} ms; move what takes so long into the lambda", limit.as_millis())]
    Timeout {
        /// The limit.
        limit: Duration,
    },
    /// Its top-level code needs too much memory.
    #[error(
        "top-level code needs more than {} MiB of memory; make less of it, or raise memory_mib",
        limit_bytes >> 20
    )]
    Memory {
        /// The limit.
        limit_bytes: usize,
    },
    /// It is too long, or what it makes at top level is too large to keep.
    #[error("{what} is too large: at least {actual} of at most {limit} {unit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size, as far as it was looked at.
        actual: usize,
        /// The largest allowed.
        limit: usize,
        /// What is counted.
        unit: &'static str,
    },
    /// No slot became free in time. The platform's fault, worth a retry.
    #[error("no sandbox became free in time")]
    NoCapacity,
    /// The sandbox could not be made. The platform's fault.
    #[error("cannot prepare the source: {message}")]
    Internal {
        /// What happened.
        message: String,
        /// The cause, if there is one.
        #[source]
        source: Option<wasmtime::Error>,
    },
}

impl PrepareError {
    /// Whether it says only that time ran out. Of a source that was prepared before, that is no fault of its author's: it had
    /// to share the processors with too many.
    #[must_use]
    pub fn ran_out_of_time(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::Unreadable { why: TAKES_TOO_LONG })
    }

    /// The platform could not make or use a sandbox.
    pub(crate) fn internal(source: wasmtime::Error) -> Self {
        Self::Internal { message: "the sandbox could not be made".to_owned(), source: Some(source) }
    }
}

/// ` at line 3, column 7`, or nothing if the place is not known.
fn at(line: u32, column: u32) -> String {
    if line == 0 { String::new() } else { format!(" at line {line}, column {column}") }
}
