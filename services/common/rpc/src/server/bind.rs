//! Where a server may listen.

use std::{io, net::SocketAddr};

use tokio::net::TcpListener;

/// Why a server does not listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address can be reached from other machines.
    #[error(
        "refusing to listen on {0}: calls are not authenticated yet, so only a loopback address \
         (127.0.0.1 or [::1]) is allowed"
    )]
    NotLoopback(SocketAddr),
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

/// Checks that nobody on another machine can reach `addr`: there is no authentication yet.
///
/// # Errors
/// [`BindError::NotLoopback`].
pub fn require_loopback(addr: SocketAddr) -> Result<(), BindError> {
    if addr.ip().to_canonical().is_loopback() { Ok(()) } else { Err(BindError::NotLoopback(addr)) }
}

/// Listens on a loopback address; port 0 picks a free one. Do this before anything slow, so that a taken
/// port is found at once.
///
/// # Errors
/// The address is not a loopback one, or cannot be listened on.
pub async fn bind(addr: SocketAddr) -> Result<TcpListener, BindError> {
    require_loopback(addr)?;
    TcpListener::bind(addr).await.map_err(|source| BindError::Listen { addr, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback() {
        for good in ["127.0.0.1:1", "127.9.9.9:0", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(require_loopback(good.parse().expect("an address")).is_ok(), "{good}");
        }
        for bad in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[::ffff:10.0.0.1]:1", "[fe80::1]:1"] {
            let error = require_loopback(bad.parse().expect("an address")).expect_err(bad);
            assert!(error.to_string().contains("not authenticated"), "{error}");
        }
    }
}
