//! The registry as its callers see it: real servers on a real Postgres, with an invoker that answers as each
//! test says.

mod bad_input;
mod deploy;
mod functions;
mod harness;
mod invoker;
mod races;
mod service;
mod templates;
mod watch;
mod watcher;
