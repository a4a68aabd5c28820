//! The sandbox: runs JavaScript that nobody has to trust.
//!
//! QuickJS-NG, compiled to WebAssembly, run by Wasmtime; see `guest/README.md` for the WebAssembly part.
//!
//! ```text
//!  source ──prepare──▶ throw-away sandbox: bytecode
//!                      another one: top-level code runs ──▶ Prepared (difference of memory)
//!
//!  Call ──run──▶ fresh sandbox = image + Prepared ──▶ lambda(input, context) ──▶ Report
//!                     │        ▲
//!                     └─ Host ─┘   fetch, secrets, other functions: whatever the call's host offers
//! ```
//!
//! # Promises
//!
//! * Every run gets a fresh sandbox. Nothing that a run leaves behind reaches another one.
//! * A run ends at its deadline, whatever it does: typically within 2 ms, also inside of regular
//!   expressions and other built-in functions that never return to JavaScript.
//! * It never has more memory than its call allows, and reaches nothing but its call's [`Host`], its log,
//!   clocks and randomness.
//! * Whatever a sandbox does, it cannot make a run panic, and it cannot harm another run.
//! * Logs survive timeouts, crashes and the end of memory.
//! * Dropping the future of [`Engine::run`] ends the lambda and drops the operations it has under way.
//!
//! # What a lambda is
//!
//! An `async function lambda(input, context)` is called with the input and the context, and its promise is
//! the result. Any other function is called as `lambda(input, callback, context)`, where `callback(error,
//! result)` also has the properties of the context, so that `function lambda(input, context)` works as well.
//! Its result is what it returns (a promise is awaited) or hands to the callback, whichever is first; a
//! function of two or more parameters that returns nothing is waited for until it calls its callback, one of
//! fewer as long as it has kept the callback and anything is pending. `undefined` as result is `null`.
//!
//! Top-level code runs once, when a function is prepared, and what it leaves is the start of every run. So
//! `fetch`, timers and randomness are refused there; the date can be read, gives the time of the deploy, and
//! is among the [`Prepared::warnings`]. `eval` and `new Function` are disabled.
//!
//! # Where to start reading
//!
//! [`Engine::prepare`] and [`Engine::run`]; then `imports`, which is all that a guest can reach, and
//! `sandbox`, which is what the host knows of one.

mod artifact;
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod attack;
mod call;
mod config;
mod delta;
mod engine;
mod fresh;
mod host;
mod imports;
mod logs;
mod made_of;
mod ops;
mod pool;
mod prepare;
mod prepared;
mod run;
mod sandbox;
mod snapshot;
mod table;
mod ticker;
mod typescript;
mod verdict;
mod wire;

pub use artifact::check_cache_dir;
pub use call::{
    Call, Failure, FailureKind, LogEntry, LogLevel, LogLimits, Outcome, Report, RunError, Timing,
};
pub use config::EngineConfig;
pub use engine::{Engine, EngineError};
pub use fresh::ResetPath;
pub use host::{
    FetchRequest, FetchResponse, FunctionFailure, FunctionOutcome, FunctionRequest, Host, HostOp, NoHost,
    OpError, OpResult, Redirect, SecretRequest, SecretText, ServiceLocation,
};
pub use made_of::{MADE_OF, MadeOf};
pub use prepared::{PrepareError, PrepareLimits, Prepared, WeakPrepared};
