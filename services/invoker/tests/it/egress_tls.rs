//! TLS towards the servers that lambdas call, with a certificate authority of the tests' own.

use std::{io::Write as _, path::Path, sync::Arc, time::Duration};

use chatfn_invoker::egress::EgressConfig;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tempfile::NamedTempFile;

use crate::{
    outside::{Outside, call_once, get},
    witness::{Answer, Witness},
};

/// An authority, and its certificate as an operator has it: in a file.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: NamedTempFile,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(params.self_signed(&key).unwrap().pem().as_bytes()).unwrap();
        Self { issuer: Issuer::new(params, key), file }
    }

    /// Its certificate.
    pub(crate) fn file(&self) -> &Path {
        self.file.path()
    }

    /// The outbound HTTP of an operator who trusts this authority.
    fn trusted(&self) -> EgressConfig {
        EgressConfig {
            ca_file: Some(self.file.path().to_owned()),
            connect_timeout: Duration::from_secs(20),
            ..EgressConfig::default()
        }
    }

    /// A server with a certificate for `name` that is valid through the year.
    pub(crate) async fn server(&self, name: &str, last_year: i32) -> Witness {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_after = date_time_ymd(last_year, 12, 31);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        Witness::start_tls(config, |_| Answer::ok("secure")).await
    }
}

/// A year that is far away.
pub(crate) const VALID: i32 = 4000;

/// Calls `https://{name}` at the server's port.
async fn call_https(config: EgressConfig, server: &Witness, name: &str) -> Result<u16, &'static str> {
    let outside = Outside::local(config);
    outside.names.add("other.example", &["127.0.0.1"]);
    let hosts = [server.at(name.trim_end_matches('.'))];
    let url = format!("https://{}/", server.at(name));
    let outcome = call_once(&outside, &hosts, get(url)).await;
    assert_eq!(server.seen().connections, 1);
    outcome
}

#[tokio::test]
async fn a_server_of_a_trusted_authority_is_called() {
    let authority = Authority::new();
    let server = authority.server("crm.example", VALID).await;
    assert_eq!(call_https(authority.trusted(), &server, "crm.example").await, Ok(200));
    assert_eq!(server.only_request().header("host"), Some(&*server.at("crm.example")));
    let by_address = authority.server("127.0.0.1", VALID).await;
    assert_eq!(call_https(authority.trusted(), &by_address, "127.0.0.1").await, Ok(200));
    let dotted = authority.server("crm.example", VALID).await;
    assert_eq!(call_https(authority.trusted(), &dotted, "crm.example.").await, Ok(200));
}

/// A session would tell a server that two accounts have one invoker.
#[tokio::test]
async fn no_run_goes_on_with_the_session_of_another() {
    let authority = Authority::new();
    let server = authority.server("127.0.0.1", VALID).await;
    let outside = Outside::local(authority.trusted());
    let hosts = [server.at("127.0.0.1")];
    for _ in 0..3 {
        let url = format!("https://{}/", server.at("127.0.0.1"));
        assert_eq!(call_once(&outside, &hosts, get(url)).await, Ok(200));
    }
    assert_eq!((server.seen().connections, server.seen().resumed), (3, 0));
}

#[tokio::test]
async fn a_server_that_is_not_who_the_url_says_gets_no_request() {
    let authority = Authority::new();
    let stranger = Authority::new();
    for (what, server, name) in [
        ("another name", authority.server("crm.example", VALID).await, "other.example"),
        ("an address", authority.server("crm.example", VALID).await, "127.0.0.1"),
        ("too old", authority.server("crm.example", 2020).await, "crm.example"),
        ("unknown authority", stranger.server("crm.example", VALID).await, "crm.example"),
    ] {
        assert_eq!(call_https(authority.trusted(), &server, name).await, Err("TLS_FAILED"), "{what}");
        assert_eq!(server.seen().requests, [], "{what}");
    }
    let server = authority.server("crm.example", VALID).await;
    assert_eq!(call_https(EgressConfig::default(), &server, "crm.example").await, Err("TLS_FAILED"));
}

#[tokio::test]
async fn what_speaks_no_tls_is_refused() {
    let plain = Witness::start(|_| Answer::ok("")).await;
    // Waits for the end of what it takes for a head of a request; the client waits for an answer.
    let config = EgressConfig { connect_timeout: Duration::from_millis(300), ..EgressConfig::default() };
    assert_eq!(call_https(config, &plain, "crm.example").await, Err("TLS_FAILED"));
    assert_eq!(plain.seen().requests, []);
}

#[test]
fn a_file_of_authorities_must_hold_some() {
    let mut file = NamedTempFile::new().unwrap();
    let set_up = |path: &std::path::Path| {
        let config = EgressConfig { ca_file: Some(path.to_owned()), ..EgressConfig::default() };
        let names = Arc::new(crate::outside::Names::default());
        chatfn_invoker::egress::Egress::new(&config, names).err().map(|error| error.to_string())
    };
    let file_name = file.path().display().to_string();
    let missing = set_up(&file.path().with_extension("missing")).unwrap();
    assert!(missing.contains("cannot be read"), "{missing}");
    let empty = set_up(file.path()).unwrap();
    assert!(empty.contains("holds no certificate") && empty.contains(&file_name), "{empty}");
    file.write_all(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    assert!(set_up(file.path()).is_some());
}
