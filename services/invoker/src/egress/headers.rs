//! Which headers a lambda may send, and which the platform adds.

use std::time::Duration;

use chatfn_rpc::TraceParent;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use uuid::Uuid;

use super::EgressError;

/// Most headers of a request.
const MAX_HEADERS: usize = 100;
/// Most bytes of a request's header names and values.
const MAX_HEADER_BYTES: usize = 32 * 1024;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const TRACEPARENT: HeaderName = HeaderName::from_static(chatfn_telemetry::TRACEPARENT);
const BUDGET: HeaderName = HeaderName::from_static("x-chatfn-budget-ms");
const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("chatfn/", env!("CARGO_PKG_VERSION")));

/// What describes a body: leaves with it when a redirect turns the request into a GET.
const OF_THE_BODY: [HeaderName; 4] =
    [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::CONTENT_LANGUAGE, header::CONTENT_LOCATION];

/// The headers that a lambda gave. Those that belong to the connection or the platform are dropped without a word,
/// as browsers do: code written for a browser or Node may set them.
pub(super) fn authored(pairs: &[(String, String)]) -> Result<HeaderMap, EgressError> {
    let bytes: usize = pairs.iter().map(|(name, value)| name.len() + value.len()).sum();
    if pairs.len() > MAX_HEADERS || bytes > MAX_HEADER_BYTES {
        return Err(EgressError::RequestTooLarge(format!(
            "at most {MAX_HEADERS} headers of {MAX_HEADER_BYTES} bytes in all are allowed"
        )));
    }
    let mut headers = HeaderMap::with_capacity(pairs.len() + 6);
    for (name, value) in pairs {
        let name: HeaderName = name
            .parse()
            .map_err(|_| EgressError::InvalidRequest("a header's name is not a token".to_owned()))?;
        if is_forbidden(name.as_str()) {
            continue;
        }
        let value = from_latin1(value).ok_or_else(|| {
            EgressError::InvalidRequest(format!("the value of the header {name} cannot be sent"))
        })?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// Adds what the platform says about a call; what the author said stays.
pub(super) fn add_platform(headers: &mut HeaderMap, key: Option<&Uuid>, trace: TraceParent) {
    let key = key.and_then(|key| HeaderValue::from_str(&key.to_string()).ok());
    let defaults = [
        (header::ACCEPT, Some(HeaderValue::from_static("*/*"))),
        (header::USER_AGENT, Some(USER_AGENT)),
        (IDEMPOTENCY_KEY, key),
        (TRACEPARENT, Some(trace.header_value())),
    ];
    for (name, value) in defaults {
        if let Some(value) = value {
            headers.entry(name).or_insert(value);
        }
    }
    // Bodies are not decoded.
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
}

/// Sets what differs from hop to hop.
///
/// # Errors
/// The host cannot be a header, which its parser excludes.
pub(super) fn set_hop(headers: &mut HeaderMap, authority: &str, budget: Duration) -> Result<(), EgressError> {
    let host = HeaderValue::from_str(authority)
        .map_err(|_| EgressError::InvalidUrl("its host cannot be a header".to_owned()))?;
    headers.insert(header::HOST, host);
    headers.insert(BUDGET, HeaderValue::from(u64::try_from(budget.as_millis()).unwrap_or(u64::MAX)));
    Ok(())
}

/// The request lost its body.
pub(super) fn drop_body(headers: &mut HeaderMap) {
    for name in OF_THE_BODY {
        headers.remove(name);
    }
    headers.remove(IDEMPOTENCY_KEY);
}

/// The request goes to another origin, which must not learn the credentials for the first.
pub(super) fn drop_credentials(headers: &mut HeaderMap) {
    headers.remove(header::AUTHORIZATION);
    headers.remove(header::COOKIE);
}

fn is_forbidden(name: &str) -> bool {
    const NAMES: [&str; 10] = [
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    NAMES.contains(&name) || name.starts_with("proxy-") || name.starts_with("x-chatfn-")
}

/// JavaScript hands over header values as text of bytes, one character each.
fn from_latin1(value: &str) -> Option<HeaderValue> {
    let bytes = value.chars().map(|char| u8::try_from(u32::from(char))).collect::<Result<Vec<u8>, _>>();
    HeaderValue::from_bytes(&bytes.ok()?).ok()
}

/// The text of bytes that [`from_latin1`] would read back.
pub(super) fn to_latin1(value: &HeaderValue) -> String {
    value.as_bytes().iter().map(|byte| char::from(*byte)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn headers_of_connection_and_platform_are_dropped() {
        let headers = authored(&pairs(&[
            ("Host", "evil.example"),
            ("Connection", "x-secret"),
            ("Content-Length", "0"),
            ("Transfer-Encoding", "chunked"),
            ("TE", "trailers"),
            ("Upgrade", "h2c"),
            ("Proxy-Authorization", "x"),
            ("X-Chatfn-Budget-Ms", "999999"),
            ("Accept-Encoding", "gzip"),
            ("X-Name", "Jos\u{e9}"),
        ]))
        .unwrap();
        assert_eq!(headers.len(), 1);
        assert_eq!(headers["x-name"].as_bytes(), b"Jos\xe9");
        assert_eq!(to_latin1(&headers["x-name"]), "Jos\u{e9}");
    }

    #[test]
    fn what_cannot_be_sent_is_refused() {
        let reason = |name: &str, value: &str| authored(&pairs(&[(name, value)])).unwrap_err().reason();
        assert_eq!(reason("x y", "1"), "INVALID_REQUEST");
        assert_eq!(reason("", "1"), "INVALID_REQUEST");
        assert_eq!(reason("x", "1\r\nHost: evil.example"), "INVALID_REQUEST");
        assert_eq!(reason("x", "\u{20ac}"), "INVALID_REQUEST");
        assert_eq!(reason("x", &"y".repeat(MAX_HEADER_BYTES)), "REQUEST_TOO_LARGE");
        let many = vec![("x".to_owned(), String::new()); MAX_HEADERS + 1];
        assert_eq!(authored(&many).unwrap_err().reason(), "REQUEST_TOO_LARGE");
    }

    #[test]
    fn what_the_author_set_stays() {
        let (key, trace) = (Uuid::from_u128(7), TraceParent::generate());
        let mut headers =
            authored(&pairs(&[("Idempotency-Key", "mine"), ("User-Agent", "case-opener")])).unwrap();
        add_platform(&mut headers, Some(&key), trace);
        assert_eq!(headers["idempotency-key"], "mine");
        assert_eq!(headers["user-agent"], "case-opener");
        assert_eq!(headers["traceparent"], trace.as_str());
        assert_eq!(headers["accept-encoding"], "identity");

        let mut headers = HeaderMap::new();
        add_platform(&mut headers, Some(&key), trace);
        assert_eq!(headers["idempotency-key"], key.to_string());
        set_hop(&mut headers, "crm.example.com:8443", Duration::from_micros(1500)).unwrap();
        assert_eq!(headers["host"], "crm.example.com:8443");
        assert_eq!(headers["x-chatfn-budget-ms"], "1");
    }
}
