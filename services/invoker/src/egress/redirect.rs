//! Redirects, after the fetch standard.

use bytes::Bytes;
use chatfn_engine::Redirect;
use http::{HeaderMap, Method, StatusCode, header};

use super::{EgressError, headers, target::Target};

/// Redirects that one call follows. Browsers follow 20; no API needs 10.
pub const MAX_REDIRECTS: usize = 10;

/// One request of a call.
#[derive(Debug, Clone)]
pub(super) struct Hop {
    pub(super) target: Target,
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Hop {
    /// Turns into the request that an answer asks for; `false` when the answer is the call's own.
    pub(super) fn redirect(
        &mut self,
        mode: Redirect,
        status: StatusCode,
        answer: &HeaderMap,
    ) -> Result<bool, EgressError> {
        if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) || mode == Redirect::Manual {
            return Ok(false);
        }
        if mode == Redirect::Error {
            return Err(EgressError::RedirectRefused(format!(
                "the answer is a redirect ({}) and the call said redirect: \"error\"",
                status.as_u16()
            )));
        }
        let Some(location) = answer.get(header::LOCATION) else { return Ok(false) };
        let next = self.target.redirected_to(&headers::to_latin1(location))?;
        let becomes_get = match status.as_u16() {
            301 | 302 => self.method == Method::POST,
            303 => self.method != Method::GET && self.method != Method::HEAD,
            _ => false,
        };
        if becomes_get {
            self.method = Method::GET;
            self.body = Bytes::new();
            headers::drop_body(&mut self.headers);
        }
        if !self.target.same_origin(&next) {
            headers::drop_credentials(&mut self.headers);
        }
        self.target = next;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(method: &str) -> Hop {
        let pairs = [
            ("authorization", "secret"),
            ("cookie", "secret"),
            ("content-type", "a/b"),
            ("idempotency-key", "k"),
        ];
        let pairs: Vec<_> =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Hop {
            target: Target::parse("https://a.example/x").unwrap(),
            method: method.parse().unwrap(),
            headers: headers::authored(&pairs).unwrap(),
            body: Bytes::from_static(b"body"),
        }
    }

    fn redirected(method: &str, status: u16, location: &str) -> Hop {
        let mut hop = hop(method);
        let answer = HeaderMap::from_iter([(header::LOCATION, location.parse().unwrap())]);
        assert!(hop.redirect(Redirect::Follow, status.try_into().unwrap(), &answer).unwrap());
        hop
    }

    #[test]
    fn methods_are_rewritten_as_fetch_does() {
        for (method, status, expected) in [
            ("POST", 301, "GET"),
            ("POST", 302, "GET"),
            ("POST", 303, "GET"),
            ("POST", 307, "POST"),
            ("POST", 308, "POST"),
            ("PUT", 301, "PUT"),
            ("PUT", 302, "PUT"),
            ("PUT", 303, "GET"),
            ("DELETE", 303, "GET"),
            ("HEAD", 303, "HEAD"),
            ("GET", 302, "GET"),
        ] {
            let hop = redirected(method, status, "/y");
            assert_eq!(hop.method, expected, "{method} {status}");
            let keeps_body = hop.method == method;
            assert_eq!(hop.body.is_empty(), !keeps_body, "{method} {status}");
            assert_eq!(hop.headers.contains_key("content-type"), keeps_body);
            assert_eq!(hop.headers.contains_key("idempotency-key"), keeps_body);
        }
    }

    #[test]
    fn credentials_stay_with_their_origin() {
        assert!(redirected("GET", 302, "/y").headers.contains_key("authorization"));
        for other in ["https://b.example/", "http://a.example/", "https://a.example:8443/"] {
            let hop = redirected("GET", 307, other);
            assert!(!hop.headers.contains_key("authorization"), "{other}");
            assert!(!hop.headers.contains_key("cookie"), "{other}");
            assert_eq!(hop.headers["content-type"], "a/b");
        }
    }

    #[test]
    fn only_redirects_with_a_location_are_followed() {
        let followed = |mode, status: u16, answer: &HeaderMap| {
            hop("GET").redirect(mode, status.try_into().unwrap(), answer)
        };
        let to = |location: &str| HeaderMap::from_iter([(header::LOCATION, location.parse().unwrap())]);
        assert_eq!(followed(Redirect::Follow, 304, &to("/y")), Ok(false));
        assert_eq!(followed(Redirect::Follow, 200, &to("/y")), Ok(false));
        assert_eq!(followed(Redirect::Follow, 302, &HeaderMap::new()), Ok(false));
        assert_eq!(followed(Redirect::Manual, 302, &to("/y")), Ok(false));
        let reason = |mode, location: &str| followed(mode, 302, &to(location)).unwrap_err().reason();
        assert_eq!(reason(Redirect::Error, "/y"), "REDIRECT_REFUSED");
        assert_eq!(reason(Redirect::Follow, "file:///etc/passwd"), "UNSUPPORTED_SCHEME");
        assert_eq!(reason(Redirect::Follow, "https://u:p@a.example/"), "INVALID_URL");
    }
}
