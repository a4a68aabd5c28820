//! The settings of a server.

use std::time::Duration;

use crate::parse_duration;

/// Settings of a gRPC server; flatten it into a service's clap arguments.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct ServerConfig {
    /// Deadline of a call whose caller gives none
    #[arg(long = "rpc-default-timeout", env = "CHATFN_RPC_DEFAULT_TIMEOUT", value_name = "DURATION", value_parser = parse_duration, default_value = "10s")]
    pub default_timeout: Duration,

    /// Longest deadline that a caller may ask for; more is cut down to it
    #[arg(long = "rpc-max-timeout", env = "CHATFN_RPC_MAX_TIMEOUT", value_name = "DURATION", value_parser = parse_duration, default_value = "60s")]
    pub max_timeout: Duration,

    /// Calls with less time left than this are refused before any work
    #[arg(long = "rpc-min-budget", env = "CHATFN_RPC_MIN_BUDGET", value_name = "DURATION", value_parser = parse_duration, default_value = "1ms")]
    pub min_budget: Duration,

    /// Most calls in progress, over all connections; more are refused with RESOURCE_EXHAUSTED
    #[arg(
        long = "rpc-max-calls",
        env = "CHATFN_RPC_MAX_CALLS",
        value_name = "COUNT",
        default_value_t = 1024
    )]
    pub max_calls: usize,

    /// Most memory that the messages of calls in progress may take, as they come, in KiB; more are refused with
    /// RESOURCE_EXHAUSTED. Decoded, most take as much again; a payload given as a Struct can take ten times as much
    #[arg(
        long = "rpc-max-request-kib",
        env = "CHATFN_RPC_MAX_REQUEST_KIB",
        value_name = "KIB",
        default_value_t = 256 * 1024,
        value_parser = clap::value_parser!(u32).range(8 * 1024..=64 * 1024 * 1024)
    )]
    pub max_request_kib: u32,

    /// When a refused caller is told to try again
    #[arg(long = "rpc-retry-after", env = "CHATFN_RPC_RETRY_AFTER", value_name = "DURATION", value_parser = parse_duration, default_value = "250ms")]
    pub retry_after: Duration,

    /// Most open connections; more are closed at once
    #[arg(
        long = "rpc-max-connections",
        env = "CHATFN_RPC_MAX_CONNECTIONS",
        value_name = "COUNT",
        default_value_t = 2048
    )]
    pub max_connections: usize,

    /// Most open connections from one address; more are closed at once
    #[arg(
        long = "rpc-max-connections-per-peer",
        env = "CHATFN_RPC_MAX_CONNECTIONS_PER_PEER",
        value_name = "COUNT",
        default_value_t = 512
    )]
    pub max_connections_per_peer: usize,

    /// Most calls in progress on one connection
    #[arg(
        long = "rpc-max-streams",
        env = "CHATFN_RPC_MAX_STREAMS",
        value_name = "COUNT",
        default_value_t = 256
    )]
    pub max_concurrent_streams: u32,

    /// When a connection is told to go away, at the latest, so that its client connects again, and finds other replicas;
    /// up to a tenth earlier, so that not all come at once. Calls in progress finish; one that is just being sent may come
    /// back as not taken, to be sent again
    #[arg(long = "rpc-max-connection-age", env = "CHATFN_RPC_MAX_CONNECTION_AGE", value_name = "DURATION", value_parser = parse_duration, default_value = "10m")]
    pub max_connection_age: Duration,

    /// A new connection must have spoken HTTP/2 by then, its TLS handshake included
    #[arg(long = "rpc-handshake-timeout", env = "CHATFN_RPC_HANDSHAKE_TIMEOUT", value_name = "DURATION", value_parser = parse_duration, default_value = "5s")]
    pub handshake_timeout: Duration,

    /// How often each connection is pinged
    #[arg(long = "rpc-keepalive", env = "CHATFN_RPC_KEEPALIVE", value_name = "DURATION", value_parser = parse_duration, default_value = "10s")]
    pub keepalive_interval: Duration,

    /// A ping must be answered by then, or the connection is closed
    #[arg(long = "rpc-keepalive-timeout", env = "CHATFN_RPC_KEEPALIVE_TIMEOUT", value_name = "DURATION", value_parser = parse_duration, default_value = "5s")]
    pub keepalive_timeout: Duration,

    /// At shutdown: how long to go on accepting calls while health says NOT_SERVING, so that load balancers notice
    #[arg(long = "rpc-drain-delay", env = "CHATFN_RPC_DRAIN_DELAY", value_name = "DURATION", value_parser = parse_duration, default_value = "0s")]
    pub drain_delay: Duration,

    /// At shutdown: how long calls in progress may take to finish, after the delay
    #[arg(long = "rpc-drain-timeout", env = "CHATFN_RPC_DRAIN_TIMEOUT", value_name = "DURATION", value_parser = parse_duration, default_value = "20s")]
    pub drain_timeout: Duration,
}

