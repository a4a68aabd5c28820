//! Who a certificate is of: a URI among its alternative names, in the form of SPIFFE, `spiffe://<trust domain>/<service>`.

use std::time::Duration;

use chatfn_domain::caller::{Caller, Service};
use rustls::pki_types::{CertificateDer, UnixTime};
use tonic::Code;
use webpki::{EndEntityCert, Error, KeyUsage};

use super::TlsError;
use crate::{ApiError, reasons, security::remaining};

/// What the other end of a connection has proved by its certificate; every call of the connection carries it.
#[derive(Clone, Debug)]
pub(crate) struct Peer(pub(crate) Option<Certified>);

/// A service, for as long as its certificate says.
#[derive(Clone, Debug)]
pub(crate) struct Certified {
    pub(crate) caller: Caller,
    /// Seconds since 1970, as the certificate has it.
    pub(crate) expires: u64,
}

impl Peer {
    /// The service of a chain that was verified, the peer's own certificate first; nobody without one.
    pub(crate) fn of(chain: Option<&[CertificateDer<'_>]>, trust_domain: &str) -> Self {
        Self(chain.and_then(|chain| {
            let certificate = chain.first()?;
            let (name, service) = service(certificate, trust_domain)?;
            Some(Certified { caller: Caller::service(&name, service), expires: expiry(certificate)? })
        }))
    }

    /// How old the connection may get that may be `age` old: its calls are refused once its certificate has expired.
    pub(crate) fn cap(&self, age: Duration) -> Duration {
        self.0.as_ref().map_or(age, |certified| certified.remaining().unwrap_or_default().min(age))
    }
}

impl Certified {
    /// For how long the certificate goes on being valid; `None` if it has expired.
    pub(crate) fn remaining(&self) -> Option<Duration> {
        remaining(self.expires)
    }
}

/// What a service is told whose certificate has expired since it connected.
pub(crate) fn expired() -> ApiError {
    ApiError::new(
        Code::Unauthenticated,
        reasons::CERTIFICATE_EXPIRED,
        "the certificate of this connection has expired; put a new one in place (--tls-cert), and call again over a new \
         connection",
    )
}

/// When a certificate expires, in seconds since 1970. The library tells it of one that has expired, as this one will have at the
/// end of time; it looks at that before anything else.
fn expiry(certificate: &CertificateDer<'_>) -> Option<u64> {
    let end_of_time = UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX));
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    match certificate.verify_for_usage(&[], &[], &[], end_of_time, KeyUsage::client_auth(), None, None) {
        Err(Error::CertExpired { not_after, .. }) => Some(not_after.as_secs()),
        _ => None,
    }
}

/// The one service that a certificate names. One that names several is nobody's: it would be anybody's.
fn service(certificate: &CertificateDer<'_>, trust_domain: &str) -> Option<(String, Service)> {
    let names = names(certificate, trust_domain);
    let mut services =
        names.into_iter().filter_map(|(name, path)| Some((name, path.parse::<Service>().ok()?)));
    let first = services.next()?;
    services.next().is_none().then_some(first)
}

/// The URIs of the trust domain that a certificate has, each with what follows the domain.
fn names(certificate: &CertificateDer<'_>, trust_domain: &str) -> Vec<(String, String)> {
    let Ok(certificate) = EndEntityCert::try_from(certificate) else { return Vec::new() };
    let names = certificate.valid_uri_names().filter_map(|name| {
        let path = name.strip_prefix("spiffe://")?.strip_prefix(trust_domain)?.strip_prefix('/')?;
        Some((name.to_owned(), path.to_owned()))
    });
    names.collect()
}

