//! What is live, as watched from the registry: stale when the registry is down, never gone.
//!
//! Invoker and event-ingest both hold a [`Deployments`]. It calls `WatchDeployments`, takes the snapshot
//! and then every change, confirms each to the registry once look-ups see it, and calls again when the
//! call breaks. Until the new snapshot is complete, look-ups answer from the old one.
//!
//! A call that breaks goes on from where it was, if the registry still knows that place. With a [`SnapshotFile`] a service
//! starts without the registry, on what was live when the file was written; a file that is damaged is left aside.
//!
//! [`Deployments`] is what look-ups see; `watch.rs` keeps it up to date, and `keep.rs` the file. [`Schemas`] checks
//! payloads against the templates.

mod keep;
mod metrics;
mod schema;
mod snapshot;
mod state;
mod watch;
mod wire;

pub use metrics::METRICS;
pub use schema::{SchemaError, SchemaProblem, Schemas};
pub use snapshot::{SnapshotArgs, SnapshotFile};
pub use state::{Deployment, Deployments, Fresh, NotReady, Template, WatchConfig};
