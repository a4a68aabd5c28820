//! Kinds of faults, by which the report tells recoveries apart.

use std::time::Duration;

use serde::Serialize;

use crate::cluster::LEASE_TTL;

/// What is hurt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Hurt {
    /// Processes of services, which are killed.
    Kill,
    /// A replica that is halted for longer than its leases, or that goes on after that.
    Halt,
    /// Postgres, from when it is back.
    Postgres,
    /// A link, from when its weather is clear again.
    Network,
    /// Connections whose other end is gone.
    HalfOpen,
    /// A replica's clock.
    Clock,
    /// A replica that is replaced in order.
    Replaced,
    /// A replica that has bad peers.
    Peers,
}

impl Hurt {
    /// How long a recovery may take on a machine that has nothing else to do; `None`: nobody said. That is told, and breaks nothing: no
    /// test fails because a machine is slow.
    pub fn limit(self) -> Option<Duration> {
        match self {
            Self::Kill | Self::Network => Some(LEASE_TTL + Duration::from_secs(1)),
            Self::Postgres => Some(Duration::from_secs(5)),
            Self::HalfOpen => Some(Duration::from_secs(15)),
            Self::Halt | Self::Clock | Self::Replaced | Self::Peers => None,
        }
    }
}
