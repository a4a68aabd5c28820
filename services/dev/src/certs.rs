//! Certificates, keys and tokens of a cluster that asks who calls, for a laptop. Production has an authority and an
//! identity provider for this.

use std::{
    fmt, fs,
    io::{self, Write as _},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use chatfn_rpc::{
    Client, ClientConfig, Role, Service, connect,
    dev_tokens::{self, SigningKey},
    parse_duration,
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ED25519, SanType,
};

/// Issuer and audience of the tokens made here.
pub const ISSUER: &str = "chatfn-dev";
/// See [`ISSUER`].
pub const AUDIENCE: &str = "chatfn";

/// Longest call of the demo. Generous: a slow machine is no failure.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// What to make.
#[derive(Debug, Clone, clap::Args)]
pub struct CertsArgs {
    /// Folder to put them in. An authority and a key of tokens that are there already are kept.
    #[arg(long, env = "CHATFN_CERTS_DIR", default_value = ".data/certs")]
    pub dir: PathBuf,
    /// Names and addresses by which the services are called.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "localhost,127.0.0.1,::1,registry,event-ingest,invoker"
    )]
    pub hosts: Vec<String>,
    /// Account of the token; * acts for all of them.
    #[arg(long, default_value = "acme")]
    pub account: String,
    /// Roles of the token.
    #[arg(long, value_delimiter = ',', default_value = "admin,developer,invocation")]
    pub roles: Vec<Role>,
    /// Who the token is for.
    #[arg(long, default_value = "dev")]
    pub subject: String,
    /// How long the token is valid.
    #[arg(long, value_parser = parse_duration, default_value = "720h")]
    pub valid_for: Duration,
}

/// What was made; displayed, how to use it.
#[derive(Debug)]
pub struct Made(PathBuf);

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dir = self.0.display();
        write!(
            f,
            "certificates and a token are in {dir}. Start the cluster with them, and call it:\n\n  \
             CHATFN_CERTS_DIR={dir} make run\n  \
             grpcurl -cacert {dir}/ca.crt -H \"authorization: Bearer $(cat {dir}/token)\" \\\n    \
             127.0.0.1:50051 chatfn.registry.v1.TemplateService/ListTemplates\n"
        )
    }
}

/// Makes an authority, a certificate for each service, a key that signs tokens, its public half as a key set, and a token.
///
/// # Errors
/// The folder cannot be written, or what is kept of an earlier time cannot be read.
pub fn make(args: &CertsArgs) -> anyhow::Result<Made> {
    let dir = &args.dir;
    fs::create_dir_all(dir).with_context(|| format!("{} cannot be made", dir.display()))?;

    let authority = authority()?;
    let key = kept(&dir.join("ca.key"), || KeyPair::generate().map(|key| key.serialize_pem()))?;
    let key =
        KeyPair::from_pem(&key).context("ca.key is not a private key; remove it to have a new authority")?;
    let certificate = kept(&dir.join("ca.crt"), || authority.self_signed(&key).map(|it| it.pem()))?;
    write(&dir.join("ca.crt"), &certificate, 0o644)?;
    let issuer = Issuer::new(authority, key);
    for service in Service::ALL {
        let key = KeyPair::generate()?;
        let certificate = of_service(service, &args.hosts)?.signed_by(&key, &issuer)?;
        write(&dir.join(format!("{service}.key")), &key.serialize_pem(), 0o600)?;
        write(&dir.join(format!("{service}.crt")), &certificate.pem(), 0o644)?;
    }

    let generate = || KeyPair::generate_for(&PKCS_ED25519).map(|key| key.serialize_pem());
    let key = kept(&dir.join("token-signing.key"), generate)?;
    let key = KeyPair::from_pem(&key)
        .context("token-signing.key is not a private key; remove it to have a new one")?;
    let key = SigningKey::from_pkcs8("dev", &key.serialize_der())?;
    write(&dir.join("token-keys.json"), &dev_tokens::key_set([&key]), 0o644)?;
    let claims =
        dev_tokens::claims(ISSUER, AUDIENCE, &args.subject, &args.account, &args.roles, args.valid_for);
    write(&dir.join("token"), &key.sign(&claims)?, 0o600)?;
    Ok(Made(dir.clone()))
}

