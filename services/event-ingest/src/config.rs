//! Settings of the service.

use std::{net::SocketAddr, time::Duration};

use chatfn_deployments::SnapshotArgs;
use chatfn_pg::PoolConfig;
use chatfn_rpc::{
    ClientConfig, MAX_MESSAGE_BYTES, Security, SecurityConfig, ServerConfig, Service, check_listen,
    parse_duration,
};
use chatfn_settings::Problems;
use chatfn_telemetry::{EndpointArgs, FLUSH_LIMIT, TracesArgs};
use http::Uri;

use crate::quota::QuotaConfig;

/// Most events of a PublishEvents call, by its contract.
pub(crate) const MAX_CALL_EVENTS: usize = 500;
/// Most room that a call's events take in the queue, in KiB. As JSON a message becomes at most six times larger: a control
/// character in a string is one byte on the wire and six as JSON. The rest is what each event takes besides.
const MAX_CALL_KIB: usize = 6 * MAX_MESSAGE_BYTES / 1024 + 2 * MAX_CALL_EVENTS;

/// Settings of event-ingest, from the command line or the environment.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "chatfn-event-ingest", version, about = "Records chat events and delivers each in conversation order", long_about = None)]
pub struct Config {
    /// Address to serve gRPC on
    #[arg(
        long,
        env = "CHATFN_EVENT_INGEST_LISTEN",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:50053"
    )]
    pub listen: SocketAddr,

    /// Address of the registry
    #[arg(
        long,
        env = "CHATFN_EVENT_INGEST_REGISTRY",
        value_name = "URL",
        default_value = "http://127.0.0.1:50051"
    )]
    pub registry: Uri,

    /// Address of the invoker
    #[arg(
        long,
        env = "CHATFN_EVENT_INGEST_INVOKER",
        value_name = "URL",
        default_value = "http://127.0.0.1:50052"
    )]
    pub invoker: Uri,

    /// What is live, for a start without the registry.
    #[command(flatten)]
    pub snapshot: SnapshotArgs,

    /// The database. The pool of its settings serves reading; recording has pools of its own
    #[command(flatten)]
    pub database: PoolConfig,

    /// Recording of published events.
    #[command(flatten)]
    pub committers: CommitterConfig,

    /// How much accounts may publish.
    #[command(flatten)]
    pub quotas: QuotaConfig,

    /// Publishing over streams.
    #[command(flatten)]
    pub streams: StreamConfig,

    /// How long events are kept.
    #[command(flatten)]
    pub retention: RetentionConfig,

    /// Running of recorded events.
    #[command(flatten)]
    pub dispatch: DispatchConfig,

    /// Who may call, and how this service proves who it is.
    #[command(flatten)]
    pub security: SecurityConfig,

    /// gRPC.
    #[command(flatten)]
    pub rpc: ServerConfig,

    /// Metrics and liveness over HTTP.
    #[command(flatten)]
    pub endpoint: EndpointArgs,

    /// Traces.
    #[command(flatten)]
    pub traces: TracesArgs,
}

/// Settings of the committers.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct CommitterConfig {
    /// Tasks that record published events, each with a connection of its own
    #[arg(long, env = "CHATFN_EVENT_INGEST_COMMITTERS", value_name = "COUNT", default_value_t = 2, value_parser = count)]
    pub committers: usize,

    /// Most events that wait to be recorded; more are refused. One account can have about half of it
    #[arg(long, env = "CHATFN_EVENT_INGEST_QUEUE", value_name = "COUNT", default_value_t = 16 * 1024, value_parser = count)]
    pub queue: usize,

    /// Most memory that waiting events may take, in KiB; more are refused. One account can have about half of it
    #[arg(long, env = "CHATFN_EVENT_INGEST_QUEUE_KIB", value_name = "KIB", default_value_t = 128 * 1024, value_parser = count)]
    pub queue_kib: usize,
}

/// Settings of streams of events.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct StreamConfig {
    /// Most events of one stream that wait for their answers; no more are read until some are answered
    #[arg(long = "stream-window", env = "CHATFN_EVENT_INGEST_STREAM_WINDOW", value_name = "COUNT", default_value_t = 1024, value_parser = count)]
    pub window: usize,

    /// A stream is cut off when its client takes no answer for this long
    #[arg(long = "stream-stall", env = "CHATFN_EVENT_INGEST_STREAM_STALL", value_name = "DURATION", value_parser = parse_duration, default_value = "10s")]
    pub stall: Duration,

    /// A stream over which no event comes for this long is ended
    #[arg(long = "stream-idle", env = "CHATFN_EVENT_INGEST_STREAM_IDLE", value_name = "DURATION", value_parser = parse_duration, default_value = "5m")]
    pub idle: Duration,

    /// A stream is ended after about this long, so that clients spread over the replicas again
    #[arg(long = "stream-max-age", env = "CHATFN_EVENT_INGEST_STREAM_MAX_AGE", value_name = "DURATION", value_parser = parse_duration, default_value = "30m")]
    pub max_age: Duration,
}

