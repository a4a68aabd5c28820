//! The watch against a scripted registry.

mod harness;
mod snapshot;
mod watch;
