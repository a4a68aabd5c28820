//! The settings of identities.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{KeysError, TlsError, tokens::Rules};
use crate::parse_duration;

/// Settings of identities; flatten it into a service's clap arguments. All unset, a service listens on loopback alone.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct SecurityConfig {
    /// PEM file of this service's certificate and the certificates between it and the authority
    ///
    /// It names the service as the URI spiffe://<trust domain>/registry, /event-ingest or /invoker, and the host by which
    /// others call it. The three TLS files go together. They are read again when they change.
    #[arg(long, env = "CHATFN_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// PEM file of the certificate's private key
    #[arg(long, env = "CHATFN_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// PEM file of the authorities that issue the services' certificates
    #[arg(long, env = "CHATFN_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,

    /// Trust domain in the names of services
    #[arg(long, env = "CHATFN_TLS_TRUST_DOMAIN", value_name = "NAME", default_value = DEFAULT_TRUST_DOMAIN)]
    pub tls_trust_domain: String,

    /// JSON Web Key Set file of the public keys that tokens are signed with, each with an id; needs TLS
    ///
    /// It is read again when it changes. To rotate, add a key, sign with it, and remove the old one when its last token
    /// has expired. Keys, issuer and audience go together; without them no token is accepted.
    #[arg(long, env = "CHATFN_TOKEN_KEYS", value_name = "FILE")]
    pub token_keys: Option<PathBuf>,

    /// Issuer (iss) that tokens must name
    #[arg(long, env = "CHATFN_TOKEN_ISSUER", value_name = "TEXT")]
    pub token_issuer: Option<String>,

    /// Audience (aud) that tokens must name
    #[arg(long, env = "CHATFN_TOKEN_AUDIENCE", value_name = "TEXT")]
    pub token_audience: Option<String>,

    /// How far the clocks of the issuer and of this machine may be apart
    #[arg(long, env = "CHATFN_TOKEN_LEEWAY", value_name = "DURATION", value_parser = parse_duration, default_value = "30s")]
    pub token_leeway: Duration,
}

const DEFAULT_TRUST_DOMAIN: &str = "chatfn";

/// Longest leeway: it also is how long a token outlives its expiry.
const MAX_LEEWAY: Duration = Duration::from_secs(5 * 60);

impl Default for SecurityConfig {
    fn default() -> Self {
        Self {
            tls_cert: None,
            tls_key: None,
            tls_ca: None,
            tls_trust_domain: DEFAULT_TRUST_DOMAIN.to_owned(),
            token_keys: None,
            token_issuer: None,
            token_audience: None,
            token_leeway: Duration::from_secs(30),
        }
    }
}

