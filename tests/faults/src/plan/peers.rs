//! Peers that mean no good: connections that stall, and streams that are reset as soon as they are opened.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

use super::{Hurt, Run};

/// Connections that stall.
const STALLED: usize = 300;
/// How long one may stay open without having said anything: the services' own limits are 5 to 15 s.
const STALL: Duration = Duration::from_secs(60);
/// Streams that are opened and reset.
const RESETS: usize = 5_000;
/// How the client's side of HTTP/2 begins, up to a point.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x20\x01\x04";

impl Run {
    pub(super) async fn bad_peers(&mut self) -> anyhow::Result<()> {
        let address = self.cluster.ingest[0].from_clients.address();
        let mut stalled = JoinSet::new();
        for number in 0..STALLED {
            stalled.spawn(stall(address, number));
        }
        self.recovered(Hurt::Peers, &format!("{STALLED} connections that stall"), Instant::now()).await?;
        let open = stalled.join_all().await.into_iter().filter(|is_closed| !is_closed).count();
        if open > 0 {
            self.aside.beyond_bounds.push(format!("{open} stalled connections were open after {STALL:?}"));
        }
        let resets = rapid_reset(address).await;
        self.recovered(
            Hurt::Peers,
            &format!("rapid resets, closed after {resets} of {RESETS}"),
            Instant::now(),
        )
        .await?;
        if resets == RESETS {
            self.aside
                .beyond_bounds
                .push(format!("{RESETS} streams were opened and reset on one connection"));
        }
        Ok(())
    }
}

/// Says part of what a client says first, then nothing; whether it is closed in time.
async fn stall(address: SocketAddr, number: usize) -> bool {
    let Ok(mut stream) = TcpStream::connect(address).await else { return true };
    // From nothing to a frame that lacks its last bytes.
    let _ = stream.write_all(&PREFACE[..number % PREFACE.len()]).await;
    let mut buffer = [0; 256];
    let closed = async { while !matches!(stream.read(&mut buffer).await, Ok(0) | Err(_)) {} };
    tokio::time::timeout(STALL, closed).await.is_ok()
}

/// Opens streams and resets them at once; gives how many the server put up with.
async fn rapid_reset(address: SocketAddr) -> usize {
    let Ok(stream) = TcpStream::connect(address).await else { return 0 };
    let Ok((client, connection)) = h2::client::handshake(stream).await else { return 0 };
    let connection = tokio::spawn(connection);
    let mut resets = 0;
    while resets < RESETS {
        let Ok(mut ready) = client.clone().ready().await else { break };
        let request =
            http::Request::post(format!("http://{address}/chatfn.ingest.v1.EventIngestService/PublishEvent"))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(());
        let Ok(request) = request else { break };
        let Ok((answer, mut body)) = ready.send_request(request, false) else { break };
        body.send_reset(h2::Reason::CANCEL);
        drop(answer);
        resets += 1;
        // So that the connection writes, and hears of its end.
        tokio::task::yield_now().await;
    }
    connection.abort();
    resets
}
