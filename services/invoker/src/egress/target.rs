//! Where a request goes: the URL, taken apart and checked.

use std::net::IpAddr;

use chatfn_domain::host::HostPattern;
use url::{Host, Position, Url};

use super::EgressError;

/// Longest URL.
const MAX_URL_BYTES: usize = 8 * 1024;
/// Longest URL in a record.
const MAX_RECORDED_BYTES: usize = 512;

/// A URL that may be requested as far as its form goes.
#[derive(Debug, Clone)]
pub(super) struct Target {
    url: Url,
    host: Host<String>,
    port: u16,
}

impl Target {
    /// Parses as browsers do, so that `0x7f.1`, `2130706433` and `①.example` mean here what they mean there.
    pub(super) fn parse(text: &str) -> Result<Self, EgressError> {
        if text.len() > MAX_URL_BYTES {
            return Err(EgressError::InvalidUrl(format!("it is longer than {MAX_URL_BYTES} bytes")));
        }
        Self::from_url(Url::parse(text).map_err(|error| EgressError::InvalidUrl(error.to_string()))?)
    }

    /// The target of a `Location` header in an answer from `self`.
    pub(super) fn redirected_to(&self, location: &str) -> Result<Self, EgressError> {
        if location.len() > MAX_URL_BYTES {
            return Err(EgressError::InvalidUrl(format!("it is longer than {MAX_URL_BYTES} bytes")));
        }
        Self::from_url(
            self.url
                .join(location)
                .map_err(|error| EgressError::InvalidUrl(format!("in a redirect: {error}")))?,
        )
    }

    fn from_url(url: Url) -> Result<Self, EgressError> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(EgressError::UnsupportedScheme(url.scheme().chars().take(32).collect()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(EgressError::InvalidUrl(
                "it holds a user name or password; send an Authorization header instead".to_owned(),
            ));
        }
        let host = url.host().map(|host| host.to_owned());
        let (Some(host), Some(port)) = (host, url.port_or_known_default().filter(|port| *port != 0)) else {
            return Err(EgressError::InvalidUrl("it names no host and port that can be called".to_owned()));
        };
        Ok(Self { url, host, port })
    }

