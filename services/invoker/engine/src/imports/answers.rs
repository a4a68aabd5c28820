//! Questions that the host answers at once: what is easier to do well in Rust than in the sandbox.

use url::{Url, quirks};
use wasmtime::{Caller, Linker, Result};

use super::hash::hash;
use super::{MODULE, parts, read, write, zones};
use crate::sandbox::{GuestFault, Sandbox};

// In step with guest/prelude/{40-url,65-crypto}.js and guest/modules/{intl/time-zones,luxon}.js.
const URL_PARSE: i32 = 1;
const URL_SET: i32 = 2;
const HASH: i32 = 3;
const ZONE: i32 = 4;
const ZONE_NAMES: i32 = 5;
const ZONE_OFFSET: i32 = 6;

/// The longest question about a URL. An answer takes the host several times as much memory as its question,
/// and the deadline cannot end a run in between: this keeps it below a millisecond, with what follows.
const MAX_URL_BYTES: usize = 64 << 10;

/// The longest host, with a port and who calls. To write a label of a name in ASCII takes time that grows with the square of its length.
const MAX_AUTHORITY_BYTES: usize = 1 << 10;

/// The longest question about a time zone. No name is nearly as long, and the library's refusal copies it, which neither the
/// memory limit nor the deadline bounds.
const MAX_ZONE_BYTES: usize = 256;

/// To the guest: there is no answer.
const NONE: i32 = -1;

pub(super) fn add(linker: &mut Linker<Sandbox>) -> Result<()> {
    linker.func_wrap(MODULE, "call", call)?;
    linker.func_wrap(MODULE, "call_result", call_result)?;
    Ok(())
}

fn call(mut caller: Caller<'_, Sandbox>, kind: i32, text: u32, len: u32) -> Result<i32> {
    let (memory, sandbox) = parts(&mut caller)?;
    let question = read(memory, text, len)?;
    let answer = match kind {
        URL_PARSE | URL_SET if question.len() > MAX_URL_BYTES => None,
        URL_PARSE => parse_url(question).map(String::into_bytes),
        URL_SET => set_url(question).map(String::into_bytes),
        ZONE | ZONE_OFFSET if question.len() > MAX_ZONE_BYTES => None,
        HASH => Some(hash(&mut sandbox.hashing, question)?),
        ZONE => zones::zone(question).map(String::into_bytes),
        ZONE_NAMES => Some(zones::names().into_bytes()),
        ZONE_OFFSET => zones::offset(question).map(String::into_bytes),
        _ => return Err(GuestFault("an unknown question").into()),
    };
    let Some(answer) = answer else { return Ok(NONE) };
    sandbox.answer = answer;
    i32::try_from(sandbox.answer.len()).map_err(|_| GuestFault("a question with an endless answer").into())
}

fn call_result(mut caller: Caller<'_, Sandbox>, to: u32, len: u32) -> Result<()> {
    let (memory, sandbox) = parts(&mut caller)?;
    let answer = std::mem::take(&mut sandbox.answer);
    if answer.len() != len as usize {
        return Err(GuestFault("a wrong length").into());
    }
    write(memory, to, &answer)
}

/// `[url]` or `[url, base]` to the parts of the URL.
fn parse_url(question: &[u8]) -> Option<String> {
    let texts: Vec<String> = serde_json::from_slice(question).ok()?;
    if !texts.iter().all(|text| has_short_authority(text)) {
        return None;
    }
    let url = match texts.as_slice() {
        [url] => Url::parse(url).ok()?,
        [url, base] => Url::parse(base).ok()?.join(url).ok()?,
        _ => return None,
    };
    Some(parts_of(&url))
}

/// `[href, part, value]` to the parts of the changed URL; none if the value does not fit.
fn set_url(question: &[u8]) -> Option<String> {
    let [href, part, value]: [String; 3] = serde_json::from_slice(question).ok()?;
    let is_short = match part.as_str() {
        "host" | "hostname" => value.len() <= MAX_AUTHORITY_BYTES,
        "href" => has_short_authority(&value),
        _ => true,
    };
    if !(is_short && has_short_authority(&href)) {
        return None;
    }
    let mut url = Url::parse(&href).ok()?;
    match part.as_str() {
        "href" => quirks::set_href(&mut url, &value).ok()?,
        "protocol" => quirks::set_protocol(&mut url, &value).ok()?,
        "username" => quirks::set_username(&mut url, &value).ok()?,
        "password" => quirks::set_password(&mut url, &value).ok()?,
        "host" => quirks::set_host(&mut url, &value).ok()?,
        "hostname" => quirks::set_hostname(&mut url, &value).ok()?,
        "port" => quirks::set_port(&mut url, &value).ok()?,
        "pathname" => quirks::set_pathname(&mut url, &value),
        "search" => quirks::set_search(&mut url, &value),
        "hash" => quirks::set_hash(&mut url, &value),
        _ => return None,
    }
    Some(parts_of(&url))
}

/// Whether the part of a URL that names its host, if it has one that is written in ASCII, is not too long.
fn has_short_authority(url: &str) -> bool {
    let is_slash = |c: &char| matches!(c, '/' | '\\');
    // As the standard has it: these are nowhere part of a URL, and slashes may lean either way, and be any number after a scheme.
    let text = url.trim_start_matches(|c| c <= ' ').chars().filter(|c| !matches!(c, '\t' | '\n' | '\r'));
    let is_of_scheme = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    let scheme: String = text.clone().take_while(is_of_scheme).take(MAX_AUTHORITY_BYTES).collect();
    let mut rest = text.skip(scheme.len());
    let is_special =
        ["http", "https", "ws", "wss", "ftp", "file"].iter().any(|it| scheme.eq_ignore_ascii_case(it));
    let is_named = match rest.clone().next() {
        Some(':') => is_special && rest.next().is_some(),
        // Against a base, whose scheme may be any.
        _ => scheme.is_empty() && rest.clone().take(2).filter(is_slash).count() == 2,
    };
    // Otherwise there is none, or one of another scheme, which stays as it is.
    let authority = rest.skip_while(is_slash).take_while(|c| !is_slash(c) && !matches!(c, '?' | '#'));
    !is_named || authority.map(char::len_utf8).sum::<usize>() <= MAX_AUTHORITY_BYTES
}

fn parts_of(url: &Url) -> String {
    let parts = [
        quirks::href(url),
        &quirks::origin(url),
        quirks::protocol(url),
        quirks::username(url),
        quirks::password(url),
        quirks::host(url),
        quirks::hostname(url),
        quirks::port(url),
        quirks::pathname(url),
        quirks::search(url),
        quirks::hash(url),
    ];
    serde_json::to_string(&parts).expect("strings are always JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_names_a_host_is_short() {
        let long = "x".repeat(MAX_AUTHORITY_BYTES + 1);
        for named in [
            "http://L",
            "HTTPS:L/path",
            "ws:/L",
            "wss:\\\\L",
            " \u{1}ht\ttp:\n//L?q",
            "//L",
            "\\/L#x",
            "http:///L",
            "http://user:L@host/",
        ] {
            assert!(!has_short_authority(&named.replace('L', &long)), "{named}");
            assert!(has_short_authority(&named.replace('L', "x")), "{named}");
        }
        for other in [
            "/L",
            "L",
            "L/x",
            "./L",
            "?L",
            "#L",
            "data:L",
            "other://L",
            "http://host/L",
            "http://host?L",
            "http://host#L",
            "L:L",
            "",
        ] {
            assert!(has_short_authority(&other.replace('L', &long)), "{other}");
        }
    }
}
