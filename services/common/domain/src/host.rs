//! Which hosts a lambda may call.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

/// An entry of a function's allow-list: `crm.example.com`, `*.example.com`, `crm.example.com:8443`,
/// `203.0.113.7`, `[2001:db8::1]:8080`.
///
/// The wildcard is one leading label and stands for one or more labels: `*.example.com` matches
/// `a.example.com` and `a.b.example.com`, not `example.com`. Without a port, the default ports of
/// http and https match (80, 443). Addresses must be written out: a name never matches one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPattern {
    host: PatternHost,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum PatternHost {
    Address(IpAddr),
    /// Lower case, without a trailing dot.
    Name(String),
    /// What comes after the wildcard and its dot, likewise.
    NamesUnder(String),
}

/// An entry that does not parse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be a host such as crm.example.com, *.example.com or crm.example.com:8443, without scheme and path"
)]
pub struct HostPatternError;

impl HostPattern {
    /// Whether a call to `host` at `port` is allowed. `host` is as a URL parser gives it: lower case, IDNs
    /// in punycode, IPv4 addresses in dotted form; IPv6 addresses with or without brackets.
    pub fn matches(&self, host: &str, port: u16) -> bool {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let host = host.strip_suffix('.').unwrap_or(host);
        let port_matches = match self.port {
            Some(wanted) => wanted == port,
            None => port == 80 || port == 443,
        };
        // Addresses have several spellings, of which a URL parser and `Display` choose different ones.
        let address = host.parse::<IpAddr>().ok();
        let host_matches = match &self.host {
            PatternHost::Address(wanted) => address == Some(*wanted),
            PatternHost::Name(wanted) => host == wanted,
            PatternHost::NamesUnder(parent) => {
                let labels = host.strip_suffix(parent.as_str()).and_then(|rest| rest.strip_suffix('.'));
                address.is_none() && labels.is_some_and(|labels| !labels.is_empty())
            }
        };
        port_matches && host_matches
    }
}

impl FromStr for HostPattern {
    type Err = HostPatternError;

    fn from_str(text: &str) -> Result<Self, HostPatternError> {
        let (host, port) = split_port(text).ok_or(HostPatternError)?;
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(Self { host: PatternHost::Address(address), port });
        }
        let (wildcard, host) = match host.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, host),
        };
        let host = host.to_ascii_lowercase();
        // A wildcard over a whole top-level domain would allow almost anyone to register a match.
        let enough_labels = !wildcard || host.contains('.');
        if host.len() <= 253 && enough_labels && host.split('.').all(is_label) && !looks_like_ipv4(&host) {
            let host = if wildcard { PatternHost::NamesUnder(host) } else { PatternHost::Name(host) };
            Ok(Self { host, port })
        } else {
            Err(HostPatternError)
        }
    }
}

fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']')?;
        let port = match rest.strip_prefix(':') {
            Some(port) => Some(port.parse().ok()?),
            None if rest.is_empty() => None,
            None => return None,
        };
        return address.contains(':').then_some((address, port));
    }
    match text.split_once(':') {
        Some((_, port)) if port.contains(':') => Some((text, None)),
        Some((host, port)) => Some((host, Some(port.parse().ok().filter(|port| *port != 0)?))),
        None => Some((text, None)),
    }
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// `0x7f.1` and `2130706433` are addresses to a URL parser; as an entry they would never match.
fn looks_like_ipv4(host: &str) -> bool {
    host.rsplit('.')
        .next()
        .is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x"))
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.host, self.port) {
            (PatternHost::Address(IpAddr::V6(address)), Some(_)) => write!(f, "[{address}]"),
            (PatternHost::Address(address), _) => write!(f, "{address}"),
            (PatternHost::Name(name), _) => f.write_str(name),
            (PatternHost::NamesUnder(parent), _) => write!(f, "*.{parent}"),
        }?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl TryFrom<String> for HostPattern {
    type Error = HostPatternError;

    fn try_from(text: String) -> Result<Self, HostPatternError> {
        text.parse()
    }
}

impl From<HostPattern> for String {
    fn from(pattern: HostPattern) -> Self {
        pattern.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> HostPattern {
        text.parse().unwrap()
    }

    #[test]
    fn exact_hosts_match_only_themselves_on_default_ports() {
        let crm = pattern("CRM.example.com");
        assert!(crm.matches("crm.example.com", 443));
        assert!(crm.matches("crm.example.com", 80));
        assert!(crm.matches("crm.example.com.", 443));
        assert!(!crm.matches("crm.example.com", 8443));
        assert!(!crm.matches("a.crm.example.com", 443));
        assert!(!crm.matches("crm.example.com.evil.test", 443));
    }

    #[test]
    fn a_wildcard_stands_for_at_least_one_label() {
        let any = pattern("*.example.com");
        assert!(any.matches("a.example.com", 443));
        assert!(any.matches("a.b.example.com", 443));
        assert!(!any.matches("example.com", 443));
        assert!(!any.matches("evilexample.com", 443));
        assert!(!any.matches(".example.com", 443));
    }

    #[test]
    fn a_port_must_be_met() {
        let odd = pattern("127.0.0.1:8080");
        assert!(odd.matches("127.0.0.1", 8080));
        assert!(!odd.matches("127.0.0.1", 80));
        assert!(pattern("[::1]:8080").matches("[::1]", 8080));
        assert!(pattern("2001:db8::1").matches("2001:db8::1", 443));
    }

    #[test]
    fn an_address_is_the_same_however_it_is_written() {
        // As an author writes it, and as a URL parser does.
        for (entry, host) in [
            ("[::ffff:1.2.3.4]", "[::ffff:102:304]"),
            ("::ffff:102:304", "[::ffff:102:304]"),
            ("[64:ff9b::1.2.3.4]", "[64:ff9b::102:304]"),
            ("2001:DB8:0:0:0:0:0:1", "[2001:db8::1]"),
        ] {
            assert!(pattern(entry).matches(host, 443), "{entry}");
        }
        assert!(!pattern("[::ffff:1.2.3.4]").matches("1.2.3.4", 443), "another address");
        assert!(!pattern("1.2.3.4").matches("[::ffff:102:304]", 443));
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for bad in [
            "",
            "*",
            "*.com",
            "*.*.example.com",
            "a.*.com",
            "http://a.com",
            "a.com/",
            "a..com",
            "-a.com",
            "a.com:0",
            "a.com:x",
            "a b.com",
            "0x7f.1",
            "2130706433",
            "1.2.3",
            "[::1",
            "[a.com]",
            "u@a.com",
            "ä.com",
        ] {
            assert!(bad.parse::<HostPattern>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn patterns_print_as_they_parse() {
        for text in
            ["crm.example.com", "*.example.com:8443", "203.0.113.7", "2001:db8::1", "[2001:db8::1]:81"]
        {
            assert_eq!(pattern(text).to_string(), text);
        }
    }
}