/// Always the same, so that what it issues at different times is of one authority.
fn authority() -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "chatfn development authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn of_service(service: Service, hosts: &[String]) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(hosts).context("--hosts must be host names and addresses")?;
    let name = format!("spiffe://chatfn/{service}");
    params.subject_alt_names.push(SanType::URI(name.as_str().try_into()?));
    params.distinguished_name.push(DnType::CommonName, service.as_str());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// The text of a file that is made, for its owner alone, when there is none.
fn kept(path: &Path, text: impl Fn() -> Result<String, rcgen::Error>) -> anyhow::Result<String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = text()?;
            write(path, &text, 0o600)?;
            Ok(text)
        }
        read => read.with_context(|| format!("{} cannot be read", path.display())),
    }
}

/// Puts a file in place as a whole: services may be about to read it.
fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let unfinished = path.with_added_extension(std::process::id().to_string());
    let write = || {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&unfinished)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&unfinished, path)
    };
    write().with_context(|| format!("{} cannot be written", path.display()))
}

/// How a cluster's services and their callers know each other: the contents of a folder that [`make`] has filled, or not
/// at all.
#[derive(Debug)]
pub(crate) struct Certs(Option<PathBuf>);

impl Certs {
    pub(crate) fn open(dir: Option<PathBuf>) -> anyhow::Result<Self> {
        match dir {
            Some(dir) if !dir.join("ca.crt").is_file() => {
                Err(anyhow!("{} has no ca.crt; `make dev-certs` makes what belongs there", dir.display()))
            }
            dir => Ok(Self(dir)),
        }
    }

    pub(crate) fn url(&self, address: SocketAddr) -> String {
        let scheme = if self.0.is_some() { "https" } else { "http" };
        format!("{scheme}://{address}")
    }

    /// What a service is started with.
    pub(crate) fn flags(&self, service: Service) -> Vec<String> {
        let Some(dir) = &self.0 else { return Vec::new() };
        let dir = dir.display();
        vec![
            format!("--tls-cert={dir}/{service}.crt"),
            format!("--tls-key={dir}/{service}.key"),
            format!("--tls-ca={dir}/ca.crt"),
            format!("--token-keys={dir}/token-keys.json"),
            format!("--token-issuer={ISSUER}"),
            format!("--token-audience={AUDIENCE}"),
        ]
    }

    pub(crate) fn client(&self, address: SocketAddr) -> anyhow::Result<Client> {
        let uri = self.url(address).parse()?;
        let config = match &self.0 {
            Some(dir) => ClientConfig::trusting(uri, &fs::read(dir.join("ca.crt"))?)?,
            None => ClientConfig::new(uri),
        };
        Ok(connect(ClientConfig { default_timeout: CALL_TIMEOUT, ..config })?)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Program {
        #[command(flatten)]
        args: CertsArgs,
    }

    #[test]
    fn keys_are_for_their_owner_and_the_authority_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let args = Program::parse_from(["x", "--dir", folder.path().to_str().unwrap()]).args;
        make(&args).unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        let first = ["ca.crt", "ca.key", "token-signing.key", "token-keys.json"].map(read);
        let issued = read("invoker.crt");
        for entry in fs::read_dir(folder.path()).unwrap() {
            let path = entry.unwrap().path();
            let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            let is_public = path.extension().is_some_and(|it| it == "crt" || it == "json");
            assert_eq!(mode, if is_public { 0o644 } else { 0o600 }, "{}", path.display());
        }
        make(&args).unwrap();
        assert_eq!(first, ["ca.crt", "ca.key", "token-signing.key", "token-keys.json"].map(read));
        assert_ne!(issued, read("invoker.crt"), "certificates are new");
    }
}
