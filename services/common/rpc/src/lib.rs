//! How every chatfn service speaks gRPC.
//!
//! Promises, for each call that goes through [`Server`] and [`Client`]:
//!
//! * **One absolute deadline.** It is stamped when the headers arrive, parsed strictly, bounds the
//!   handler *and* both bodies, and shrinks at every hop ([`budget`]), also by what the network held a call
//!   of ours back. Expiry is always `DEADLINE_EXCEEDED`; a budget too small to start is refused before any work.
//! * **Cancellation reaches the work.** A [`CancellationToken`](tokio_util::sync::CancellationToken)
//!   rides in the request and fires when the call is over, however it ended.
//! * **Overload answers at once.** A process-wide limit, held until the response body ends; health and
//!   reflection stay reachable.
//! * **Callers are known.** People by a signed token, services by their certificate ([`Security`]); which method is for
//!   whom is one table ([`access`]). Without either, a server listens on loopback alone.
//! * **Errors can be acted upon.** [`ApiError`] carries a stable reason and typed details; a lost
//!   connection is `UNAVAILABLE` and says whether the call may have run ([`classify`]).
//! * **Shutdown ends.** [`Server::serve`] drains and returns by a hard limit, whatever the handlers do.
//!
//! tonic provides the codec and the routes. Its transport is not used, because its timeout middleware
//! reads `grpc-timeout` outside every layer of ours, answers `CANCELLED`, and guards headers only; hyper
//! is driven directly instead ([`Server::serve`], [`connect`]).
//!
//! Where to start reading: [`Server`] for the layer stack and its order, [`Deadline`] and
//! [`RequestExt`] for what handlers see, [`ApiError`] for what they return, [`Shutdown`] and
//! [`TaskGroup`] for the life of a process.

mod body;
pub mod budget;
mod client;
mod config;
mod context;
mod deadline;
mod health;
mod layers;
mod lifecycle;
mod method;
mod metrics;
mod security;
mod server;
mod status;
mod transit;

pub use chatfn_domain::{
    caller::{Caller, Role, Service},
    reasons,
};
pub use chatfn_telemetry::TraceParent;
pub use client::{Client, ClientConfig, ClientConfigError, RetryClass, classify, connect};
pub use config::{DurationError, parse_duration};
pub use context::{CallContext, RequestExt};
pub use deadline::Deadline;
pub use health::{HEALTH_LIMIT, HealthArgs};
pub use layers::scope::Handling;
pub use lifecycle::{Shutdown, TaskError, TaskGroup};
pub use method::MethodPolicy;
pub use metrics::{CalleeMetrics, ClientMetrics, METRICS};
pub use security::{
    ClientTls, KeysError, Security, SecurityConfig, SecurityError, TlsError, access, dev as dev_tokens,
};
pub use server::{
    BindError, ConfigError, Drained, Health, ServeError, Server, ServerBuilder, ServerConfig, bind,
    check_listen, reset_token,
};
pub use status::{ApiError, ErrorReport, FieldViolation, Precondition, Resource, code_name, unreadable};

/// Largest message that chatfn sends or accepts: 4 MiB, tonic's own default for decoding.
///
/// tonic's default for *encoding* is unlimited, so that a server could send what no client of ours
/// accepts. Give every generated server and client both
/// `max_decoding_message_size(MAX_MESSAGE_BYTES)` and `max_encoding_message_size(MAX_MESSAGE_BYTES)`.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