/// How long events are kept.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct RetentionConfig {
    /// Days, besides today's, for which events are kept with their attempts and outcomes
    #[arg(long, env = "CHATFN_EVENT_INGEST_RETENTION_DAYS", value_name = "DAYS", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=3650))]
    pub retention_days: u16,

    /// Days, besides today's, within which an event id that was published before is found. More of them make recording slower. The
    /// ids of events that happened earlier (occur_time) are looked for in all days since
    #[arg(long, env = "CHATFN_EVENT_INGEST_DEDUPE_DAYS", value_name = "DAYS", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=3650))]
    pub dedupe_days: u16,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self { retention_days: 30, dedupe_days: 2 }
    }
}

/// Settings of the dispatch.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct DispatchConfig {
    /// How long a lane stays with a replica that has fallen silent. Postgres ends its sessions that are idle in a transaction
    /// after half of it, even if --database-idle-in-transaction-timeout is longer
    #[arg(long, env = "CHATFN_EVENT_INGEST_LEASE_TTL", value_name = "DURATION", value_parser = parse_duration, default_value = "10s")]
    pub lease_ttl: Duration,

    /// Most runs in progress, over all lanes of this replica. A quarter is kept for accounts that run less than others
    #[arg(long, env = "CHATFN_EVENT_INGEST_MAX_RUNS", value_name = "COUNT", default_value_t = 128, value_parser = count)]
    pub max_runs: usize,

    /// Tasks that record what becomes of events, each with a connection of its own
    #[arg(long, env = "CHATFN_EVENT_INGEST_JOURNAL_WRITERS", value_name = "COUNT", default_value_t = 2, value_parser = count)]
    pub journal_writers: usize,

    /// At shutdown: how long runs in progress may take to end
    #[arg(long, env = "CHATFN_EVENT_INGEST_DRAIN_RUNS", value_name = "DURATION", value_parser = parse_duration, default_value = "20s")]
    pub drain_runs: Duration,
}

/// A number of things of which there must be at least one.
fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("must be a whole number from 1".to_owned()),
        Ok(count) => Ok(count),
    }
}

impl Default for CommitterConfig {
    fn default() -> Self {
        Self { committers: 2, queue: 16 * 1024, queue_kib: 128 * 1024 }
    }
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            window: 1024,
            stall: Duration::from_secs(10),
            idle: Duration::from_secs(300),
            max_age: Duration::from_secs(1800),
        }
    }
}

impl Default for DispatchConfig {
    fn default() -> Self {
        Self {
            lease_ttl: Duration::from_secs(10),
            max_runs: 128,
            journal_writers: 2,
            drain_runs: Duration::from_secs(20),
        }
    }
}

