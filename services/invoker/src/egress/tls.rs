//! TLS towards the servers that lambdas call.

use std::{path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::ring,
    pki_types::{CertificateDer, pem, pem::PemObject as _},
};

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// The file of extra authorities cannot be read.
    #[error("the file of certificate authorities {file} cannot be read; it must hold PEM certificates")]
    CaFile {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        #[source]
        source: pem::Error,
    },
    /// A certificate in that file is not one.
    #[error("the file of certificate authorities {file} holds something that is no certificate")]
    Certificate {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        #[source]
        source: rustls::Error,
    },
    /// The file holds none.
    #[error("the file of certificate authorities {0} holds no certificate")]
    Empty(PathBuf),
    /// rustls refused its own defaults.
    #[error("TLS cannot be set up")]
    Protocols(#[from] rustls::Error),
}

/// Trusts the system's certificate authorities and those in `ca_file`. Offers HTTP/1.1 only, presents no
/// certificate of its own.
///
/// # Errors
/// See [`TlsSetupError`]. A system without authorities is no error, since lambdas may use plain HTTP; it is logged.
pub(super) fn client_config(ca_file: Option<&PathBuf>) -> Result<Arc<ClientConfig>, TlsSetupError> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(system.certs);
    if let Some(file) = ca_file {
        let unreadable = |source| TlsSetupError::CaFile { file: file.clone(), source };
        let mut any = false;
        for certificate in CertificateDer::pem_file_iter(file).map_err(unreadable)? {
            roots
                .add(certificate.map_err(unreadable)?)
                .map_err(|source| TlsSetupError::Certificate { file: file.clone(), source })?;
            any = true;
        }
        if !any {
            return Err(TlsSetupError::Empty(file.clone()));
        }
    }
    if roots.is_empty() {
        tracing::warn!(
            "the system has no certificate authorities: lambdas cannot call https URLs; install ca-certificates or \
             set --egress-ca-file"
        );
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A server could tell by a resumed session that two accounts have one invoker, and an account that another had been there.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}
