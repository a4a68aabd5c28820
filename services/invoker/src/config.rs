//! Settings of the service.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use chatfn_deployments::SnapshotArgs;
use chatfn_domain::settings::MAX_MEMORY_MIB;
use chatfn_engine::EngineConfig;
use chatfn_rpc::{ClientConfig, Security, SecurityConfig, ServerConfig, Service, check_listen};
use chatfn_settings::Problems;
use chatfn_telemetry::{EndpointArgs, FLUSH_LIMIT, TelemetryArgs, TracesArgs, TracesConfigError};
use clap::Parser;
use http::Uri;

use crate::{
    confine::ConfinementMode,
    egress::{self, EgressConfig},
    keeper,
    service_url::ServiceUrl,
};

/// Runs lambdas: each run in a fresh sandbox, never past its deadline.
#[derive(Debug, Clone, Parser)]
#[command(name = "chatfn-invoker", version)]
pub struct Config {
    /// Where to serve gRPC.
    #[arg(long, env = "CHATFN_INVOKER_LISTEN", value_name = "HOST:PORT", default_value = "127.0.0.1:50052")]
    pub listen: SocketAddr,

    /// Where the registry is.
    #[arg(
        long,
        env = "CHATFN_INVOKER_REGISTRY",
        value_name = "URL",
        default_value = "http://127.0.0.1:50051"
    )]
    pub registry: Uri,

    /// What is live, for a start without the registry. A process of its own keeps the file, because this one is confined.
    #[command(flatten)]
    pub snapshot: SnapshotArgs,

    /// Be that process.
    #[arg(long, hide = true)]
    pub keep_snapshot: bool,

    /// Folder that keeps the compiled engine between starts; made if missing, readable by this user alone
    /// [default: chatfn-invoker in the user's cache folder].
    #[arg(long, env = "CHATFN_INVOKER_CACHE_DIR", value_name = "FOLDER")]
    pub cache_dir: Option<PathBuf>,

    /// Most runs at once of functions with up to 64 MiB of memory; more are refused. One with up to 128 counts as two, and so on,
    /// so this bounds the memory of all. Runs that wait for an answer from outside count. A quarter is kept for accounts that
    /// run less than others.
    #[arg(long, env = "CHATFN_INVOKER_MAX_RUNS", value_name = "COUNT", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub max_runs: u32,

    /// Most functions at once that run because another one invoked them; more are refused. They count as runs do, and a quarter
    /// is kept for accounts that run less than others.
    #[arg(long, env = "CHATFN_INVOKER_MAX_CHILDREN", value_name = "COUNT", default_value_t = 128, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub max_children: u32,

    /// Where the toolbelt's LpClient finds the chat platform's services: an URL in which {service} and {account} may
    /// stand for the service and the account. Each function's allowed_hosts still apply.
    #[arg(long, env = "CHATFN_INVOKER_LP_BASE_URL", value_name = "URL")]
    pub lp_base_url: Option<ServiceUrl>,

    /// Most sources that are prepared at once, for Prepare calls and again for deployments.
    #[arg(long, env = "CHATFN_INVOKER_MAX_PREPARES", value_name = "COUNT", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub max_prepares: u32,

    /// Memory for prepared functions. The least recently used are dropped, and prepared again when needed.
    #[arg(long, env = "CHATFN_INVOKER_PREPARED_BYTES", value_name = "BYTES", default_value_t = 256 * 1024 * 1024)]
    pub prepared_bytes: usize,

    /// Whether the kernel confines this process, so that a lambda that breaks out of its sandbox gains little: no
    /// programs, no files, no further ports (Landlock and seccomp).
    #[arg(long, env = "CHATFN_INVOKER_CONFINEMENT", value_name = "HOW", value_enum, default_value_t)]
    pub confinement: ConfinementMode,

    /// The lambdas' outbound HTTP.
    #[command(flatten, next_help_heading = "Egress")]
    pub egress: EgressConfig,

    /// Who may call, and how this service proves who it is.
    #[command(flatten, next_help_heading = "Identities")]
    pub security: SecurityConfig,

    /// The gRPC server.
    #[command(flatten, next_help_heading = "gRPC")]
    pub rpc: ServerConfig,

    /// Metrics and liveness over HTTP.
    #[command(flatten, next_help_heading = "Metrics")]
    pub endpoint: EndpointArgs,

    /// Traces.
    #[command(flatten, next_help_heading = "Traces")]
    pub traces: TracesArgs,

    /// Logs.
    #[command(flatten, next_help_heading = "Logs")]
    pub telemetry: TelemetryArgs,
}

