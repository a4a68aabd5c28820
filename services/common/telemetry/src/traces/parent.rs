//! W3C trace context: which trace a call belongs to.

use std::{fmt, str::FromStr};

use http::HeaderValue;
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};
use uuid::Uuid;

/// The header's name.
pub const TRACEPARENT: &str = "traceparent";

/// Length of a version 00 value: `00-<32 hex>-<16 hex>-<2 hex>`.
const LENGTH: usize = 55;

/// A valid `traceparent` of version 00: a trace, the span in it that this work belongs to, and whether it is recorded.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent([u8; LENGTH]);

/// A `traceparent` that is not version 00 of the W3C recommendation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a version 00 traceparent (00-<32 hex digits>-<16 hex digits>-<2 hex digits>, neither id all zero)"
)]
pub struct InvalidTraceParent;

impl TraceParent {
    /// Starts a new trace, not sampled.
    pub fn generate() -> Self {
        let (trace, span) = (Uuid::new_v4(), Uuid::new_v4());
        let text = format!("00-{}-{}-00", trace.simple(), &span.simple().to_string()[..16]);
        text.parse().unwrap_or_else(|_| unreachable!("random version 4 ids are never all zero"))
    }

    /// The whole value.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The trace id, 32 hexadecimal digits.
    pub fn trace_id(&self) -> &str {
        &self.as_str()[3..35]
    }

    /// Whether the trace is recorded.
    pub fn is_sampled(&self) -> bool {
        // The lowest bit of the last digit.
        matches!(self.0[LENGTH - 1], b'1' | b'3' | b'5' | b'7' | b'9' | b'b' | b'd' | b'f')
    }

    pub(super) fn of(span: &SpanContext) -> Self {
        let flags = span.trace_flags().to_u8();
        let text = format!("00-{}-{}-{flags:02x}", span.trace_id(), span.span_id());
        text.parse().unwrap_or_else(|_| Self::generate())
    }

    pub(super) fn span_context(&self) -> SpanContext {
        // Both are hexadecimal digits.
        let (trace, span) = (&self.as_str()[3..35], &self.as_str()[36..52]);
        SpanContext::new(
            TraceId::from_hex(trace).unwrap_or(TraceId::INVALID),
            SpanId::from_hex(span).unwrap_or(SpanId::INVALID),
            TraceFlags::new(u8::from(self.is_sampled())),
            true,
            TraceState::default(),
        )
    }

    /// As a header's value.
    pub fn header_value(&self) -> HeaderValue {
        HeaderValue::from_bytes(&self.0).unwrap_or_else(|_| unreachable!("hexadecimal digits and dashes"))
    }

    /// Reads the header; an invalid one is as good as none, as the recommendation asks.
    pub fn from_headers(headers: &http::HeaderMap) -> Option<Self> {
        headers.get(TRACEPARENT)?.to_str().ok()?.parse().ok()
    }
}

impl FromStr for TraceParent {
    type Err = InvalidTraceParent;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes: [u8; LENGTH] = text.as_bytes().try_into().map_err(|_| InvalidTraceParent)?;
        let hex = |part: &[u8]| part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let zero = |part: &[u8]| part.iter().all(|b| *b == b'0');
        let (trace, span, flags) = (&bytes[3..35], &bytes[36..52], &bytes[53..]);
        let dashes = [2, 35, 52].iter().all(|at| bytes[*at] == b'-');
        let valid = dashes
            && bytes.starts_with(b"00")
            && hex(trace)
            && hex(span)
            && hex(flags)
            && !zero(trace)
            && !zero(span);
        valid.then_some(Self(bytes)).ok_or(InvalidTraceParent)
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TraceParent({})", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_the_recommendation_allows() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parent: TraceParent = text.parse().expect("the example of the recommendation");
        assert_eq!(parent.to_string(), text);
        assert_eq!(parent.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(parent.is_sampled() && !TraceParent::generate().is_sampled());
        assert_eq!(TraceParent::of(&parent.span_context()), parent);
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01",
        ] {
            assert_eq!(bad.parse::<TraceParent>(), Err(InvalidTraceParent), "{bad}");
        }
    }

    #[test]
    fn generated_ones_are_valid_and_differ() {
        let (a, b) = (TraceParent::generate(), TraceParent::generate());
        assert_eq!(a.as_str().parse(), Ok(a));
        assert_ne!(a.trace_id(), b.trace_id());
    }
}
