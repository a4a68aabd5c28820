//! Settings of the service.

use std::net::SocketAddr;

use chatfn_pg::PoolConfig;
use chatfn_rpc::ServerConfig;
use http::Uri;

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

    /// Changes that a watcher of deployments may be behind before it is cut off
    #[arg(
        long,
        env = "CHATFN_REGISTRY_WATCH_BACKLOG",
        value_name = "COUNT",
        default_value_t = 256,
        value_parser = clap::value_parser!(u32).range(1..=65_536)
    )]
    pub watch_backlog: u32,

    /// Connections to Postgres for watches, besides those for calls
    #[arg(
        long,
        env = "CHATFN_REGISTRY_WATCH_CONNECTIONS",
        value_name = "COUNT",
        default_value_t = 4,
        value_parser = clap::value_parser!(u32).range(3..=1_000)
    )]
    pub watch_connections: u32,

    /// Postgres.
    #[command(flatten)]
    pub database: PoolConfig,

    /// The gRPC server.
    #[command(flatten)]
    pub rpc: ServerConfig,
}

impl Config {
    /// The defaults of the command line, for a database and an invoker.
    pub fn new(database: PoolConfig, invoker: Uri) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 50051)),
            invoker,
            watch_backlog: 256,
            watch_connections: 4,
            database,
            rpc: ServerConfig::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn the_command_line_defaults_are_those_of_new() {
        let parsed = Config::parse_from(["x", "--database-url", "postgres://me@db/chat"]);
        let uri = Uri::from_static("http://127.0.0.1:50052");
        let built = Config::new(PoolConfig::new("postgres://me@db/chat".into()), uri);
        assert_eq!(format!("{parsed:?}"), format!("{built:?}"));
    }
}