/// Settings that contradict one another.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// Calls would be refused before the limit of runs is met.
    #[error("--max-runs ({max_runs}) must not exceed --rpc-max-calls ({max_calls}): every run is a call")]
    Runs {
        /// Runs at once.
        max_runs: u32,
        /// Calls at once.
        max_calls: usize,
    },
    /// A response that is allowed could never be read.
    #[error("--egress-body-bytes ({body}) must not exceed --egress-buffer-bytes ({all})")]
    Buffers {
        /// Bytes of one body.
        body: usize,
        /// Bytes of all bodies.
        all: usize,
    },
    /// Not every function fits.
    #[error("--prepared-bytes must be at least {least}, the size of the largest prepared function")]
    Prepared {
        /// Least value.
        least: usize,
    },
    /// Every outbound call would fail.
    #[error("--{0} must be greater than zero")]
    Zero(&'static str),
    /// Traces.
    #[error(transparent)]
    Traces(#[from] TracesConfigError),
}

impl Config {
    /// Checks settings against one another.
    ///
    /// # Errors
    /// What contradicts what.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.problems().into_iter().next().map_or(Ok(()), Err)
    }

    /// Adds what is wrong with the settings, and with the files that they name.
    pub fn check(&self, problems: &mut Problems) {
        problems.check_flag("listen", check_listen(self.listen, &self.security));
        problems.check_flag("registry", ClientConfig::check(&self.registry, &self.security));
        self.snapshot.check(keeper::WATCHER, keeper::WATCHES_SOURCE, problems);
        if let Some(dir) = &self.cache_dir {
            problems.check_flag("cache-dir", chatfn_engine::check_cache_dir(dir));
        }
        problems.check_flag("egress-ca-file", egress::check_ca_file(&self.egress));
        Security::check(&self.security, Service::Invoker, problems);
        problems.add_all(self.problems());
        problems.add_all(self.rpc.problems());
        problems.check_flag("telemetry-listen", self.endpoint.validate());
        problems.check_flag("log-filter", self.telemetry.validate());
    }

    /// All that contradicts.
    fn problems(&self) -> Vec<ConfigError> {
        let mut problems = Vec::new();
        problems.extend(self.traces.validate().err().map(ConfigError::Traces));
        if self.max_runs as usize > self.rpc.max_calls {
            problems.push(ConfigError::Runs { max_runs: self.max_runs, max_calls: self.rpc.max_calls });
        }
        if self.egress.body_bytes > self.egress.buffer_bytes {
            problems
                .push(ConfigError::Buffers { body: self.egress.body_bytes, all: self.egress.buffer_bytes });
        }
        let largest = chatfn_engine::PrepareLimits::default().artifact_bytes;
        if self.prepared_bytes < largest {
            problems.push(ConfigError::Prepared { least: largest });
        }
        let timeouts = [
            ("egress-dns-timeout", self.egress.dns_timeout),
            ("egress-connect-timeout", self.egress.connect_timeout),
        ];
        let zero = timeouts.into_iter().filter(|(_, timeout)| timeout.is_zero());
        problems.extend(zero.map(|(name, _)| ConfigError::Zero(name)));
        problems
    }

    /// The longest that a shutdown takes; a container's termination grace must be longer.
    pub fn longest_shutdown(&self) -> Duration {
        self.rpc.longest_drain() + crate::TASK_GRACE + FLUSH_LIMIT
    }

    /// Settings of the engine: a sandbox for every run, for every run that another one waits for, and for every
    /// preparation besides. So nobody who has a sandbox ever waits for one.
    pub(crate) fn engine(&self) -> EngineConfig {
        EngineConfig {
            max_sandboxes: self.max_runs + self.max_children,
            // What is asked for and what is live share them.
            max_prepares: 2 * self.max_prepares,
            max_memory_bytes: (MAX_MEMORY_MIB as usize) << 20,
            cache_dir: self.cache_dir.clone().or_else(user_cache_dir),
        }
    }
}

/// As the XDG base directory specification has it. `None` for a user without a home: the engine is then
/// compiled at each start.
fn user_cache_dir() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(caches.join("chatfn-invoker"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(flags: &[&str]) -> Config {
        Config::try_parse_from(["chatfn-invoker"].iter().chain(flags)).unwrap()
    }

    #[test]
    fn the_defaults_agree_with_one_another() {
        assert_eq!(config(&[]).validate(), Ok(()));
        assert_eq!(config(&[]).engine().max_sandboxes, 640);
    }

    #[test]
    fn contradictions_are_named() {
        let error = |flags: &[&str]| config(flags).validate().unwrap_err().to_string();
        assert!(error(&["--max-runs=2000"]).starts_with("--max-runs (2000) must not exceed --rpc-max-calls"));
        assert!(
            error(&["--egress-body-bytes=9", "--egress-buffer-bytes=8"]).starts_with("--egress-body-bytes")
        );
        assert!(error(&["--prepared-bytes=1"]).starts_with("--prepared-bytes"));
        assert!(error(&["--egress-connect-timeout=0s"]).starts_with("--egress-connect-timeout"));
    }

    #[test]
    fn ranges_are_read() {
        let config = config(&["--egress-allow-cidr=127.0.0.0/8,fd00::/8", "--egress-deny-cidr=1.1.1.1/32"]);
        assert_eq!((config.egress.allow.len(), config.egress.deny.len()), (2, 1));
        assert!(Config::try_parse_from(["chatfn-invoker", "--egress-allow-cidr=localhost"]).is_err());
    }

    #[test]
    fn name_servers_have_a_port() {
        let servers = config(&["--egress-name-server=9.9.9.9,10.0.0.1:5353,2620:fe::fe"]).egress.name_servers;
        let expected = ["9.9.9.9:53", "10.0.0.1:5353", "[2620:fe::fe]:53"];
        assert_eq!(servers, expected.map(|server| server.parse().unwrap()));
        assert!(Config::try_parse_from(["chatfn-invoker", "--egress-name-server=dns.example"]).is_err());
    }
}
