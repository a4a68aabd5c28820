//! The whole cluster in one process on a private Postgres, for a laptop.
//!
//! The services are the same crates that run in production, started by their own `run`, on real sockets
//! and a real database; only the process is shared. Start reading in [`cluster`]; [`demo`] is the main
//! job, told as a transcript; [`certs`] makes certificates and tokens for a cluster that asks who calls.

pub mod certs;
pub mod cluster;
pub mod demo;
mod postgres;
mod secret_keys;
