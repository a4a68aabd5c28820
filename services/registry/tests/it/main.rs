//! The registry as its callers see it: real servers on a real Postgres, with an invoker that answers as each
//! test says.
//!
//! The tests run on several threads because the database is dropped by a test's end, which waits for the
//! registry's connections to end, too.

mod audit;
mod bad_input;
mod deadlines;
mod deploy;
mod dry;
mod functions;
mod harness;
mod invoker;
mod model;
mod races;
mod repeats;
mod resume;
mod secret_log;
mod secret_rotation;
mod secrets;
mod service;
mod silent;
mod templates;
mod watch;
mod watcher;
