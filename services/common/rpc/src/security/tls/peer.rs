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
