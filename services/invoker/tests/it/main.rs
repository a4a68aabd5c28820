//! The invoker from outside: real sockets, the real engine, the real client.
//!
//! `egress_*.rs` are about the lambdas' outbound HTTP by itself, with scripted name servers; `runs.rs`,
//! `refusals.rs`, `lifecycle.rs`, `prepare.rs`, `test_invoke.rs`, `reach.rs`, `toolbelt.rs`, `secrets.rs` and
//! `children.rs`, `budgets.rs` and `cancels.rs` about the whole service; `process.rs` and `confine.rs` about the process. `witness.rs`, `dns.rs`,
//! `registry.rs`, `drafts.rs` and `vault.rs` are the world outside, `outside.rs` and `service.rs` the subjects.

use std::time::Duration;

mod budgets;
mod cancels;
mod children;
mod confine;
mod dns;
mod drafts;
mod egress_addresses;
mod egress_answers;
mod egress_limits;
mod egress_names;
mod egress_redirects;
mod egress_requests;
mod egress_tls;
mod lifecycle;
mod outside;
mod prepare;
mod process;
mod reach;
mod refusals;
mod registry;
mod runs;
mod secrets;
mod service;
mod starters;
mod test_invoke;
mod toolbelt;
mod vault;
mod witness;

/// Long enough for whatever is expected to happen, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The function of the tests.
const FUNCTION: &str = "accounts/acme/functions/chat.start";
