//! The ways in which a value is written.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::zeroize::Zeroizing;
use url::form_urlencoded;

use super::needles::MIN_BYTES;

/// What `encodeURIComponent` encodes.
const URI_COMPONENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'!')
    .remove(b'~')
    .remove(b'*')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')');
/// A value's beginning that may be a host by itself. Shorter ones are words that any text may hold.
const MIN_HOST_BYTES: usize = 2 * MIN_BYTES;

/// The ways in which a value is written, the same one twice when they do not differ.
pub(super) fn forms(value: &str) -> [Zeroizing<String>; 12] {
    let json = in_json(value);
    let [console, console_quoted] = in_console(value);
    let [console_json, console_json_quoted] = in_console(&json);
    let path = value.replace('\\', "/").replace(['\t', '\r', '\n'], "");
    let [host, host_and_path] = as_host(&path);
    [
        value.to_owned(),
        in_json(&json),
        json,
        console,
        console_quoted,
        console_json,
        console_json_quoted,
        host,
        host_and_path,
        // As the path of a URL has it.
        path,
        utf8_percent_encode(value, URI_COMPONENT).to_string(),
        form_urlencoded::byte_serialize(value.as_bytes()).collect(),
    ]
    .map(Zeroizing::new)
}

/// Where a URL's host should be, as in `https://${token}/x`: a host is in lower case, and ends where a path begins.
fn as_host(path: &str) -> [String; 2] {
    let end = path.find(['/', '?', '#', ':']).unwrap_or(path.len());
    let host = path[..end].to_ascii_lowercase();
    let host_and_path = format!("{host}{}", &path[end..]);
    let alone = if host.len() >= MIN_HOST_BYTES { host } else { String::new() };
    [alone, host_and_path]
}

/// Inside of a JSON string.
fn in_json(text: &str) -> String {
    let quoted = quote(text);
    quoted[1..quoted.len() - 1].to_owned()
}

/// Inside of a string that `console` shows in an object, between double or single quotes.
fn in_console(text: &str) -> [String; 2] {
    let shown = in_json(text).replace("\\\"", "\"");
    [shown.replace('\'', "\\'"), shown]
}

/// As a JSON string.
pub(super) fn quote(text: &str) -> String {
    serde_json::to_string(text).expect("a string is JSON")
}