/// Settings that contradict one another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// One setting must not exceed another.
    #[error("--{smaller} ({smaller_value:?}) must not exceed --{larger} ({larger_value:?})")]
    Order {
        /// The setting that is too large.
        smaller: &'static str,
        /// Its value.
        smaller_value: Duration,
        /// The setting that bounds it.
        larger: &'static str,
        /// Its value.
        larger_value: Duration,
    },
    /// A setting must be at least one, or a timer would fire without end.
    #[error("--{0} must be greater than zero")]
    Zero(&'static str),
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            default_timeout: Duration::from_secs(10),
            max_timeout: Duration::from_secs(60),
            min_budget: Duration::from_millis(1),
            max_calls: 1024,
            max_request_kib: 256 * 1024,
            retry_after: Duration::from_millis(250),
            max_connections: 2048,
            max_connections_per_peer: 512,
            max_concurrent_streams: 256,
            max_connection_age: Duration::from_secs(600),
            handshake_timeout: Duration::from_secs(5),
            keepalive_interval: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(5),
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(20),
        }
    }
}

impl ServerConfig {
    /// Checks that the settings fit together.
    ///
    /// # Errors
    /// Names the first pair that does not.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.problems().into_iter().next().map_or(Ok(()), Err)
    }

    /// All that does not fit together.
    pub fn problems(&self) -> Vec<ConfigError> {
        let mut problems = Vec::new();
        for (name, zero) in [
            ("rpc-default-timeout", self.default_timeout.is_zero()),
            ("rpc-max-calls", self.max_calls == 0),
            ("rpc-max-connections", self.max_connections == 0),
            ("rpc-max-connections-per-peer", self.max_connections_per_peer == 0),
            ("rpc-max-streams", self.max_concurrent_streams == 0),
            ("rpc-max-connection-age", self.max_connection_age.is_zero()),
            ("rpc-handshake-timeout", self.handshake_timeout.is_zero()),
            ("rpc-keepalive", self.keepalive_interval.is_zero()),
            ("rpc-keepalive-timeout", self.keepalive_timeout.is_zero()),
        ] {
            if zero {
                problems.push(ConfigError::Zero(name));
            }
        }
        for (smaller, smaller_value, larger, larger_value) in [
            ("rpc-default-timeout", self.default_timeout, "rpc-max-timeout", self.max_timeout),
            ("rpc-min-budget", self.min_budget, "rpc-default-timeout", self.default_timeout),
        ] {
            if smaller_value > larger_value {
                problems.push(ConfigError::Order { smaller, smaller_value, larger, larger_value });
            }
        }
        problems
    }

    /// The longest that a drain takes, hard limit included; a container's termination grace must be longer.
    pub fn longest_drain(&self) -> Duration {
        self.drain_delay + self.drain_timeout + super::serve::CUT_GRACE
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        rpc: ServerConfig,
    }

    #[test]
    fn command_line_and_code_share_their_defaults() {
        let parsed = Program::try_parse_from(["program"]).expect("all settings have defaults").rpc;
        assert_eq!(parsed, ServerConfig::default());
        assert_eq!(parsed.validate(), Ok(()));
    }

    #[test]
    fn contradictions_are_named() {
        let config = ServerConfig { default_timeout: Duration::from_secs(90), ..ServerConfig::default() };
        let error = config.validate().expect_err("longer than the maximum");
        assert_eq!(error.to_string(), "--rpc-default-timeout (90s) must not exceed --rpc-max-timeout (60s)");
        let config = ServerConfig { max_calls: 0, ..ServerConfig::default() };
        assert_eq!(config.validate(), Err(ConfigError::Zero("rpc-max-calls")));
        let both =
            ServerConfig { max_calls: 0, keepalive_interval: Duration::ZERO, ..ServerConfig::default() };
        assert_eq!(both.problems(), [ConfigError::Zero("rpc-max-calls"), ConfigError::Zero("rpc-keepalive")]);
    }
}