/// Settings that do not fit together.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// Leases this short are lost by every hiccup.
    #[error("--lease-ttl ({0:?}) must be from 200ms to 5m")]
    LeaseTtl(Duration),
    /// A queue that the largest call does not fit into refuses it for ever.
    #[error("--{setting} ({value}) must be at least {least}, which the largest PublishEvents call may need")]
    Queue {
        /// The setting.
        setting: &'static str,
        /// Its value.
        value: usize,
        /// The smallest that works.
        least: usize,
    },
    /// Ids cannot be looked for where nothing is kept.
    #[error("--dedupe-days ({dedupe}) must not exceed --retention-days ({retention})")]
    Dedupe {
        /// `--dedupe-days`.
        dedupe: u16,
        /// `--retention-days`.
        retention: u16,
    },
    /// Streams that end before they are of use.
    #[error("--{0} must be greater than zero")]
    Zero(&'static str),
    /// Traces.
    #[error(transparent)]
    Traces(#[from] chatfn_telemetry::TracesConfigError),
    /// The gRPC settings contradict one another.
    #[error(transparent)]
    Rpc(#[from] chatfn_rpc::ConfigError),
}

impl Config {
    /// The defaults, for a database.
    pub fn new(database: PoolConfig) -> Self {
        let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let uri = |port: u16| format!("http://{}", address(port)).parse().unwrap_or_default();
        Self {
            listen: address(50053),
            registry: uri(50051),
            invoker: uri(50052),
            snapshot: SnapshotArgs::default(),
            database,
            committers: CommitterConfig::default(),
            quotas: QuotaConfig::default(),
            streams: StreamConfig::default(),
            retention: RetentionConfig::default(),
            dispatch: DispatchConfig::default(),
            security: SecurityConfig::default(),
            rpc: ServerConfig::default(),
            endpoint: EndpointArgs::default(),
            traces: TracesArgs::default(),
        }
    }

    /// The longest that a shutdown takes; a container's termination grace must be longer.
    pub fn longest_shutdown(&self) -> Duration {
        // Committers, lanes and the journal, one after the other.
        let tasks = 3 * crate::FLUSH_GRACE + self.dispatch.drain_runs;
        self.rpc.longest_drain() + tasks + crate::CLOSE_GRACE + FLUSH_LIMIT
    }

    /// Checks that the settings fit together.
    ///
    /// # Errors
    /// The first that does not.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.problems().into_iter().next().map_or(Ok(()), Err)
    }

    /// Adds what is wrong with the settings, and with the files that they name.
    pub fn check(&self, problems: &mut Problems) {
        problems.check_flag("listen", check_listen(self.listen, &self.security));
        problems.check_flag("registry", ClientConfig::check(&self.registry, &self.security));
        problems.check_flag("invoker", ClientConfig::check(&self.invoker, &self.security));
        problems.check_flag("database-url", self.database.connect_options());
        self.snapshot.check(crate::WATCHER, crate::WATCHES_SOURCE, problems);
        problems.check(self.quotas.load());
        Security::check(&self.security, Service::EventIngest, problems);
        problems.check_flag("telemetry-listen", self.endpoint.validate());
        problems.add_all(self.problems());
    }

    /// All that does not fit together.
    fn problems(&self) -> Vec<ConfigError> {
        let mut problems = Vec::new();
        let ttl = self.dispatch.lease_ttl;
        if !(Duration::from_millis(200)..=Duration::from_secs(300)).contains(&ttl) {
            problems.push(ConfigError::LeaseTtl(ttl));
        }
        for (setting, value, least) in [
            ("queue", self.committers.queue, MAX_CALL_EVENTS),
            ("queue-kib", self.committers.queue_kib, MAX_CALL_KIB),
        ] {
            if value < least {
                problems.push(ConfigError::Queue { setting, value, least });
            }
        }
        let RetentionConfig { dedupe_days: dedupe, retention_days: retention } = self.retention;
        if dedupe > retention {
            problems.push(ConfigError::Dedupe { dedupe, retention });
        }
        for (setting, value) in [
            ("stream-stall", self.streams.stall),
            ("stream-idle", self.streams.idle),
            ("stream-max-age", self.streams.max_age),
        ] {
            if value.is_zero() {
                problems.push(ConfigError::Zero(setting));
            }
        }
        problems.extend(self.traces.validate().err().map(ConfigError::Traces));
        problems.extend(self.rpc.problems().into_iter().map(ConfigError::Rpc));
        problems
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn command_line_and_code_share_their_defaults() {
        let url = "postgres://me@db/chat";
        let parsed = Config::try_parse_from(["chatfn-event-ingest", "--database-url", url]).unwrap();
        let built = Config::new(PoolConfig::new(url.into()));
        assert_eq!(format!("{parsed:?}"), format!("{built:?}"));
        assert_eq!(parsed.validate(), Ok(()));
    }

    #[test]
    fn a_queue_must_hold_the_largest_call() {
        let mut config = Config::new(PoolConfig::new("postgres://me@db/chat".into()));
        config.committers.queue = MAX_CALL_EVENTS - 1;
        let error = config.validate().unwrap_err();
        assert!(error.to_string().starts_with("--queue (499) must be at least 500"), "{error}");
        config.committers.queue = MAX_CALL_EVENTS;
        config.committers.queue_kib = 4096;
        assert!(matches!(config.validate(), Err(ConfigError::Queue { setting: "queue-kib", .. })));
    }

    #[test]
    fn leases_that_cannot_work_are_refused() {
        let mut config = Config::new(PoolConfig::new("postgres://me@db/chat".into()));
        config.dispatch.lease_ttl = Duration::from_millis(10);
        assert!(matches!(config.validate(), Err(ConfigError::LeaseTtl(_))));
    }
}
