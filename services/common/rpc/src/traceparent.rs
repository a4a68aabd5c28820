//! W3C trace context: which trace a call belongs to.

use std::{fmt, str::FromStr};

use http::HeaderValue;
use uuid::Uuid;

/// The header's name.
pub(crate) const TRACEPARENT: &str = "traceparent";

/// Length of a version 00 value: `00-<32 hex>-<16 hex>-<2 hex>`.
const LENGTH: usize = 55;

/// A valid `traceparent` of version 00. Passed on unchanged: the services record no spans of their own.
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

    pub(crate) fn header_value(&self) -> HeaderValue {
        HeaderValue::from_bytes(&self.0).unwrap_or_else(|_| unreachable!("hexadecimal digits and dashes"))
    }

    /// Reads the header; an invalid one is as good as none, as the recommendation asks.
    pub(crate) fn from_headers(headers: &http::HeaderMap) -> Option<Self> {
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