    /// The first of `patterns` that names the host.
    ///
    /// # Errors
    /// None does.
    pub(super) fn check_allowed<'a>(
        &self,
        patterns: &'a [HostPattern],
    ) -> Result<&'a HostPattern, EgressError> {
        let host = self.url.host_str().unwrap_or_default();
        let mut patterns = patterns.iter();
        patterns
            .find(|pattern| pattern.matches(host, self.port))
            .ok_or_else(|| EgressError::HostNotAllowed(self.authority().trim_end_matches('.').to_owned()))
    }

    /// The address, when the host is one.
    pub(super) fn literal(&self) -> Option<IpAddr> {
        match self.host {
            Host::Ipv4(address) => Some(address.into()),
            Host::Ipv6(address) => Some(address.into()),
            Host::Domain(_) => None,
        }
    }

    /// The host's name without a trailing dot; an address without brackets.
    pub(super) fn name(&self) -> String {
        match &self.host {
            Host::Domain(name) => name.strip_suffix('.').unwrap_or(name).to_owned(),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        }
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn is_tls(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// Host and port as the `Host` header has them: the default port is left out.
    pub(super) fn authority(&self) -> &str {
        &self.url[Position::BeforeHost..Position::AfterPort]
    }

    /// Path and query, for the request line.
    pub(super) fn path_and_query(&self) -> &str {
        &self.url[Position::BeforePath..Position::AfterQuery]
    }

    /// The URL without its fragment, as `Response.url` has it.
    pub(super) fn response_url(&self) -> &str {
        &self.url[..Position::AfterQuery]
    }

    /// Same scheme, host and port.
    pub(super) fn same_origin(&self, other: &Self) -> bool {
        self.is_tls() == other.is_tls() && self.host == other.host && self.port == other.port
    }
}

/// A URL for the run's record: without user information, query and fragment, which may hold secrets, and cut to 512 bytes.
pub(super) fn recorded(text: &str) -> String {
    if text.len() > MAX_URL_BYTES {
        return "(a URL that is too long)".to_owned();
    }
    let Ok(mut url) = Url::parse(text) else { return "(not a URL)".to_owned() };
    if !matches!(url.scheme(), "http" | "https") {
        // Everything after the colon may be content, as in a data: URL.
        return format!("{}:", url.scheme().chars().take(32).collect::<String>());
    }
    // Cannot fail for http URLs.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    let mut text = url[..Position::AfterPath].to_owned();
    // What the parser gives is ASCII.
    text.truncate(MAX_RECORDED_BYTES);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Target {
        Target::parse(text).unwrap()
    }

    #[test]
    fn hosts_are_normalised_as_in_browsers() {
        for text in [
            "http://127.0.0.1/",
            "http://2130706433/",
            "http://0x7f000001/",
            "http://0177.0.0.1/",
            "http://127.1/",
            "http://127.0.0.1./",
            "http://①②⑦.0.0.1/",
            "http://%31%32%37.0.0.1/",
            "http:\\\\127.0.0.1\\",
        ] {
            assert_eq!(target(text).literal(), Some("127.0.0.1".parse().unwrap()), "{text}");
        }
        assert_eq!(target("http://BÜCHER.example./x").authority(), "xn--bcher-kva.example.");
        assert_eq!(target("http://BÜCHER.example./x").name(), "xn--bcher-kva.example");
    }

    #[test]
    fn what_a_lambda_may_not_use_is_refused() {
        let reason = |text: &str| Target::parse(text).unwrap_err().reason();
        for text in [
            "",
            "crm.example.com",
            "http://",
            "http://user@crm.example.com/",
            "http://user:password@crm.example.com/",
            "http://crm.example.com@127.0.0.1/",
            "http://crm.example.com:0/",
            "http://crm.example.com:99999/",
            "http://[::1",
            "http://1.2.3.4.5/",
        ] {
            assert_eq!(reason(text), "INVALID_URL", "{text}");
        }
        assert_eq!(reason(&format!("http://a/{}", "x".repeat(MAX_URL_BYTES))), "INVALID_URL");
        for text in
            ["file:///etc/passwd", "ftp://a.example/", "gopher://a.example/", "data:,x", "ws://a.example/"]
        {
            assert_eq!(reason(text), "UNSUPPORTED_SCHEME", "{text}");
        }
    }

    #[test]
    fn the_allow_list_sees_the_host_that_is_connected_to() {
        let hosts = ["*.tenant.example".parse().unwrap(), "crm.example.com".parse().unwrap()];
        let allowed = |text: &str| target(text).check_allowed(&hosts);
        assert_eq!(allowed("https://crm.example.com/cases?a=b"), Ok(&hosts[1]));
        assert_eq!(allowed("https://crm.example.com./"), Ok(&hosts[1]));
        assert_eq!(allowed("https://CRM.EXAMPLE.COM/"), Ok(&hosts[1]));
        assert_eq!(allowed("https://token.tenant.example/"), Ok(&hosts[0]));
        for text in [
            "https://crm.example.com:8443/",
            "https://crm.example.com.evil.example/",
            "https://evil.example/crm.example.com",
            "https://evil.example#@crm.example.com/",
            "https://evil.example\\@crm.example.com/",
        ] {
            assert_eq!(allowed(text).unwrap_err().reason(), "HOST_NOT_ALLOWED", "{text}");
        }
        assert_eq!(
            allowed("https://api.example.org:8443/x").unwrap_err().to_string(),
            "host api.example.org:8443 is not in this function's allowed_hosts; add it to settings.allowed_hosts and deploy"
        );
    }

    #[test]
    fn redirects_are_relative_to_where_they_came_from() {
        let from = target("https://crm.example.com/a/b?c");
        assert_eq!(from.redirected_to("d").unwrap().response_url(), "https://crm.example.com/a/d");
        assert_eq!(from.redirected_to("//evil.example/").unwrap().authority(), "evil.example");
        assert!(from.redirected_to("//user@crm.example.com/").is_err());
        assert!(from.same_origin(&target("https://crm.example.com:443/")));
        assert!(!from.same_origin(&target("http://crm.example.com/")));
        assert!(!from.same_origin(&target("https://crm.example.com:8443/")));
    }

    #[test]
    fn records_hold_no_secrets() {
        assert_eq!(
            recorded("https://u:p@crm.example.com/cases/7?key=s#f"),
            "https://crm.example.com/cases/7"
        );
        assert_eq!(recorded("data:text/plain,secret"), "data:");
        assert_eq!(recorded("not a url, secret"), "(not a URL)");
        assert!(recorded(&format!("http://a/{}", "x".repeat(1000))).len() <= MAX_RECORDED_BYTES);
    }
}
