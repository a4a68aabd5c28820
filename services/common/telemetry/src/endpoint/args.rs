//! Where a service tells of itself.

use std::{io, net::SocketAddr, str::FromStr, sync::Arc, sync::OnceLock};

use tokio::net::TcpListener;

use super::{Endpoint, State, serve};
use crate::{Metrics, process};

/// Where to tell, if at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// Nowhere.
    Off,
    /// At this address; port 0 picks a free one, which the log tells.
    At(SocketAddr),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            _ => text
                .parse()
                .map(Self::At)
                .map_err(|_| "write an address and a port, such as 127.0.0.1:9090, or off".into()),
        }
    }
}

/// Settings of metrics and liveness over HTTP; flatten them into a service's clap arguments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct EndpointArgs {
    /// Where to serve /metrics, /livez and /readyz over HTTP: an address and a port, or off [default: 127.0.0.1, port 9090
    /// (registry), 9091 (invoker) or 9092 (event-ingest)]
    #[arg(long, env = "CHATFN_TELEMETRY_LISTEN", value_name = "ADDRESS|off")]
    pub telemetry_listen: Option<Listen>,

    /// Whether that address may be one that other machines reach. Nobody is asked who calls: see to it, as by a
    /// NetworkPolicy, that only the scraper does
    #[arg(
        long,
        env = "CHATFN_TELEMETRY_EXPOSE",
        value_name = "BOOL",
        default_value_t = false,
        default_missing_value = "true",
        num_args = 0..=1,
        action = clap::ArgAction::Set
    )]
    pub telemetry_expose: bool,
}

/// Why metrics cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// Other machines reach the address, and nobody said that they may.
    #[error(
        "refusing to serve metrics on {0}: other machines reach it, and callers are not asked who they are; let only your \
         scraper through, as by a NetworkPolicy, and set --telemetry-expose; or choose a loopback address, or off"
    )]
    Exposed(SocketAddr),
    /// The operating system refused.
    #[error(
        "cannot listen on {addr} for metrics; is another process using the port (Prometheus itself has 9090)? Choose another \
         with --telemetry-listen, or off"
    )]
    Listen {
        /// The address asked for.
        addr: SocketAddr,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

impl EndpointArgs {
    /// Tells nothing: for services that a test starts in its own process.
    pub const OFF: Self = Self { telemetry_listen: Some(Listen::Off), telemetry_expose: false };

    /// Checks the settings.
    ///
    /// # Errors
    /// Other machines reach the address, and nobody said that they may.
    pub fn validate(&self) -> Result<(), EndpointError> {
        match self.telemetry_listen {
            Some(Listen::At(addr)) if !self.telemetry_expose && !addr.ip().to_canonical().is_loopback() => {
                Err(EndpointError::Exposed(addr))
            }
            _ => Ok(()),
        }
    }

    /// Begins to tell of `service`, at `port` unless the settings say otherwise: it is alive, and not ready. Do this before
    /// anything slow, so that a taken port is found at once, and that one can see the start.
    ///
    /// # Errors
    /// The address is not allowed or cannot be listened on.
    ///
    /// # Panics
    /// Outside a runtime.
    pub async fn start(
        &self,
        service: &'static str,
        version: &'static str,
        port: u16,
    ) -> Result<Endpoint, EndpointError> {
        let metrics = Metrics::new();
        process::add(&metrics, service, version);
        let state = Arc::new(State { metrics: metrics.clone(), ready: OnceLock::new() });
        let listen = self.telemetry_listen.unwrap_or(Listen::At(SocketAddr::from(([127, 0, 0, 1], port))));
        self.validate()?;
        let Listen::At(addr) = listen else {
            return Ok(Endpoint { metrics, address: None, state, task: None });
        };
        let failed = |source| EndpointError::Listen { addr, source };
        let listener = TcpListener::bind(addr).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        tracing::info!(metrics.addr = %address, "serving metrics on http://{address}/metrics");
        let task = tokio::spawn(serve::run(listener, Arc::clone(&state)));
        Ok(Endpoint { metrics, address: Some(address), state, task: Some(task) })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        endpoint: EndpointArgs,
    }

    fn parse(flags: &[&str]) -> EndpointArgs {
        Program::try_parse_from(["program"].iter().chain(flags)).map(|it| it.endpoint).unwrap()
    }

    #[test]
    fn settings_are_read() {
        assert_eq!(parse(&[]), EndpointArgs::default());
        assert_eq!(parse(&["--telemetry-listen=off"]), EndpointArgs::OFF);
        assert!(parse(&["--telemetry-expose"]).telemetry_expose);
        assert!(parse(&["--telemetry-expose=true"]).telemetry_expose);
        assert!(Program::try_parse_from(["program", "--telemetry-listen=9090"]).is_err());
    }

    #[tokio::test]
    async fn others_reach_it_only_when_somebody_said_so() {
        for address in ["0.0.0.0:0", "[::]:0"] {
            let listen = format!("--telemetry-listen={address}");
            let refused = parse(&[&listen]).start("registry", "1", 0).await.expect_err(address);
            assert!(refused.to_string().contains("--telemetry-expose"), "{refused}");
        }
        let exposed = parse(&["--telemetry-listen=0.0.0.0:0", "--telemetry-expose"]);
        let endpoint = exposed.start("registry", "1", 0).await.expect("somebody said so");
        assert!(endpoint.address().is_some_and(|address| address.port() != 0));
    }

    #[tokio::test]
    async fn a_taken_port_is_explained() {
        let first = EndpointArgs::default().start("registry", "1", 0).await.expect("a free port");
        let port = first.address().expect("it listens").port();
        let error = EndpointArgs::default().start("registry", "1", port).await.expect_err("it is taken");
        assert!(error.to_string().contains("--telemetry-listen, or off"), "{error}");
    }

    #[tokio::test]
    async fn off_listens_nowhere() {
        let endpoint = EndpointArgs::OFF.start("registry", "1", 0).await.expect("nothing to refuse");
        assert_eq!(endpoint.address(), None);
    }
}
