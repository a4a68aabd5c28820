//! Connections that get old.

use std::{collections::HashSet, time::Duration};

use chatfn_rpc::{Client, RequestExt, RetryClass, ServerConfig, classify};
use futures_util::{future::join_all, stream};
use tokio::sync::mpsc;
use tonic::Request;

use crate::support::{Note, Probe, Running, chat, note, start_with, unary, within};

async fn start() -> Running {
    let config = ServerConfig { max_connection_age: Duration::from_millis(20), ..ServerConfig::default() };
    let tells_peer = Probe::new().unary(|request| async move {
        let peer = request.remote_addr().expect("a peer");
        // Some are under way when the connection's time has come.
        tokio::task::yield_now().await;
        Ok(note(peer.to_string()))
    });
    start_with(tells_peer, config).await
}

/// Calls, eight at a time, until they have come by `count` connections. One that is sent while its connection is told to go
/// away may come back, as one that nobody took.
async fn call_over(client: &Client, count: usize) {
    let mut peers = HashSet::new();
    while peers.len() < count {
        let call = || unary(client, Request::new(note("")).with_timeout(Duration::from_secs(50)));
        for peer in join_all((0..8).map(|_| call())).await {
            match peer {
                Ok(peer) => drop(peers.insert(peer)),
                Err(status) => assert_eq!(classify(&status), RetryClass::Safe, "{status:?}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_that_was_taken_fails_because_its_connection_is_old() {
    let server = start().await;
    call_over(&server.client(), 20).await;
}

#[tokio::test]
async fn a_stream_outlives_the_age_of_its_connection() {
    let server = start().await;
    let client = server.client();
    let (sender, mut receiver) = mpsc::channel::<Note>(1);
    let requests = stream::poll_fn(move |cx| receiver.poll_recv(cx));
    let requests = Request::new(requests).with_timeout(Duration::from_secs(50));
    sender.send(note("early")).await.expect("room for one");
    let mut stream = chat(&client, requests).await.expect("a stream");
    assert_eq!(within(stream.message()).await.expect("no error"), Some(note("early")));
    // The first may be the stream's own, the second is not.
    call_over(&client, 2).await;
    sender.send(note("late")).await.expect("the stream is open");
    assert_eq!(within(stream.message()).await.expect("no error"), Some(note("late")));
    drop(sender);
    assert_eq!(within(stream.message()).await.expect("no error"), None);
}