/// Checks that a certificate is `own`'s: others would refuse what it is presented for, one call at a time.
pub(super) fn require(
    certificate: &CertificateDer<'_>,
    trust_domain: &str,
    own: Service,
) -> Result<(), TlsError> {
    match service(certificate, trust_domain) {
        Some((_, service)) if service == own => Ok(()),
        _ => {
            let found: Vec<_> = names(certificate, trust_domain).into_iter().map(|(name, _)| name).collect();
            Err(TlsError::Name {
                expected: format!("spiffe://{trust_domain}/{own}"),
                found: if found.is_empty() { "none".to_owned() } else { found.join(", ") },
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    fn certificate(names: &[&str]) -> CertificateDer<'static> {
        certificate_until(names, None)
    }

    fn certificate_until(names: &[&str], end: Option<SystemTime>) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(["registry".to_owned()]).expect("valid names");
        let uris = names.iter().map(|name| SanType::URI((*name).try_into().expect("ASCII")));
        params.subject_alt_names.extend(uris);
        if let Some(end) = end {
            params.not_after = end.into();
        }
        params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate").der().clone()
    }

    #[test]
    fn one_name_of_the_trust_domain_is_an_identity() {
        for (names, expected) in [
            (&["spiffe://chatfn/invoker"][..], Some(Service::Invoker)),
            (&["spiffe://chatfn/event-ingest", "https://example.com"], Some(Service::EventIngest)),
            (&["spiffe://chatfn/registry", "spiffe://other/invoker"], Some(Service::Registry)),
            (&["spiffe://chatfn/registry", "spiffe://chatfn/invoker"], None),
            (&["spiffe://chatfn/Registry"], None),
            (&["spiffe://chatfn/registry/"], None),
            (&["spiffe://chatfn2/registry"], None),
            (&["spiffe://chatfn.evil/registry"], None),
            (&["https://chatfn/registry"], None),
            (&[], None),
        ] {
            let certificate = certificate(names);
            assert_eq!(service(&certificate, "chatfn").map(|(_, service)| service), expected, "{names:?}");
        }
        assert!(Peer::of(None, "chatfn").0.is_none() && Peer::of(Some(&[]), "chatfn").0.is_none());
    }

    #[test]
    fn a_service_is_known_until_its_certificate_expires() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let peer = |expires: u64| {
            let end = UNIX_EPOCH + Duration::from_secs(expires);
            Peer::of(Some(&[certificate_until(&["spiffe://chatfn/invoker"], Some(end))]), "chatfn")
        };
        let (hour, day) = (Duration::from_secs(3_600), Duration::from_secs(86_400));
        let soon = peer(now + 3_600);
        assert_eq!(soon.0.as_ref().expect("a service").expires, now + 3_600);
        assert!(soon.0.as_ref().and_then(Certified::remaining).is_some_and(|left| left <= hour * 2));
        assert!(soon.cap(day) < hour * 2 && soon.cap(Duration::from_secs(1)) == Duration::from_secs(1));
        // Far beyond the two digits of a year that certificates began with.
        assert_eq!(peer(now + 100 * 365 * 86_400).cap(day), day);
        let late = peer(now - 1);
        assert!(late.0.as_ref().expect("it was one").remaining().is_none());
        assert_eq!((late.cap(day), Peer(None).cap(day)), (Duration::ZERO, day));
    }

    #[test]
    fn a_service_does_not_start_as_another_one() {
        let invoker = certificate(&["spiffe://chatfn/invoker"]);
        assert!(require(&invoker, "chatfn", Service::Invoker).is_ok());
        for (names, found) in [
            (&["spiffe://chatfn/invoker"][..], "it has spiffe://chatfn/invoker"),
            (
                &["spiffe://chatfn/registry", "spiffe://chatfn/invoker"],
                "it has spiffe://chatfn/registry, spiffe://chatfn/invoker",
            ),
            (&["spiffe://chatfn/Registry"], "it has spiffe://chatfn/Registry"),
            (&["spiffe://other/registry"], "it has none"),
        ] {
            let certificate = certificate(names);
            let error =
                require(&certificate, "chatfn", Service::Registry).expect_err("another's").to_string();
            assert!(error.contains("the URI spiffe://chatfn/registry") && error.ends_with(found), "{error}");
        }
    }
}
