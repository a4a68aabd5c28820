//! Who may call: identities, how they are proved, and what each may do.
//!
//! People and programs send a signed token, services show a certificate. Both are checked against files that an
//! operator mounts and that are read again when they change. A server without them serves its own machine alone.

pub mod access;
mod config;
mod follow;
mod tls;
mod tokens;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use chatfn_domain::caller::Service;
use chatfn_settings::Problems;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

#[cfg(test)]
pub(crate) use self::tls::Certified;
pub use self::{
    config::{SecurityConfig, SecurityError},
    tls::{ClientTls, TlsError},
    tokens::{KeysError, dev},
};
pub(crate) use self::{
    tls::{H2, Peer, Tls, expired as certificate_expired},
    tokens::{Tokens, expired as token_expired},
};

/// For how long something is valid that expires in this second since 1970, which counts; `None` if it has expired.
fn remaining(expires: u64) -> Option<Duration> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    expires.checked_sub(now).map(|left| Duration::from_secs(left.saturating_add(1)))
}

/// What a process proves of itself and asks of its callers: the current contents of the files that
/// [`SecurityConfig`] names. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Security {
    /// `None`: plain text, and every caller is anonymous.
    pub(crate) tls: Option<watch::Receiver<Arc<Tls>>>,
    /// `None`: no token is accepted.
    pub(crate) tokens: Option<watch::Receiver<Arc<Tokens>>>,
}

impl Security {
    /// Nothing: callers are anonymous, so only a loopback address may be listened on.
    pub fn none() -> Self {
        Self::default()
    }

    /// Reads the files that `config` names, and goes on to read them again until `stop` fires. New contents that
    /// cannot be used are logged, with what to do, and leave the old ones in use.
    ///
    /// # Errors
    /// The settings are incomplete, a file cannot be used, or the certificate is not `own`'s.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(
        config: &SecurityConfig,
        own: Service,
        stop: &CancellationToken,
    ) -> Result<Self, SecurityError> {
        let Some(files) = config.tls_files()? else { return Ok(Self::none()) };
        let domain = config.tls_trust_domain.clone();
        let tls = follow::start("the TLS files", files, stop, move |contents| {
            Tls::load(contents, &domain, own).map_err(SecurityError::from)
        })?;
        let tokens = match config.token_rules()? {
            None => None,
            Some((file, rules)) => Some(follow::start("the keys of tokens", [file], stop, move |[keys]| {
                Tokens::load(keys, rules.clone()).map_err(SecurityError::from)
            })?),
        };
        Ok(Self { tls: Some(tls), tokens })
    }

    /// Adds what is wrong with the settings of `own`, and with the files that they name. Keeps nothing of them.
    pub fn check(config: &SecurityConfig, own: Service, problems: &mut Problems) {
        match config.tls_files() {
            Ok(Some(files)) => {
                let domain = &config.tls_trust_domain;
                let flags = ["tls-cert", "tls-key", "tls-ca"];
                follow::check(flags, &files, problems, |contents| Tls::load(contents, domain, own).map(drop));
            }
            Ok(None) => {}
            Err(error) => problems.add(error),
        }
        match config.token_rules() {
            Ok(Some((file, rules))) => {
                follow::check(["token-keys"], &[file], problems, |[keys]| {
                    Tokens::load(keys, rules.clone()).map(drop)
                });
            }
            Ok(None) => {}
            Err(error) => problems.add(error),
        }
    }

    /// For the clients of this process.
    pub(crate) fn client(&self) -> Option<ClientTls> {
        self.tls.clone().map(ClientTls::following)
    }

    /// Whether callers must prove who they are.
    pub fn is_closed(&self) -> bool {
        self.tls.is_some()
    }
}
