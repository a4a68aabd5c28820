//! What is live, as watched from the registry: stale when the registry is down, never gone.
//!
//! Invoker and event-ingest both hold a [`Deployments`]. It calls `WatchDeployments`, takes the snapshot
//! and then every change, confirms each to the registry once look-ups see it, and calls again when the
//! call breaks. Until the new snapshot is complete, look-ups answer from the old one.
//!
//! [`Deployments`] is what look-ups see; `watch.rs` keeps it up to date. [`Schemas`] checks payloads against the templates.

mod schema;
mod state;
mod watch;

pub use schema::{SchemaError, SchemaProblem, Schemas};
pub use state::{Deployment, Deployments, NotReady, Template};
