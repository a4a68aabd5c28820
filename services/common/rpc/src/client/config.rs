//! The settings of a client.

use std::time::Duration;

use http::{HeaderValue, Uri, uri};

use crate::{CalleeMetrics, Security, SecurityConfig, TlsError, security::ClientTls};

/// Settings of a [`Client`](crate::Client). Start from [`ClientConfig::new`].
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Where the server is: `https://host:port`, or `http://host:port` without TLS.
    pub uri: Uri,
    /// How this process knows the server, and proves who it is itself. `None`: plain text.
    pub tls: Option<ClientTls>,
    /// The `authorization` of every call ([`ClientConfig::with_token`]).
    pub authorization: Option<HeaderValue>,
    /// A connection must be made by then; a call's deadline may end the wait earlier.
    pub connect_timeout: Duration,
    /// Deadline of calls that have none of their own.
    pub default_timeout: Duration,
    /// Calls that could pass on less than this are refused before anything is sent; the callee's median
    /// duration is a good value.
    pub min_budget: Duration,
    /// Connections at once, when the server's host is a name; an address gets one. Each goes to one of the name's
    /// addresses, which are asked for anew each time: a headless Service's are its replicas.
    pub connections: usize,
    /// How often each connection is pinged, also while idle.
    pub keepalive_interval: Duration,
    /// A ping must be answered by then, or the connection is given up.
    pub keepalive_timeout: Duration,
    /// Where its calls are counted, if anywhere.
    pub metrics: Option<CalleeMetrics>,
}

/// Why a client cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientConfigError {
    /// No scheme, or the wrong one.
    #[error(
        "{uri} must begin with http:// (or with https://, and --tls-cert, --tls-key and --tls-ca must be set)"
    )]
    Plain {
        /// The address given.
        uri: Uri,
    },
    /// A scheme that gives away what TLS is to protect.
    #[error("{uri} must begin with https://, since TLS is set up (--tls-cert)")]
    Secure {
        /// The address given.
        uri: Uri,
    },
    /// The token is none.
    #[error("the token has characters that no token has; take it as its issuer gave it, without line ends")]
    Token,
    /// A token without TLS.
    #[error("a token must not travel in plain text; call {uri} by https://")]
    PlainToken {
        /// The address given.
        uri: Uri,
    },
    /// No host, or a path.
    #[error("{uri} must be scheme, host and port, and nothing more")]
    Origin {
        /// The address given.
        uri: Uri,
    },
}

impl ClientConfig {
    /// The defaults, with this security.
    pub fn secured(uri: Uri, security: &Security) -> Self {
        Self { tls: security.client(), ..Self::new(uri) }
    }

    /// Counts its calls.
    #[must_use]
    pub fn counted(self, metrics: CalleeMetrics) -> Self {
        Self { metrics: Some(metrics), ..self }
    }

    /// The defaults, for a tool: it trusts these authorities (PEM), and proves by token who calls, if at all.
    ///
    /// # Errors
    /// `authorities` holds no certificate.
    pub fn trusting(uri: Uri, authorities: &[u8]) -> Result<Self, TlsError> {
        Ok(Self { tls: Some(ClientTls::trusting(authorities)?), ..Self::new(uri) })
    }

    /// Proves who calls by this token; only with TLS, which [`connect`](crate::connect) insists on.
    ///
    /// # Errors
    /// The token has characters that no token has.
    pub fn with_token(mut self, token: &str) -> Result<Self, ClientConfigError> {
        let mut value =
            HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| ClientConfigError::Token)?;
        // Never shown.
        value.set_sensitive(true);
        self.authorization = Some(value);
        Ok(self)
    }

    /// The defaults: no TLS, 2 s to connect, 5 s for a call, 5 ms the least budget, 4 connections, a ping each 10 s
    /// answered within 5 s.
    pub fn new(uri: Uri) -> Self {
        Self {
            uri,
            tls: None,
            authorization: None,
            connect_timeout: Duration::from_secs(2),
            default_timeout: Duration::from_secs(5),
            min_budget: Duration::from_millis(5),
            connections: 4,
            keepalive_interval: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(5),
            metrics: None,
        }
    }

    /// Checks that a service with these settings can call `uri`.
    ///
    /// # Errors
    /// It is no origin, or has not the scheme that goes with the settings.
    pub fn check(uri: &Uri, security: &SecurityConfig) -> Result<(), ClientConfigError> {
        origin(uri, security.is_closed()).map(drop)
    }

    pub(super) fn origin(&self) -> Result<(uri::Scheme, uri::Authority), ClientConfigError> {
        let origin = origin(&self.uri, self.tls.is_some())?;
        if self.tls.is_none() && self.authorization.is_some() {
            return Err(ClientConfigError::PlainToken { uri: self.uri.clone() });
        }
        Ok(origin)
    }
}

/// What there is to connect to, with or without TLS.
fn origin(uri: &Uri, is_secure: bool) -> Result<(uri::Scheme, uri::Authority), ClientConfigError> {
    let wanted = if is_secure { uri::Scheme::HTTPS } else { uri::Scheme::HTTP };
    if uri.scheme() != Some(&wanted) {
        let uri = uri.clone();
        return Err(match is_secure {
            true => ClientConfigError::Secure { uri },
            false => ClientConfigError::Plain { uri },
        });
    }
    match uri.authority() {
        Some(authority) if matches!(uri.path(), "" | "/") && uri.query().is_none() => {
            Ok((wanted, authority.clone()))
        }
        _ => Err(ClientConfigError::Origin { uri: uri.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Result<(uri::Scheme, uri::Authority), ClientConfigError> {
        ClientConfig::new(text.parse().expect("a URI")).origin()
    }

    #[test]
    fn only_plain_origins() {
        assert!(origin("http://127.0.0.1:50051").is_ok());
        assert!(origin("http://registry:50051/").is_ok());
        assert!(matches!(origin("https://127.0.0.1:50051"), Err(ClientConfigError::Plain { .. })));
        assert!(matches!(origin("127.0.0.1:50051"), Err(ClientConfigError::Plain { .. })));
        assert!(matches!(origin("http://127.0.0.1:50051/x"), Err(ClientConfigError::Origin { .. })));
    }
}
