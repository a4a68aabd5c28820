//! Where the chat platform's own services are, for the toolbelt's `LpClient`.

use std::str::FromStr;

use chatfn_domain::{
    name::AccountId,
    reasons::{Reason, runs},
};
use url::Url;

/// An address with places for the service and the account: `https://{service}.example.com/{account}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceUrl(String);

/// A text that is no [`ServiceUrl`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be an http or https URL without user, query and fragment, in which {{service}} and {{account}} may stand for the \
     service and the account, such as https://{{service}}.example.com"
)]
pub struct ServiceUrlError;

/// Why a service has no address. The text is for the author of the lambda.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LocateError {
    /// The operator has set none.
    #[error(
        "LpClient has no address to call: an operator sets it for the invoker, with --lp-base-url; call a host of \
         your own with fetch"
    )]
    NotSet,
    /// The name cannot be part of an address.
    #[error("the name of a service has 1 to 63 letters and digits, such as msgHist")]
    InvalidName,
}

impl LocateError {
    /// The stable reason, which guest/prelude/88-toolbelt-lp.js translates.
    pub(crate) fn reason(self) -> Reason {
        match self {
            Self::NotSet => runs::SERVICE_URL_NOT_SET,
            Self::InvalidName => runs::SERVICE_NAME_INVALID,
        }
    }
}

impl ServiceUrl {
    /// The address of a service for an account, without a slash at the end.
    ///
    /// # Errors
    /// The name could change what else the address says.
    pub(crate) fn locate(&self, service: &str, account: &AccountId) -> Result<String, LocateError> {
        let is_name =
            (1..=63).contains(&service.len()) && service.bytes().all(|it| it.is_ascii_alphanumeric());
        if !is_name {
            return Err(LocateError::InvalidName);
        }
        Ok(self.0.replace("{service}", service).replace("{account}", account.as_str()))
    }
}

impl FromStr for ServiceUrl {
    type Err = ServiceUrlError;

    fn from_str(text: &str) -> Result<Self, ServiceUrlError> {
        let example = text.replace("{service}", "service").replace("{account}", "account");
        let url = Url::parse(&example).map_err(|_| ServiceUrlError)?;
        let is_plain = matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
            && !example.contains(['{', '}']);
        if is_plain { Ok(Self(text.trim_end_matches('/').to_owned())) } else { Err(ServiceUrlError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_filled_in() {
        let account = "acme".parse().unwrap();
        let locate = |url: &str, service| url.parse::<ServiceUrl>().unwrap().locate(service, &account);
        let expected = "https://msgHist.lp.example/v1/acme".to_owned();
        assert_eq!(locate("https://{service}.lp.example/v1/{account}/", "msgHist"), Ok(expected));
        assert_eq!(locate("http://127.0.0.1:8080", "msgHist"), Ok("http://127.0.0.1:8080".to_owned()));
        for service in ["", "evil.example/", "a.b", "a/b", "a@b", "{account}", "ä"] {
            assert_eq!(
                locate("https://{service}.lp.example", service),
                Err(LocateError::InvalidName),
                "{service}"
            );
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "lp.example",
            "ftp://lp.example",
            "https://u@lp.example",
            "https://lp.example/?a",
            "https://{host}",
        ] {
            assert_eq!(text.parse::<ServiceUrl>(), Err(ServiceUrlError), "{text}");
        }
    }
}
