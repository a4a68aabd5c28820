//! Traces: what a service did for a call, and how long each part took, as spans sent to an OpenTelemetry collector.
//!
//! The services hand a [`TraceParent`] on wherever the work goes: with calls, with the events in the database, with the
//! requests of lambdas. Without a collector that is all. With one, each part of the work is a [`Span`] and the parts within
//! it are its children. Whether a trace is recorded was decided where it began, and holds everywhere.

mod args;
mod parent;
mod span;

use std::{borrow::Cow, time::Duration};

use opentelemetry::{
    Context,
    trace::{SpanBuilder, TraceContextExt as _, Tracer as _},
};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

pub use args::{TracesArgs, TracesConfigError, TracesError};
pub use parent::{InvalidTraceParent, TRACEPARENT, TraceParent};
pub use span::{Span, Work};

/// How long what was recorded last may take to reach the collector, at the end of a service.
pub const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// Where spans are recorded, if anywhere. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Traces(Option<Recorder>);

#[derive(Clone, Debug)]
struct Recorder {
    tracer: SdkTracer,
    provider: SdkTracerProvider,
}

impl Traces {
    /// Records nothing.
    pub fn off() -> Self {
        Self::default()
    }

    /// Begins a part of the work for `parent`, or of something that begins here. It ends when it is dropped.
    ///
    /// Without a collector, and in a trace that is not recorded, this is as good as free: not even the name is made.
    pub fn begin<N: Into<Cow<'static, str>>>(
        &self,
        work: Work,
        name: impl FnOnce() -> N,
        parent: Option<TraceParent>,
    ) -> Span {
        let Some(recorder) = &self.0 else { return Span::unrecorded(parent) };
        if parent.is_some_and(|parent| !parent.is_sampled()) {
            return Span::unrecorded(parent);
        }
        let context = Context::new();
        let context = match parent {
            Some(parent) => context.with_remote_span_context(parent.span_context()),
            None => context,
        };
        let builder = SpanBuilder::from_name(name()).with_kind(work.kind());
        Span::recorded(recorder.tracer.build_with_context(builder, &context))
    }

    /// Sends what is left, for two seconds at most. What cannot be sent is lost; events and their outcomes are not.
    pub async fn finish(self) {
        let Some(recorder) = self.0 else { return };
        let flush = tokio::task::spawn_blocking(move || recorder.provider.shutdown_with_timeout(FLUSH_LIMIT));
        if let Ok(Err(error)) = flush.await {
            tracing::warn!("the last spans did not reach the collector: {error}");
        }
    }
}
