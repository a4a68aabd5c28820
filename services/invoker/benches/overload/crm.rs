//! What lambdas call: an HTTP server that takes its time, and sees who leaves.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

/// The server, until the process ends.
pub(crate) struct Crm {
    pub(crate) address: SocketAddr,
    events: tokio::sync::Mutex<mpsc::Receiver<Event>>,
}

/// What happens to the requests of interest: all but those for `/wait`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// A request has come.
    Here,
    /// The caller has closed the connection of a request for `/hang`, which is never answered.
    Left,
}

impl Crm {
    /// Answers `/wait` after `delay`, `/hang` never, and others at once.
    pub(crate) async fn start(delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (sender, events) = mpsc::channel(16);
        let sender = Arc::new(sender);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                tokio::spawn(serve(stream, delay, Arc::clone(&sender)));
            }
        });
        Self { address, events: events.into() }
    }

    /// What happens next.
    pub(crate) async fn next(&self) -> Event {
        self.events.lock().await.recv().await.expect("the server runs")
    }
}

async fn serve(stream: TcpStream, delay: Duration, events: Arc<mpsc::Sender<Event>>) {
    let mut stream = BufReader::new(stream);
    let (mut first, mut line) = (String::new(), String::new());
    while line != "\r\n" {
        line.clear();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return;
        }
        if first.is_empty() {
            first.clone_from(&line);
        }
    }
    let waits = first.starts_with("GET /wait ");
    if waits {
        tokio::time::sleep(delay).await;
    } else {
        events.send(Event::Here).await.expect("the bench listens");
    }
    if first.starts_with("GET /hang ") {
        // Nothing more is expected, so this is the end, in whatever way.
        let _ = stream.read_u8().await;
        events.send(Event::Left).await.expect("the bench listens");
        return;
    }
    // The caller may have left meanwhile.
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}").await;
}
