//! The sub-command `health` of every service's program: how the service that runs here is.
//!
//! It is what a container's probes run. The probes that Kubernetes has for gRPC speak no TLS, and a server that others can
//! reach speaks nothing else.

use std::{
    error::Error as _,
    fs,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use http::Uri;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{ClientConfig, ClientConfigError, SecurityConfig, TlsError, connect};

/// Longest that the answer may take. A probe's own limit should be longer, or nobody reads what was wrong.
pub const HEALTH_LIMIT: Duration = Duration::from_secs(3);

/// What every HTTP/2 client says first. A server of ours answers it, or closes the connection since it wants TLS.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The flags of the sub-command; flatten them into a variant of a program's sub-commands.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct HealthArgs {
    /// Ask only whether the process answers at all, whatever it says. Without it: whether calls should be sent here
    #[arg(long)]
    pub live: bool,
}

/// Why the service is not well.
#[derive(Debug, thiserror::Error)]
enum HealthError {
    /// It answers, and wants no calls.
    #[error(
        "{0} says {1}: it starts, drains, or waits for what calls need (the registry, the database); its log says which"
    )]
    NotServing(Uri, &'static str),
    /// The question was not answered.
    #[error(
        "{uri} does not answer ({message}): it starts, has ended, or its certificate is not valid for this name; see its log"
    )]
    Call {
        /// Where it was asked.
        uri: Uri,
        /// What went wrong.
        message: String,
    },
    /// Nobody listens, or nothing comes back.
    #[error("{0} is dead: no process listens there, or it does nothing about a connection; start it again")]
    Dead(SocketAddr, #[source] io::Error),
    /// The authorities cannot be read.
    #[error("{} (--tls-ca) cannot be read", .0.display())]
    Unreadable(PathBuf, #[source] io::Error),
    /// The authorities cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address cannot be asked.
    #[error(transparent)]
    Client(#[from] ClientConfigError),
    /// The operating system gives no runtime.
    #[error("cannot ask")]
    Runtime(#[source] io::Error),
}

impl HealthArgs {
    /// Asks the service that listens on `listen`, within [`HEALTH_LIMIT`]. A service that listens on all addresses is
    /// asked at `localhost`, which its certificate must name then. What is wrong goes to standard error, in one line.
    ///
    /// # Panics
    /// Within a runtime: it has one of its own.
    pub fn run(self, listen: SocketAddr, security: &SecurityConfig) -> ExitCode {
        let Err(error) = self.ask(listen, security) else { return ExitCode::SUCCESS };
        match error.source() {
            Some(cause) => eprintln!("{error}: {cause}"),
            None => eprintln!("{error}"),
        }
        ExitCode::FAILURE
    }

    fn ask(self, listen: SocketAddr, security: &SecurityConfig) -> Result<(), HealthError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(HealthError::Runtime)?;
        if self.live {
            let address = reachable(listen);
            runtime.block_on(live(address)).map_err(|error| HealthError::Dead(address, error))
        } else {
            runtime.block_on(ready(listen, security))
        }
    }
}

/// Whether calls should be sent to the service.
async fn ready(listen: SocketAddr, security: &SecurityConfig) -> Result<(), HealthError> {
    let scheme = if security.is_closed() { "https" } else { "http" };
    let host = match listen.ip().is_unspecified() {
        true => format!("localhost:{}", listen.port()),
        false => listen.to_string(),
    };
    let uri: Uri =
        format!("{scheme}://{host}").parse().unwrap_or_else(|_| unreachable!("an address is an authority"));
    let config = match &security.tls_ca {
        Some(ca) => {
            let authorities = fs::read(ca).map_err(|error| HealthError::Unreadable(ca.clone(), error))?;
            ClientConfig::trusting(uri.clone(), &authorities)?
        }
        None => ClientConfig::new(uri.clone()),
    };
    let client = connect(ClientConfig { default_timeout: HEALTH_LIMIT, ..config })?;
    let answer = HealthClient::new(client).check(HealthCheckRequest::default()).await;
    let answer = answer
        .map_err(|status| HealthError::Call { uri: uri.clone(), message: status.message().to_owned() })?;
    match answer.into_inner().status() {
        ServingStatus::Serving => Ok(()),
        other => Err(HealthError::NotServing(uri, other.as_str_name())),
    }
}

/// Whether the process does anything about a connection. Closing it at once is a sign of life, too: a server that has as
/// many connections as it may have must not be taken for dead, and neither must one whose certificate has expired.
async fn live(address: SocketAddr) -> io::Result<()> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(PREFACE).await?;
        stream.read(&mut [0]).await
    };
    match tokio::time::timeout(HEALTH_LIMIT, exchange).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
            Ok(())
        }
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::new(ErrorKind::TimedOut, format!("no answer within {HEALTH_LIMIT:?}"))),
    }
}

/// Where this machine reaches what listens on `listen`.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_addresses_are_asked_at_loopback() {
        for (listen, expected) in [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "[::1]:1"),
            ("127.0.0.2:1", "127.0.0.2:1"),
            ("10.0.0.1:1", "10.0.0.1:1"),
        ] {
            let listen = listen.parse().expect("an address");
            assert_eq!(reachable(listen).to_string(), expected);
        }
    }

    #[tokio::test]
    async fn who_closes_the_connection_lives_and_who_does_not_listen_is_dead() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let close = async { drop(listener.accept().await.expect("a connection")) };
        let (lives, ()) = tokio::join!(live(address), close);
        drop(listener);
        lives.expect("it closed the connection");
        let error = live(address).await.expect_err("nobody listens");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
}
