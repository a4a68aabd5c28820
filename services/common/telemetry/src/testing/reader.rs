//! Reads the metrics of a program.

use std::net::{SocketAddr, TcpListener};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use uuid::Uuid;

/// Ports that systems give to nobody who asks for just any: 32,768 and up is what Linux gives out.
const FIRST: u128 = 10_000;
const COUNT: u128 = 22_000;

/// Loopback addresses that are free now, for programs that have to be told theirs before they start. They are none of those that
/// another test may get meanwhile by asking for port 0.
///
/// # Panics
/// An address that was bound has none.
#[must_use]
pub fn free_addresses<const N: usize>() -> [SocketAddr; N] {
    let mut listeners = Vec::with_capacity(N);
    while listeners.len() < N {
        let port = FIRST + Uuid::new_v4().as_u128() % COUNT;
        listeners.extend(
            u16::try_from(port).map(|port| TcpListener::bind(("127.0.0.1", port))).into_iter().flatten(),
        );
    }
    // All at once, so that none comes twice.
    std::array::from_fn(|n| listeners[n].local_addr().expect("a bound address"))
}

/// Reads what a program in the same test tells.
#[derive(Clone, Copy, Debug)]
pub struct MetricsReader {
    address: SocketAddr,
}

impl MetricsReader {
    /// Of a program that will tell its metrics at an address that is free now.
    #[must_use]
    pub fn somewhere() -> Self {
        let [address] = free_addresses();
        Self { address }
    }

    /// The flag that has a program tell them there.
    #[must_use]
    pub fn flag(&self) -> String {
        format!("--telemetry-listen={}", self.address)
    }

    /// Where it is to tell them.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The value of a series, written as it is told, rounded down; `None` if there is none.
    ///
    /// # Panics
    /// The program does not tell, or not a number.
    pub async fn value(&self, series: &str) -> Option<u64> {
        let mut connection = TcpStream::connect(self.address).await.expect("it tells its metrics");
        let request = "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        connection.write_all(request.as_bytes()).await.expect("it listens");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.expect("it answers");
        let told = answer.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
        Some(told.parse::<f64>().expect("a number") as u64)
    }
}
