//! How requests and results cross between guest and host: four bytes with the length of a JSON header,
//! little endian, then the header, then a body. In step with guest/prelude/30-ops.js and the files that
//! start operations: 60-fetch.js and the toolbelt's.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::host::{
    FetchRequest, FunctionFailure, FunctionOutcome, FunctionRequest, HostOp, OpError, OpResult, Redirect,
    SecretRequest, ServiceLocation,
};

const FETCH: i32 = 1;
const READ_SECRET: i32 = 2;
const INVOKE_FUNCTION: i32 = 3;
const LOCATE_SERVICE: i32 = 4;

/// The longest header, as JSON: of a fetch its URL and headers. Parsed, it takes several times as much.
const HEADER_BYTES: usize = 64 << 10;
/// The longest payload of another function that is handed over at all; the host may allow less.
const PAYLOAD_BYTES: usize = 1 << 20;

#[derive(Deserialize)]
struct FetchHeader {
    url: String,
    method: String,
    #[serde(default)]
    redirect: Redirect,
    #[serde(default)]
    headers: Vec<(String, String)>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SecretHeader {
    key: String,
    use_cache: bool,
    timeout_ms: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FunctionHeader {
    function: String,
    ordinal: u32,
    headers: Vec<(String, String)>,
    timeout_ms: u32,
}

#[derive(Deserialize)]
struct ServiceHeader {
    service: String,
}

#[derive(Serialize)]
struct Nothing {}

#[derive(Serialize)]
struct FailureHeader<'a> {
    failure: FailureFields<'a>,
}

#[derive(Serialize)]
struct FailureFields<'a> {
    status: u16,
    reason: &'a str,
    name: &'a str,
    message: &'a str,
}

#[derive(Serialize)]
struct LocationHeader<'a> {
    url: &'a str,
    account: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResponseHeader<'a> {
    status: u16,
    status_text: &'a str,
    url: &'a str,
    redirected: bool,
    headers: &'a [(String, String)],
}

#[derive(Serialize)]
struct ErrorHeader<'a> {
    error: ErrorFields<'a>,
}

#[derive(Serialize)]
struct ErrorFields<'a> {
    name: Option<&'a str>,
    code: Option<&'a str>,
    message: &'a str,
}

/// Reads a request, or `None` if it is not one.
pub(crate) fn decode(kind: i32, request: &[u8]) -> Option<HostOp> {
    let (length, rest) = request.split_first_chunk::<4>()?;
    let (header, body) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    if header.len() > HEADER_BYTES {
        return None;
    }
    match kind {
        FETCH => {
            let FetchHeader { url, method, redirect, headers } = serde_json::from_slice(header).ok()?;
            let body = (!body.is_empty()).then(|| Bytes::copy_from_slice(body));
            Some(HostOp::Fetch(FetchRequest { method, url, headers, redirect, body }))
        }
        READ_SECRET => {
            let SecretHeader { key, use_cache, timeout_ms } = serde_json::from_slice(header).ok()?;
            let timeout = Duration::from_millis(timeout_ms.into());
            Some(HostOp::ReadSecret(SecretRequest { key, use_cache, timeout }))
        }
        INVOKE_FUNCTION if body.len() <= PAYLOAD_BYTES => {
            let FunctionHeader { function, ordinal, headers, timeout_ms } =
                serde_json::from_slice(header).ok()?;
            let timeout = Duration::from_millis(timeout_ms.into());
            let payload_json = Bytes::copy_from_slice(body);
            Some(HostOp::InvokeFunction(FunctionRequest {
                function,
                ordinal,
                headers,
                payload_json,
                timeout,
            }))
        }
        LOCATE_SERVICE => {
            let ServiceHeader { service } = serde_json::from_slice(header).ok()?;
            Some(HostOp::LocateService(service))
        }
        _ => None,
    }
}

/// Writes a result.
pub(crate) fn encode(result: Result<OpResult, OpError>) -> Vec<u8> {
    match result {
        Ok(OpResult::Fetch(response)) => join(
            &ResponseHeader {
                status: response.status,
                status_text: &response.status_text,
                url: &response.url,
                redirected: response.redirected,
                headers: &response.headers,
            },
            &response.body,
        ),
        Ok(OpResult::Secret(secret)) => join(&Nothing {}, secret.0.as_bytes()),
        Ok(OpResult::Function(FunctionOutcome::Returned { json })) => join(&Nothing {}, json.as_bytes()),
        Ok(OpResult::Function(FunctionOutcome::Failed(failure))) => {
            let FunctionFailure { status, reason, name, message } = &failure;
            let failure = FailureFields { status: *status, reason, name, message };
            join(&FailureHeader { failure }, &[])
        }
        Ok(OpResult::Service(ServiceLocation { url, account })) => {
            join(&LocationHeader { url: &url, account: &account }, &[])
        }
        Err(OpError { name, code, message }) => {
            let error = ErrorFields { name: name.as_deref(), code: code.as_deref(), message: &message };
            join(&ErrorHeader { error }, &[])
        }
    }
}

fn join(header: &impl Serialize, body: &[u8]) -> Vec<u8> {
    let header = serde_json::to_vec(header).expect("strings and numbers are always JSON");
    let length = u32::try_from(header.len()).expect("a header is smaller than 4 GiB");
    let mut bytes = Vec::with_capacity(4 + header.len() + body.len());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&header);
    bytes.extend_from_slice(body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_well_formed_and_nothing_else() {
        let header = br#"{"url":"https://a.test/","method":"POST","headers":[["a","b"]]}"#;
        let mut request = u32::try_from(header.len()).expect("small").to_le_bytes().to_vec();
        request.extend_from_slice(header);
        request.extend_from_slice(b"body");
        let Some(HostOp::Fetch(fetch)) = decode(FETCH, &request) else { panic!("not read") };
        assert_eq!(fetch.headers, [("a".to_owned(), "b".to_owned())]);
        assert_eq!(fetch.body.as_deref(), Some(&b"body"[..]));

        assert!(decode(99, &request).is_none());
        for other in [READ_SECRET, INVOKE_FUNCTION, LOCATE_SERVICE] {
            assert!(decode(other, &request).is_none(), "the header of another operation");
        }
        for cut in 0..4 + header.len() {
            assert!(decode(FETCH, &request[..cut]).is_none());
        }
        assert!(decode(FETCH, &[255, 255, 255, 255, 1]).is_none());
    }
}
