//! The invoker from outside: real sockets, the real engine, the real client.
//!
//! `egress_*.rs` are about the lambdas' outbound HTTP by itself, with scripted name servers; `runs.rs`,
//! `refusals.rs`, `lifecycle.rs`, `prepare.rs` and `reach.rs` about the whole service. `witness.rs` is the world
//! outside, `outside.rs` and `service.rs` the subjects.

use std::time::Duration;

mod egress_addresses;
mod egress_limits;
mod egress_redirects;
mod egress_requests;
mod egress_tls;
mod lifecycle;
mod outside;
mod prepare;
mod reach;
mod refusals;
mod registry;
mod runs;
mod service;
mod witness;

/// Long enough for whatever is expected to happen, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The function of the tests.
const FUNCTION: &str = "accounts/acme/functions/chat.start";
