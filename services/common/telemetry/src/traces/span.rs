//! One part of the work.

use opentelemetry::{
    KeyValue, Value,
    trace::{Span as _, SpanKind, Status},
};
use opentelemetry_sdk::trace::Span as Recorded;

use super::TraceParent;

/// What a part of the work is to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Serves a call.
    Serves,
    /// Calls somebody else.
    Calls,
    /// Takes up what was left for it in the database.
    TakesUp,
    /// Is a part of what the process does.
    Does,
}

impl Work {
    pub(super) fn kind(self) -> SpanKind {
        match self {
            Self::Serves => SpanKind::Server,
            Self::Calls => SpanKind::Client,
            Self::TakesUp => SpanKind::Consumer,
            Self::Does => SpanKind::Internal,
        }
    }
}

/// A part of the work, from when it was begun to when it is dropped. It may be recorded, or not.
#[derive(Debug)]
pub struct Span {
    recorded: Option<Recorded>,
    trace: TraceParent,
}

impl Span {
    pub(super) fn unrecorded(parent: Option<TraceParent>) -> Self {
        Self { recorded: None, trace: parent.unwrap_or_else(TraceParent::generate) }
    }

    pub(super) fn recorded(span: Recorded) -> Self {
        let trace = TraceParent::of(span.span_context());
        // One that begins here and was not chosen is handed on, so that nobody else chooses it.
        Self { recorded: span.is_recording().then_some(span), trace }
    }

    /// What work done for this one belongs to.
    pub fn trace(&self) -> TraceParent {
        self.trace
    }

    /// Whether it is recorded: what is costly to find out need not be, otherwise.
    pub fn is_recorded(&self) -> bool {
        self.recorded.is_some()
    }

    /// Notes something about it. No payloads, no secrets, no URLs, which may hold either.
    pub fn note(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(span) = &mut self.recorded {
            span.set_attribute(KeyValue::new(key, value));
        }
    }

    /// It failed; `why` is a stable reason or the name of a code.
    pub fn fail(&mut self, why: &'static str) {
        if let Some(span) = &mut self.recorded {
            span.set_status(Status::error(why));
        }
    }
}
