//! Where a server may listen.

use std::{io, net::SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

use crate::{SecurityConfig, SecurityError};

/// Connections that the system keeps until they are accepted, or fewer if it says so (`net.core.somaxconn`). Of those beyond it a client
/// may take itself for connected, and, if it says nothing, waits without end.
const BACKLOG: u32 = 4096;

/// Why a server does not listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address can be reached from other machines.
    #[error(
        "refusing to listen on {0}: callers are not authenticated, so only a loopback address (127.0.0.1 or [::1]) is \
         allowed; set --tls-cert, --tls-key and --tls-ca, and for people's tokens --token-keys, --token-issuer and \
         --token-audience"
    )]
    NotLoopback(SocketAddr),
    /// The settings of identities contradict one another.
    #[error(transparent)]
    Security(#[from] SecurityError),
    /// The operating system refused.
    #[error("cannot listen on {addr}; is another process using the port?")]
    Listen {
        /// The address asked for.
        addr: SocketAddr,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// Checks that nobody on another machine can reach `addr`, for servers that do not ask who calls.
///
/// # Errors
/// [`BindError::NotLoopback`].
pub(super) fn require_loopback(addr: SocketAddr) -> Result<(), BindError> {
    if addr.ip().to_canonical().is_loopback() { Ok(()) } else { Err(BindError::NotLoopback(addr)) }
}

/// Checks that `addr` may be listened on with these settings, which are consistent, without doing so.
///
/// # Errors
/// [`BindError::NotLoopback`].
pub fn check_listen(addr: SocketAddr, security: &SecurityConfig) -> Result<(), BindError> {
    if security.is_closed() { Ok(()) } else { require_loopback(addr) }
}

/// Listens on `addr`, which is a loopback one unless callers will have to prove who they are; port 0 picks a free one.
/// Do this before anything slow, so that a taken port is found at once.
///
/// # Errors
/// The settings of `security` contradict one another, or the address is not allowed or cannot be listened on.
pub async fn bind(addr: SocketAddr, security: &SecurityConfig) -> Result<TcpListener, BindError> {
    security.validate()?;
    check_listen(addr, security)?;
    listen(addr).map_err(|source| BindError::Listen { addr, source })
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // As TcpListener::bind does: a port is free again at once when a server ends.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn many_may_connect_before_any_is_accepted() {
        let most: usize =
            std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap().trim().parse().unwrap();
        let addr = "127.0.0.1:0".parse().unwrap();
        let listener = bind(addr, &SecurityConfig::default()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut connected = Vec::new();
        for _ in 0..most.min(400) {
            let connect = tokio::net::TcpStream::connect(addr);
            connected.push(
                tokio::time::timeout(std::time::Duration::from_secs(60), connect)
                    .await
                    .expect("room")
                    .unwrap(),
            );
        }
    }

    #[test]
    fn only_loopback() {
        for good in ["127.0.0.1:1", "127.9.9.9:0", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(require_loopback(good.parse().expect("an address")).is_ok(), "{good}");
        }
        for bad in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[::ffff:10.0.0.1]:1", "[fe80::1]:1"] {
            let error = require_loopback(bad.parse().expect("an address")).expect_err(bad);
            assert!(error.to_string().contains("set --tls-cert"), "{error}");
        }
    }
}
