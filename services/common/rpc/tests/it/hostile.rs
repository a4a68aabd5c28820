//! Peers that mean harm.

use std::time::Duration;

use chatfn_rpc::{RequestExt, ServerConfig};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::Request;

use crate::support::{
    Probe, Running, UNARY, eventually, note, raw_call, raw_client, start, start_with, unary, within,
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const EMPTY_SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
/// HEADERS of stream 1, without END_HEADERS.
const UNFINISHED_HEADERS: [u8; 10] = [0, 0, 1, 1, 0, 0, 0, 0, 1, 0x82];

async fn still_serves(server: &Running) {
    let request = Request::new(note("x")).with_timeout(Duration::from_secs(50));
    assert_eq!(unary(&server.client(), request).await.expect("an answer"), "x");
}

/// Waits until the server has closed the connection.
async fn closed(mut stream: TcpStream) {
    let mut received = [0; 1024];
    within(async { while !matches!(stream.read(&mut received).await, Ok(0) | Err(_)) {} }).await;
}

#[tokio::test]
async fn stalled_connections_are_closed() {
    let config = ServerConfig {
        handshake_timeout: Duration::from_millis(200),
        keepalive_interval: Duration::from_millis(200),
        keepalive_timeout: Duration::from_millis(200),
        ..ServerConfig::default()
    };
    let server = start_with(Probe::new(), config).await;
    let settled = [PREFACE, &EMPTY_SETTINGS].concat();
    let stalled_headers = [PREFACE, &EMPTY_SETTINGS, &UNFINISHED_HEADERS].concat();
    for (what, bytes) in [
        ("silent", &b""[..]),
        ("half a preface", &PREFACE[..10]),
        ("a preface", PREFACE),
        ("settings", &settled),
        ("unfinished headers", &stalled_headers),
        ("HTTP/1", b"POST / HTTP/1.1\r\nHost: x\r\n"),
    ] {
        let mut stream = TcpStream::connect(server.addr).await.expect("accepted");
        stream.write_all(bytes).await.expect("sent");
        closed(stream).await;
        still_serves(&server).await;
        println!("closed: {what}");
    }
}

/// One frame of HTTP/2.
fn http2_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("small").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// CVE-2023-44487: streams that are opened and reset in one breath.
#[tokio::test]
async fn rapid_resets_close_the_connection() {
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const END_HEADERS: u8 = 4;
    const CANCEL: [u8; 4] = [0, 0, 0, 8];
    // `:method: POST`, `:scheme: http`, `:path: /` and `:authority: a`, as HPACK writes them.
    const REQUEST: [u8; 6] = [0x83, 0x86, 0x84, 0x41, 1, b'a'];
    const BURSTS: u32 = 500;
    const STREAMS_PER_BURST: u32 = 200;

    let server = start(Probe::new()).await;
    let stream = TcpStream::connect(server.addr).await.expect("accepted");
    let (mut reader, mut writer) = stream.into_split();
    let attack = tokio::spawn(async move {
        writer.write_all(&[PREFACE, &EMPTY_SETTINGS].concat()).await?;
        for burst in 0..BURSTS {
            let streams = (0..STREAMS_PER_BURST).map(|at| 2 * (burst * STREAMS_PER_BURST + at) + 1);
            let frames = streams.flat_map(|id| {
                let open = http2_frame(HEADERS, END_HEADERS, id, &REQUEST);
                [open, http2_frame(RST_STREAM, 0, id, &CANCEL)].concat()
            });
            writer.write_all(&frames.collect::<Vec<u8>>()).await?;
            // The runtime of the test has one thread, which the server needs, too.
            tokio::task::yield_now().await;
        }
        std::io::Result::Ok(())
    });
    // Its GOAWAY says why, but the reset that follows may overtake it, so that only the end is certain.
    let mut received = Vec::new();
    let _ = within(reader.read_to_end(&mut received)).await;
    within(attack).await.expect("no panic").expect_err("closed long before the last burst");
    still_serves(&server).await;
}

#[tokio::test]
async fn connections_of_one_peer_are_bounded() {
    let config = ServerConfig { max_connections_per_peer: 2, ..ServerConfig::default() };
    let server = start_with(Probe::new(), config).await;
    let first = TcpStream::connect(server.addr).await.expect("accepted");
    let _second = TcpStream::connect(server.addr).await.expect("accepted");
    closed(TcpStream::connect(server.addr).await.expect("accepted by the kernel")).await;
    drop(first);
    let client = server.client();
    let request = || Request::new(note("x")).with_timeout(Duration::from_secs(50));
    eventually(async || unary(&client, request()).await.ok()).await;
}

#[tokio::test]
async fn large_headers_are_refused() {
    let server = start(Probe::new()).await;
    let response = raw_call(&raw_client(), server.addr, UNARY, &[("x-large", &"x".repeat(32 * 1024))]).await;
    assert_eq!(response.status(), http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    still_serves(&server).await;
}
