//! Settings of the lambdas' outbound HTTP.

use std::{
    net::{AddrParseError, IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use chatfn_rpc::parse_duration;
use ipnet::IpNet;

/// Settings of the lambdas' outbound HTTP.
#[derive(Debug, Clone, clap::Args)]
pub struct EgressConfig {
    /// Ranges that lambdas may reach although they are not public, for example 10.1.0.0/16.
    #[arg(
        id = "egress_allow_cidr",
        long = "egress-allow-cidr",
        env = "CHATFN_INVOKER_EGRESS_ALLOW_CIDR",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    pub allow: Vec<IpNet>,
    /// Ranges that lambdas may never reach, for example a cluster with public addresses.
    #[arg(
        id = "egress_deny_cidr",
        long = "egress-deny-cidr",
        env = "CHATFN_INVOKER_EGRESS_DENY_CIDR",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    pub deny: Vec<IpNet>,
    /// PEM file of certificate authorities that lambdas trust besides the system's.
    #[arg(
        id = "egress_ca_file",
        long = "egress-ca-file",
        env = "CHATFN_INVOKER_EGRESS_CA_FILE",
        value_name = "FILE"
    )]
    pub ca_file: Option<PathBuf>,
    /// Name servers that are asked for lambdas instead of the system's and its hosts file, for example 10.1.0.53 or
    /// [2001:db8::53]:5353: with public ones, names of the cluster mean nothing to lambdas.
    #[arg(
        id = "egress_name_server",
        long = "egress-name-server",
        env = "CHATFN_INVOKER_EGRESS_NAME_SERVER",
        value_name = "ADDRESS",
        value_delimiter = ',',
        value_parser = parse_name_server
    )]
    pub name_servers: Vec<SocketAddr>,
    /// Longest wait for the addresses of a name.
    #[arg(id = "egress_dns_timeout", long = "egress-dns-timeout", env = "CHATFN_INVOKER_EGRESS_DNS_TIMEOUT", value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    pub dns_timeout: Duration,
    /// Longest wait for a connection to one address, and again for its TLS handshake.
    #[arg(id = "egress_connect_timeout", long = "egress-connect-timeout", env = "CHATFN_INVOKER_EGRESS_CONNECT_TIMEOUT", value_name = "DURATION", default_value = "3s", value_parser = parse_duration)]
    pub connect_timeout: Duration,
    /// Requests per second of one function, redirects included.
    #[arg(id = "egress_rate", long = "egress-rate", env = "CHATFN_INVOKER_EGRESS_RATE", value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rate: u32,
    /// Most bytes of one request body, and of one response body.
    #[arg(id = "egress_body_bytes", long = "egress-body-bytes", env = "CHATFN_INVOKER_EGRESS_BODY_BYTES", value_name = "BYTES", default_value_t = 5 * 1024 * 1024)]
    pub body_bytes: usize,
    /// Most bytes of all response bodies together that lambdas have not taken over yet. A quarter is kept for accounts
    /// that hold less than others.
    #[arg(id = "egress_buffer_bytes", long = "egress-buffer-bytes", env = "CHATFN_INVOKER_EGRESS_BUFFER_BYTES", value_name = "BYTES", default_value_t = 256 * 1024 * 1024)]
    pub buffer_bytes: usize,
}

impl Default for EgressConfig {
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            deny: Vec::new(),
            ca_file: None,
            name_servers: Vec::new(),
            dns_timeout: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(3),
            rate: 20,
            body_bytes: 5 * 1024 * 1024,
            buffer_bytes: 256 * 1024 * 1024,
        }
    }
}

/// An address, with the port of DNS unless another is given.
fn parse_name_server(text: &str) -> Result<SocketAddr, AddrParseError> {
    const PORT: u16 = 53;
    text.parse().or_else(|_| Ok(SocketAddr::new(text.parse::<IpAddr>()?, PORT)))
}
