//! Settings of the service.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use chatfn_pg::PoolConfig;
use chatfn_rpc::{
    ClientConfig, Security, SecurityConfig, ServerConfig, Service, check_listen, parse_duration,
};
use chatfn_settings::Problems;
use chatfn_telemetry::{EndpointArgs, FLUSH_LIMIT, TracesArgs};
use clap::{CommandFactory as _, FromArgMatches as _, builder::Resettable};
use http::Uri;
use secrecy::{ExposeSecret as _, SecretString};

use crate::{
    catalogue::Catalogue,
    secrets::{KeyRing, KeysError},
};

/// Settings of `chatfn-registry`, from the command line and the environment.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "chatfn-registry", version, about = "chatfn's control plane", long_about = None)]
pub struct Config {
    /// Address to serve gRPC on
    #[arg(long, env = "CHATFN_REGISTRY_LISTEN", value_name = "HOST:PORT", default_value = "127.0.0.1:50051")]
    pub listen: SocketAddr,

    /// The invokers, which are asked to prepare a source before it is deployed
    #[arg(
        long,
        env = "CHATFN_REGISTRY_INVOKER",
        value_name = "URL",
        default_value = "http://127.0.0.1:50052"
    )]
    pub invoker: Uri,

    /// Folder of templates to offer besides the shipped ones, read at the start; services/registry/templates/README.md
    /// says what is in it
    #[arg(long, env = "CHATFN_REGISTRY_TEMPLATES", value_name = "FOLDER")]
    pub templates: Option<PathBuf>,

    /// Changes that a watcher of deployments may be behind before it is cut off
    #[arg(
        long,
        env = "CHATFN_REGISTRY_WATCH_BACKLOG",
        value_name = "COUNT",
        default_value_t = 256,
        value_parser = clap::value_parser!(u32).range(1..=65_536)
    )]
    pub watch_backlog: u32,

    /// Longest time for which a watcher of deployments may read nothing of what waits for it before it is cut off
    #[arg(
        long,
        env = "CHATFN_REGISTRY_WATCH_STALL",
        value_name = "DURATION",
        default_value = "10s",
        value_parser = parse_duration
    )]
    pub watch_stall: Duration,

    /// Connections to Postgres for watches, besides those for calls
    #[arg(
        long,
        env = "CHATFN_REGISTRY_WATCH_CONNECTIONS",
        value_name = "COUNT",
        default_value_t = 4,
        value_parser = clap::value_parser!(u32).range(3..=1_000)
    )]
    pub watch_connections: u32,

    /// Hours for which answers are kept for repetitions with the same `request_id`
    #[arg(
        long,
        env = "CHATFN_REGISTRY_REQUEST_RETENTION_HOURS",
        value_name = "HOURS",
        default_value_t = 24,
        value_parser = clap::value_parser!(u32).range(1..=720)
    )]
    pub request_retention_hours: u32,

    /// Days for which entries of the audit are kept
    #[arg(
        long,
        env = "CHATFN_REGISTRY_AUDIT_RETENTION_DAYS",
        value_name = "DAYS",
        default_value_t = 400,
        value_parser = clap::value_parser!(u32).range(1..=36_500)
    )]
    pub audit_retention_days: u32,

    /// Secrets.
    #[command(flatten)]
    pub secrets: SecretsConfig,

    /// Postgres.
    #[command(flatten)]
    pub database: PoolConfig,

    /// Who may call, and how this service proves who it is.
    #[command(flatten)]
    pub security: SecurityConfig,

    /// The gRPC server.
    #[command(flatten)]
    pub rpc: ServerConfig,

    /// Metrics and liveness over HTTP.
    #[command(flatten)]
    pub endpoint: EndpointArgs,

    /// Traces.
    #[command(flatten)]
    pub traces: TracesArgs,
}

/// Where the keys of secrets are, and who may read their values. Without keys there are no secrets.
#[derive(Debug, Clone, clap::Args)]
pub struct SecretsConfig {
    /// File of the keys that encrypt secrets, one a line: `<id>: <32 bytes in base64>`
    ///
    /// The first is the active one, with which values are encrypted; the others are kept for what is not yet under
    /// it. The file is read again when it changes. To rotate, add a key last in the file of every registry, then
    /// put it first in each; when the log says so, remove the others. `openssl rand -base64 32` makes a key.
    #[arg(long, env = "CHATFN_REGISTRY_SECRET_KEYS_FILE", value_name = "FILE")]
    pub secret_keys_file: Option<PathBuf>,

    /// The keys themselves, in the form of the file's lines; for the environment: others can see a command line
    #[arg(
        long,
        env = "CHATFN_REGISTRY_SECRET_KEYS",
        value_name = "LINES",
        hide_env_values = true,
        conflicts_with = "secret_keys_file"
    )]
    pub secret_keys: Option<SecretString>,

    /// Whether values of secrets are given to invokers here; without TLS, to whoever reaches this port
    #[arg(
        long,
        env = "CHATFN_REGISTRY_SERVE_SECRET_ACCESS",
        value_name = "BOOL",
        default_value_t = true,
        action = clap::ArgAction::Set
    )]
    pub serve_secret_access: bool,
}

impl SecretsConfig {
    /// The keys, if there are to be secrets.
    pub(crate) fn keys(&self) -> Result<Option<KeyRing>, KeysError> {
        match (&self.secret_keys_file, &self.secret_keys) {
            (Some(path), _) => KeyRing::read(path).map(Some),
            (None, Some(text)) => KeyRing::parse(text.expose_secret()).map(Some),
            (None, None) => Ok(None),
        }
    }
}

impl Config {
    /// The longest that a shutdown takes; a container's termination grace must be longer.
    pub fn longest_shutdown(&self) -> Duration {
        // Background tasks, then connections.
        self.rpc.longest_drain() + 2 * crate::GRACE + FLUSH_LIMIT
    }

    /// Adds what is wrong with the settings, and with the files that they name.
    pub fn check(&self, problems: &mut Problems) {
        problems.check_flag("listen", check_listen(self.listen, &self.security));
        problems.check_flag("invoker", ClientConfig::check(&self.invoker, &self.security));
        problems.check_flag("templates", Catalogue::load(self.templates.as_deref()));
        problems.check(self.secrets.keys());
        problems.check_flag("database-url", self.database.connect_options());
        Security::check(&self.security, Service::Registry, problems);
        problems.add_all(self.rpc.problems());
        problems.check_flag("telemetry-listen", self.endpoint.validate());
        problems.check(self.traces.validate());
    }

    /// The defaults of the command line, for a database and an invoker. Reads no environment.
    ///
    /// # Panics
    /// A default is not one that its own setting takes.
    pub fn new(database: PoolConfig, invoker: Uri) -> Self {
        let program = Self::command().mut_args(|arg| arg.env(Resettable::Reset));
        let defaults = program
            .try_get_matches_from(["chatfn-registry", "--database-url", database.url.expose()])
            .and_then(|defaults| Self::from_arg_matches(&defaults))
            .expect("every other setting has a default");
        Self { database, invoker, ..defaults }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn every_setting_but_the_database_has_a_default() {
        let config =
            Config::new(PoolConfig::new("postgres://me@db/chat".into()), Uri::from_static("http://there"));
        assert_eq!((config.invoker.host(), config.listen.port()), (Some("there"), 50051));
    }

    #[test]
    fn debug_shows_no_key() {
        let keys = ["x", "--database-url", "postgres://me@db/chat", "--secret-keys", "a: hunter2"];
        assert!(!format!("{:?}", Config::parse_from(keys)).contains("hunter2"));
    }
}
