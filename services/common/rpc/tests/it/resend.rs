//! A server that gives calls back, or keeps them.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use chatfn_rpc::{
    Client, ClientConfig, ErrorReport, RequestExt, RetryClass, budget, classify, connect, reasons,
};
use futures_util::stream;
use h2::{Reason, RecvStream, server::SendResponse};
use http::HeaderMap;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tonic::Request;

use crate::support::{chat, frame, note, unary, within};

/// What the server does with one connection.
enum Connection {
    /// Says, once a call has come, that it takes no call after this stream, and closes.
    GoAway { last_stream: u8 },
    /// Serves calls, each in its own way; the last way is that of all others.
    Serve(&'static [Way]),
}

#[derive(Clone, Copy)]
enum Way {
    /// Refused after so many frames of messages were read.
    Refuse {
        after: usize,
    },
    Answer,
}

/// A call as the server saw it.
struct Seen {
    /// From its `grpc-timeout`.
    budget: Duration,
    /// When it was sent, by the client's clock, in microseconds.
    at: u64,
    /// All messages.
    sent: Vec<u8>,
}

struct Server {
    addr: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    async fn start(connections: impl IntoIterator<Item = Connection>) -> Self {
        let mut connections: VecDeque<_> = connections.into_iter().collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("bound");
        let seen = Arc::default();
        let sees = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Some(next) = connections.pop_front() {
                let (socket, _) = listener.accept().await.expect("a connection");
                match next {
                    Connection::GoAway { last_stream } => drop(tokio::spawn(go_away(socket, last_stream))),
                    Connection::Serve(ways) => drop(tokio::spawn(serve(socket, ways, Arc::clone(&sees)))),
                }
            }
        });
        Self { addr, seen }
    }

    fn client(&self) -> Client {
        connect(ClientConfig::new(format!("http://{}", self.addr).parse().expect("a URI"))).expect("a client")
    }

    fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().expect("no panic"))
    }
}

/// By hand: every HTTP/2 library counts a call that it has read as taken.
async fn go_away(mut socket: TcpStream, last_stream: u8) {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const HEADERS: u8 = 1;
    socket.write_all(&SETTINGS).await.expect("open");
    let mut preface = [0; 24];
    socket.read_exact(&mut preface).await.expect("a preface");
    loop {
        let mut head = [0; 9];
        socket.read_exact(&mut head).await.expect("a frame");
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        socket.read_exact(&mut payload).await.expect("its payload");
        if head[3] == HEADERS {
            break;
        }
    }
    let go_away = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, last_stream, 0, 0, 0, 0];
    socket.write_all(&go_away).await.expect("open");
}

async fn serve(socket: TcpStream, ways: &'static [Way], seen: Arc<Mutex<Vec<Seen>>>) {
    let mut ways = ways.iter().copied();
    let mut way = ways.next().expect("a way");
    let mut connection = h2::server::handshake(socket).await.expect("HTTP/2");
    // It ends with an error when the client has what it wants and leaves.
    while let Some(Ok((request, response))) = connection.accept().await {
        tokio::spawn(take(request, response, way, Arc::clone(&seen)));
        way = ways.next().unwrap_or(way);
    }
}

async fn take(
    request: http::Request<RecvStream>,
    mut response: SendResponse<Bytes>,
    way: Way,
    seen: Arc<Mutex<Vec<Seen>>>,
) {
    let timeout = request.headers()[budget::GRPC_TIMEOUT].as_bytes();
    let budget = budget::parse_timeout(timeout).expect("a timeout");
    let (_, at) =
        request.headers()["chatfn-sent"].to_str().unwrap().split_once('-').expect("a clock and its time");
    let at = at.parse().expect("a time");
    let (mut body, mut sent, mut frames) = (request.into_body(), Vec::new(), 0);
    loop {
        if matches!(way, Way::Refuse { after } if after == frames) {
            seen.lock().expect("no panic").push(Seen { budget, at, sent });
            return response.send_reset(Reason::REFUSED_STREAM);
        }
        let Some(data) = body.data().await else { break };
        let data = data.expect("no error");
        body.flow_control().release_capacity(data.len()).expect("it was taken");
        sent.extend_from_slice(&data);
        frames += 1;
    }
    let head = http::Response::builder().header("content-type", "application/grpc").body(()).expect("valid");
    let mut stream = response.send_response(head, false).expect("open");
    stream.send_data(frame(&note("done")), false).expect("open");
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
    seen.lock().expect("no panic").push(Seen { budget, at, sent });
    stream.send_trailers(trailers).expect("open");
}

fn long(text: &str) -> Request<crate::support::Note> {
    Request::new(note(text)).with_timeout(Duration::from_secs(50))
}

#[tokio::test]
async fn a_call_that_is_refused_is_sent_again() {
    let ways = &[Way::Refuse { after: 1 }, Way::Refuse { after: 0 }, Way::Answer];
    let server = Server::start([Connection::Serve(ways)]).await;
    assert_eq!(unary(&server.client(), long("x")).await.expect("taken at last"), "done");
    let seen = server.seen();
    let [first, second, third] = &seen[..] else { panic!("{} calls", seen.len()) };
    assert_eq!((&first.sent[..], second.sent.len()), (&frame(&note("x"))[..], 0));
    assert_eq!(third.sent, frame(&note("x")), "all of it");
    assert!(second.budget < first.budget && third.budget < second.budget, "of one time");
    assert!(second.at > first.at && third.at > second.at, "each says when it was sent itself");
}

#[tokio::test]
async fn a_call_that_comes_after_the_last_one_is_sent_to_another_connection() {
    let server =
        Server::start([Connection::GoAway { last_stream: 0 }, Connection::Serve(&[Way::Answer])]).await;
    assert_eq!(unary(&server.client(), long("x")).await.expect("taken by the other"), "done");
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_call_that_may_have_been_taken_is_not_sent_again() {
    let server =
        Server::start([Connection::GoAway { last_stream: 1 }, Connection::Serve(&[Way::Answer])]).await;
    let error = unary(&server.client(), long("x")).await.expect_err("lost");
    assert_eq!(classify(&error), RetryClass::Unknown, "{error:?}");
    assert_eq!(ErrorReport::from_status(&error).reason.as_deref(), Some(reasons::CONNECTION_LOST.name()));
    assert_eq!(server.seen().len(), 0);
}

#[tokio::test]
async fn who_refuses_everything_is_left_alone() {
    let server = Server::start([Connection::Serve(&[Way::Refuse { after: 0 }])]).await;
    let error = unary(&server.client(), long("x")).await.expect_err("refused");
    assert_eq!(classify(&error), RetryClass::Safe, "{error:?}");
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn a_stream_is_sent_again_from_its_first_message() {
    let server = Server::start([Connection::Serve(&[Way::Refuse { after: 2 }, Way::Answer])]).await;
    let notes = ["a", "b", "c"].map(note);
    let requests = Request::new(stream::iter(notes.clone())).with_timeout(Duration::from_secs(50));
    let mut answers = chat(&server.client(), requests).await.expect("taken at last");
    assert_eq!(within(answers.message()).await.expect("no error"), Some(note("done")));
    let seen = server.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[1].sent, notes.iter().flat_map(frame).collect::<Vec<_>>());
}
