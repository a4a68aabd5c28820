//! Who a certificate is of: a URI among its alternative names, in the form of SPIFFE, `spiffe://<trust domain>/<service>`.

use chatfn_domain::caller::{Caller, Service};
use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

use super::TlsError;

/// What the other end of a connection has proved by its certificate; every call of the connection carries it.
#[derive(Clone, Debug)]
pub(crate) struct Peer(pub(crate) Option<Caller>);

impl Peer {
    /// The service of a chain that was verified, the peer's own certificate first; nobody without one.
    pub(crate) fn of(chain: Option<&[CertificateDer<'_>]>, trust_domain: &str) -> Self {
        let service = chain.and_then(|chain| service(chain.first()?, trust_domain));
        Self(service.map(|(name, service)| Caller::service(&name, service)))
    }
}

/// The one service that a certificate names. One that names several is nobody's: it would be anybody's.
fn service(certificate: &CertificateDer<'_>, trust_domain: &str) -> Option<(String, Service)> {
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    let mut services = certificate.valid_uri_names().filter_map(|name| {
        let path = name.strip_prefix("spiffe://")?.strip_prefix(trust_domain)?.strip_prefix('/')?;
        Some((name.to_owned(), path.parse::<Service>().ok()?))
    });
    let first = services.next()?;
    services.next().is_none().then_some(first)
}

/// Checks that a certificate is `own`'s: others would refuse what it is presented for, one call at a time.
pub(super) fn require(
    certificate: &CertificateDer<'_>,
    trust_domain: &str,
    own: Service,
) -> Result<(), TlsError> {
    match service(certificate, trust_domain) {
        Some((_, service)) if service == own => Ok(()),
        found => Err(TlsError::Name {
            expected: format!("spiffe://{trust_domain}/{own}"),
            found: found.map_or_else(|| "none".to_owned(), |(name, _)| name),
        }),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    fn certificate(names: &[&str]) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(["registry".to_owned()]).expect("valid names");
        let uris = names.iter().map(|name| SanType::URI((*name).try_into().expect("ASCII")));
        params.subject_alt_names.extend(uris);
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
    fn a_service_does_not_start_as_another_one() {
        let invoker = certificate(&["spiffe://chatfn/invoker"]);
        assert!(require(&invoker, "chatfn", Service::Invoker).is_ok());
        let error = require(&invoker, "chatfn", Service::Registry).expect_err("another's").to_string();
        assert!(
            error.contains("spiffe://chatfn/registry") && error.contains("spiffe://chatfn/invoker"),
            "{error}"
        );
    }
}
