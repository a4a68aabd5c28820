//! Who calls a cluster that asks: certificates as `chatfn-dev dev-certs` makes them, and tokens of any kind.

use std::{fs, net::SocketAddr, path::Path, process::Command, time::Duration};

use chatfn_rpc::{
    ClientConfig, Role, Security, SecurityConfig,
    dev_tokens::{self, SigningKey},
};
use serde_json::Value;
use tempfile::TempDir;

use crate::cluster::binary;

/// Issuer and audience of the tokens that the tests' clusters accept.
const ISSUER: &str = "https://issuer.test";
const AUDIENCE: &str = "chatfn-tests";

/// A folder of certificates and keys.
pub struct Identities {
    folder: TempDir,
    /// Signs the tokens that are accepted.
    pub key: SigningKey,
}

/// How a client proves who it is.
#[derive(Clone)]
pub enum Call {
    /// Plain text.
    Plain,
    /// TLS with these authorities, and a token if any.
    Trusting(Vec<u8>, Option<String>),
    /// A service.
    Service(Security),
    /// A service that sends a token besides.
    Both(Security, String),
}

impl Identities {
    /// New ones, of an authority of their own.
    pub fn make() -> Self {
        let folder = TempDir::new().expect("a folder");
        let key = SigningKey::generate("first").expect("a key");
        let identities = Self { folder, key };
        let mut command = Command::new(binary("dev"));
        let made = command.args(["dev-certs", "--dir"]).arg(identities.folder.path()).output();
        let made = made.expect("chatfn-dev runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        assert!(String::from_utf8_lossy(&made.stdout).contains("grpcurl -cacert"));
        identities.accept(&dev_tokens::key_set([&identities.key]));
        identities
    }

    /// Replaces the file of the keys that tokens may be signed with.
    pub fn accept(&self, key_set: &str) {
        self.replace("keys.json", key_set.as_bytes());
    }

    /// Puts a file in the place of another, as a whole.
    pub fn replace(&self, file: &str, contents: &[u8]) {
        let unfinished = self.path("unfinished");
        fs::write(&unfinished, contents).expect("the folder can be written");
        fs::rename(unfinished, self.path(file)).expect("the folder can be written");
    }

    /// What a file holds.
    pub fn read(&self, file: &str) -> Vec<u8> {
        fs::read(self.path(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
    }

    /// A file of the folder.
    pub fn path(&self, file: &str) -> String {
        self.folder.path().join(file).display().to_string()
    }

    /// What a service is started with.
    pub fn flags(&self, service: &str) -> Vec<String> {
        vec![
            format!("--tls-cert={}", self.path(&format!("{service}.crt"))),
            format!("--tls-key={}", self.path(&format!("{service}.key"))),
            format!("--tls-ca={}", self.path("ca.crt")),
            format!("--token-keys={}", self.path("keys.json")),
            format!("--token-issuer={ISSUER}"),
            format!("--token-audience={AUDIENCE}"),
        ]
    }

    /// The claims of a token that is accepted for an hour.
    pub fn claims(&self, account: &str, roles: &[Role]) -> Value {
        dev_tokens::claims(ISSUER, AUDIENCE, "jane", account, roles, Duration::from_secs(3600))
    }

    /// A token that is accepted.
    pub fn token(&self, account: &str, roles: &[Role]) -> String {
        self.key.sign(&self.claims(account, roles)).expect("a token")
    }

    /// As the holder of a token.
    pub fn call(&self, token: &str) -> Call {
        Call::Trusting(self.authorities(), Some(token.to_owned()))
    }

    /// As nobody.
    pub fn nobody(&self) -> Call {
        Call::Trusting(self.authorities(), None)
    }

    /// As a service, with its certificate.
    pub fn service(&self, service: chatfn_rpc::Service) -> Call {
        let file = |name: String| Some(Path::new(&self.path(&name)).to_owned());
        let config = SecurityConfig {
            tls_cert: file(format!("{service}.crt")),
            tls_key: file(format!("{service}.key")),
            tls_ca: file("ca.crt".to_owned()),
            ..SecurityConfig::default()
        };
        let stop = tokio_util::sync::CancellationToken::new();
        let _stopped_at_once = stop.clone().drop_guard();
        Call::Service(Security::start(&config, service, &stop).expect("certificates"))
    }

    fn authorities(&self) -> Vec<u8> {
        self.read("ca.crt")
    }
}

impl Call {
    pub(crate) fn config(&self, address: SocketAddr) -> ClientConfig {
        let scheme = if matches!(self, Self::Plain) { "http" } else { "https" };
        let uri = format!("{scheme}://{address}").parse().expect("a URI");
        match self {
            Self::Plain => ClientConfig::new(uri),
            Self::Service(security) => ClientConfig::secured(uri, security),
            Self::Both(security, token) => {
                ClientConfig::secured(uri, security).with_token(token).expect("a token")
            }
            Self::Trusting(authorities, token) => {
                let config = ClientConfig::trusting(uri, authorities).expect("an authority");
                match token {
                    Some(token) => config.with_token(token).expect("a token"),
                    None => config,
                }
            }
        }
    }
}
