//! What a chatfn process tells of itself: logs, metrics, liveness, traces.
//!
//! Promises:
//!
//! * **A service's metrics are its own.** [`Metrics`] is a value, not a global: three services can live in one process.
//! * **Each is declared once**, in its crate's `metrics.rs`, with its unit, all values of its labels, what it means and what to do
//!   when it is off ([`declare!`]). `docs/METRICS.md` is made of that.
//! * **No ids, no payloads.** A label's values come from an enum or from the contract; nothing that a caller sends becomes one.
//! * **Counting is cheap.** Handles are fetched at the start; an update is an atomic addition, for histograms a lock that is
//!   held for some nanoseconds.
//! * **Telling cannot hurt.** The HTTP listener has bounded connections, each bounded in time, reads no bodies, and knows three
//!   paths ([`Endpoint`]).
//!
//! Where to start reading: [`declare!`], then [`Metrics`]; [`EndpointArgs::start`] for a service's `run`; [`init`] for logs.

mod endpoint;
mod handles;
mod label;
mod log_quota;
mod logs;
mod metric;
mod observed;
mod process;
mod reference;
mod registry;
pub mod testing;
mod traces;

pub use endpoint::{Endpoint, EndpointArgs, EndpointError, Listen};
pub use handles::{
    Count, CountFamily, Counts, Gauge, GaugeFamily, Gauges, Histogram, HistogramFamily, Histograms,
    InProgress,
};
pub use label::{Label, LabelValue};
pub use log_quota::{Line, LogQuota};
pub use logs::{LogFormat, TelemetryArgs, TelemetryError, init};
pub use metric::{Kind, Metric, buckets};
pub use process::METRICS;
pub use reference::reference;
pub use registry::Metrics;
pub use traces::{
    FLUSH_LIMIT, InvalidTraceParent, Span, TRACEPARENT, TraceParent, Traces, TracesArgs, TracesConfigError,
    TracesError, Work,
};