/// Why there are no identities. Repeats nothing of what was read: it may be a key.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    /// Some flags of a group are set, and others are not.
    #[error("--{missing} is not set, and goes together with --{set}: set all of {group}, or none")]
    Incomplete {
        /// A flag that is not set.
        missing: &'static str,
        /// One that is.
        set: &'static str,
        /// All flags of the group.
        group: &'static str,
    },
    /// Tokens without TLS.
    #[error(
        "--token-keys needs --tls-cert, --tls-key and --tls-ca: a token must not travel in plain text, and the services \
         prove by certificate who they are"
    )]
    TokensWithoutTls,
    /// The trust domain cannot be part of a name.
    #[error("--tls-trust-domain must be 1 to 255 lower-case letters, digits, '.', '-' and '_'")]
    TrustDomain,
    /// The leeway is too long.
    #[error("--token-leeway ({0:?}) must not exceed {MAX_LEEWAY:?}: expired tokens are accepted for as long")]
    Leeway(Duration),
    /// A file cannot be read.
    #[error("{} cannot be read", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The certificate, its key or the authorities cannot be used.
    #[error("the TLS files cannot be used")]
    Tls(#[from] TlsError),
    /// The keys of tokens cannot be used.
    #[error("the keys of --token-keys cannot be used")]
    Keys(#[from] KeysError),
}

impl SecurityConfig {
    /// Checks the settings against one another, without reading a file.
    ///
    /// # Errors
    /// What is missing or contradicts.
    pub fn validate(&self) -> Result<(), SecurityError> {
        self.tls_files()?;
        self.token_rules().map(drop)
    }

    /// Whether callers will have to prove who they are.
    pub fn is_closed(&self) -> bool {
        self.tls_cert.is_some()
    }

    /// The folders of all files, for a process that is to read them again while it may read little else. Folders, since
    /// a mounted file is replaced and not written.
    pub fn folders(&self) -> impl Iterator<Item = &Path> {
        [&self.tls_cert, &self.tls_key, &self.tls_ca, &self.token_keys].into_iter().flatten().map(|file| {
            file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
        })
    }

    /// Certificate, key and authorities.
    pub(super) fn tls_files(&self) -> Result<Option<[PathBuf; 3]>, SecurityError> {
        let domain = &self.tls_trust_domain;
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
        if !(1..=255).contains(&domain.len()) || !domain.bytes().all(allowed) {
            return Err(SecurityError::TrustDomain);
        }
        together(
            "--tls-cert, --tls-key and --tls-ca",
            [("tls-cert", &self.tls_cert), ("tls-key", &self.tls_key), ("tls-ca", &self.tls_ca)],
        )
    }

    /// The file of keys, and what tokens must say.
    pub(super) fn token_rules(&self) -> Result<Option<(PathBuf, Rules)>, SecurityError> {
        if self.token_leeway > MAX_LEEWAY {
            return Err(SecurityError::Leeway(self.token_leeway));
        }
        let keys = self.token_keys.as_ref().map(|file| file.as_os_str().to_owned());
        let [issuer, audience] =
            [&self.token_issuer, &self.token_audience].map(|it| it.clone().map(Into::into));
        let Some([keys, _, _]) = together(
            "--token-keys, --token-issuer and --token-audience",
            [("token-keys", &keys), ("token-issuer", &issuer), ("token-audience", &audience)],
        )?
        else {
            return Ok(None);
        };
        if !self.is_closed() {
            return Err(SecurityError::TokensWithoutTls);
        }
        let rules = Rules {
            issuer: self.token_issuer.clone().unwrap_or_default(),
            audience: self.token_audience.clone().unwrap_or_default(),
            leeway: self.token_leeway,
        };
        Ok(Some((keys.into(), rules)))
    }
}

/// All values of a group of flags, or `None` if none is set.
fn together<T: Clone, const N: usize>(
    group: &'static str,
    flags: [(&'static str, &Option<T>); N],
) -> Result<Option<[T; N]>, SecurityError> {
    let set = flags.iter().find(|(_, value)| value.is_some());
    let missing = flags.iter().find(|(_, value)| value.is_none());
    match (set, missing) {
        (Some((set, _)), Some((missing, _))) => Err(SecurityError::Incomplete { missing, set, group }),
        (None, _) => Ok(None),
        (_, None) => {
            Ok(Some(flags.map(|(_, value)| value.clone().unwrap_or_else(|| unreachable!("none is missing")))))
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        security: SecurityConfig,
    }

    fn parse(flags: &[&str]) -> SecurityConfig {
        Program::try_parse_from(["program"].iter().chain(flags)).expect("valid flags").security
    }

    const TLS: [&str; 3] = ["--tls-cert=/tls/cert", "--tls-key=/tls/key", "--tls-ca=/ca/ca"];
    const TOKENS: [&str; 3] = ["--token-keys=keys", "--token-issuer=iss", "--token-audience=chatfn"];

    #[test]
    fn command_line_and_code_share_their_defaults() {
        assert_eq!(parse(&[]), SecurityConfig::default());
        assert!(!parse(&[]).is_closed() && parse(&[]).validate().is_ok());
    }

    #[test]
    fn groups_are_complete_or_absent() {
        assert!(parse(&TLS).validate().is_ok());
        assert!(parse(&[TLS, TOKENS].concat()).validate().is_ok());
        for left_out in 0..3 {
            for (group, more) in [(TLS, &[][..]), (TOKENS, &TLS[..])] {
                let mut flags = group.to_vec();
                let flag = flags.remove(left_out).split('=').next().expect("a flag");
                let error = parse(&[&flags, more].concat()).validate().expect_err(flag).to_string();
                assert!(error.starts_with(&format!("{flag} is not set")), "{error}");
            }
        }
    }

    #[test]
    fn what_would_be_unsafe_is_refused() {
        let error = |flags: &[&str]| parse(flags).validate().expect_err("unsafe").to_string();
        assert!(error(&TOKENS).starts_with("--token-keys needs --tls-cert"));
        assert!(error(&["--token-leeway=6m"]).starts_with("--token-leeway (360s)"));
        for domain in ["", "a/b", "Chatfn", "a b"] {
            assert!(error(&[&format!("--tls-trust-domain={domain}")]).starts_with("--tls-trust-domain"));
        }
    }

    #[test]
    fn a_file_without_a_folder_is_in_this_one() {
        let config = parse(&[TLS, TOKENS].concat());
        let folders: Vec<_> = config.folders().map(|folder| folder.display().to_string()).collect();
        assert_eq!(folders, ["/tls", "/tls", "/ca", "."]);
    }
}
