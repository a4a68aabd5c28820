//! The ways in which a value is written, but for percent-encoding, which is undone before texts are searched.

use std::iter::once;

use secrecy::zeroize::Zeroizing;

use super::needles::MIN_BYTES;

/// A value's beginning that may be a host by itself. Shorter ones are words that any text may hold.
const MIN_HOST_BYTES: usize = 2 * MIN_BYTES;
/// A line of a value that is looked for by itself, for the same reason.
const MIN_LINE_BYTES: usize = 2 * MIN_BYTES;

/// The ways in which a value is written, the same one twice when they do not differ. Together they have no more than a
/// multiple of its bytes.
pub(super) fn forms(value: &str) -> impl Iterator<Item = Zeroizing<String>> {
    let json = in_json(value);
    let [console, console_quoted] = in_console(value);
    let [console_json, console_json_quoted] = in_console(&json);
    let path = value.replace('\\', "/").replace(['\t', '\r', '\n'], "");
    let [host, host_and_path] = as_host(&path);
    let whole = [
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
        // As a form, and URLSearchParams, have it.
        value.replace(' ', "+"),
    ];
    once(value.to_owned()).chain(whole).chain(lines(value).map(ToOwned::to_owned)).map(Zeroizing::new)
}

/// The lines of a value, such as a key in PEM: `console` indents each of them, in a group, and in an error in an object.
fn lines(value: &str) -> impl Iterator<Item = &str> {
    // What PEM begins and ends with is the same in all keys.
    let is_secret = |line: &&str| !(line.starts_with("-----") && line.ends_with("-----"));
    value.lines().map(str::trim).filter(|line| line.len() >= MIN_LINE_BYTES).filter(is_secret)
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
