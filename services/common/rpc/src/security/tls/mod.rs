//! TLS between services and of their callers: certificates from files, TLS 1.3 and HTTP/2 alone.
//!
//! Servers ask for a client's certificate and do not insist: people send a token instead. What is presented must be of
//! the cluster's authorities, though, and its name says which service it is.

mod peer;

use std::sync::Arc;

use chatfn_domain::caller::Service;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
    server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier},
    version::TLS13,
};
use tokio::sync::watch;

#[cfg(test)]
pub(crate) use self::peer::Certified;
pub(crate) use self::peer::{Peer, expired};

/// HTTP/2, as ALPN names it.
pub(crate) const H2: &[u8] = b"h2";

/// Why the TLS files cannot be used. Repeats nothing of what was read.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is not what it should be.
    #[error("the file of --{flag} must hold {expected} in PEM")]
    Pem {
        /// The flag that names it.
        flag: &'static str,
        /// What it should hold.
        expected: &'static str,
        /// What is wrong.
        #[source]
        source: Option<pem::Error>,
    },
    /// Certificate and key do not fit each other, or are of a kind that is not known.
    #[error("--tls-cert and --tls-key do not belong together, or are of an unknown kind")]
    Pair(#[source] rustls::Error),
    /// An authority's certificate is malformed.
    #[error("a certificate of --tls-ca cannot be read")]
    Authority(#[source] rustls::Error),
    /// The authorities cannot be used to check clients.
    #[error("the certificates of --tls-ca cannot be used")]
    Authorities(#[source] VerifierBuilderError),
    /// The certificate does not name the service that uses it.
    #[error(
        "the certificate of --tls-cert must have the URI {expected} among its alternative names, and that of no other \
         service; of the trust domain it has {found}"
    )]
    Name {
        /// The name of this service.
        expected: String,
        /// The URIs of the trust domain that the certificate has.
        found: String,
    },
}

/// How this process speaks TLS with one set of files.
pub(crate) struct Tls {
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
    /// To read the names of peers with.
    pub(crate) trust_domain: String,
}

impl Tls {
    /// From the contents of certificate, key and authorities; `own` is the service that they are for.
    pub(super) fn load(
        [cert, key, ca]: [&[u8]; 3],
        trust_domain: &str,
        own: Service,
    ) -> Result<Self, TlsError> {
        let chain = certificates("tls-cert", cert)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|source| TlsError::Pem {
            flag: "tls-key",
            expected: "a private key",
            source: Some(source),
        })?;
        peer::require(&chain[0], trust_domain, own)?;
        let (roots, provider) = (Arc::new(authorities(ca)?), Arc::new(ring::default_provider()));
        Ok(Self {
            server: Arc::new(server(&roots, &provider, chain.clone(), key.clone_key())?),
            client: Arc::new(client(&roots, &provider, Some((chain, key)))?),
            trust_domain: trust_domain.to_owned(),
        })
    }
}

/// How a client speaks TLS.
#[derive(Clone, Debug)]
pub struct ClientTls(Source);

#[derive(Clone, Debug)]
enum Source {
    /// With a service's files, as they are now.
    Following(watch::Receiver<Arc<Tls>>),
    Fixed(Arc<ClientConfig>),
}

impl ClientTls {
    pub(crate) fn following(tls: watch::Receiver<Arc<Tls>>) -> Self {
        Self(Source::Following(tls))
    }

    /// Without a certificate of its own.
    pub(crate) fn trusting(ca: &[u8]) -> Result<Self, TlsError> {
        let (roots, provider) = (Arc::new(authorities(ca)?), Arc::new(ring::default_provider()));
        Ok(Self(Source::Fixed(Arc::new(client(&roots, &provider, None)?))))
    }

    /// For the next connection.
    pub(crate) fn current(&self) -> Arc<ClientConfig> {
        match &self.0 {
            Source::Following(tls) => Arc::clone(&tls.borrow().client),
            Source::Fixed(config) => Arc::clone(config),
        }
    }
}

fn authorities(pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in certificates("tls-ca", pem)? {
        roots.add(authority).map_err(TlsError::Authority)?;
    }
    Ok(roots)
}

fn certificates(flag: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let malformed = |source| TlsError::Pem { flag, expected: "one certificate or more", source };
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|source| malformed(Some(source)))?;
    if found.is_empty() { Err(malformed(None)) } else { Ok(found) }
}

// Sessions are not resumed, by either side: connections live long, and a resumed one would carry the identity of a
// certificate that was checked with authorities or at a time that have passed.

fn server(
    roots: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, TlsError> {
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider))
        .allow_unauthenticated()
        .build()
        .map_err(TlsError::Authorities)?;
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Pair)?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)
        .map_err(TlsError::Pair)?;
    config.alpn_protocols = vec![H2.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn client(
    roots: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
    own: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
) -> Result<ClientConfig, TlsError> {
    let config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Pair)?
        .with_root_certificates(Arc::clone(roots));
    let mut config = match own {
        Some((chain, key)) => config.with_client_auth_cert(chain, key).map_err(TlsError::Pair)?,
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![H2.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}
