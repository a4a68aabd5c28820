//! The servers that lambdas call, or must not reach: they see every connection and every request.

use std::{net::SocketAddr, sync::Arc};

use rustls::{HandshakeKind, ServerConfig};
use tokio::{
    io::{self, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
    sync::watch,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::PATIENCE;

/// A server on a port of its own, until the test ends.
pub(crate) struct Witness {
    address: SocketAddr,
    seen: watch::Receiver<Seen>,
}

/// What a server has seen so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// TLS sessions that went on from an earlier connection.
    pub(crate) resumed: usize,
    pub(crate) connections: usize,
    /// Connections that the other side closed before the answer was complete.
    pub(crate) abandoned: usize,
    pub(crate) requests: Vec<Request>,
    /// Requests without a complete answer, and the most there ever were at once.
    pub(crate) in_flight: usize,
    pub(crate) most_in_flight: usize,
}

/// A request as it came over the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Request {
    /// The value of a header that is there at most once.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let value = values.next();
        assert_eq!(values.next(), None, "{name} is there twice");
        value
    }
}

/// What a server sends back.
pub(crate) struct Answer {
    gate: Option<CancellationToken>,
    bytes: Vec<u8>,
    then: Then,
}

enum Then {
    Close,
    /// Sends nothing more and waits for the other side to close.
    Hold,
    /// Sends the last part again and again until the other side closes.
    Repeat(Vec<u8>),
}

impl Answer {
    /// Bytes, then the end of the connection.
    pub(crate) fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self { gate: None, bytes: bytes.into(), then: Then::Close }
    }

    /// A whole answer. `headers` are lines, each with its line end.
    pub(crate) fn new(status: u16, headers: &str, body: &str) -> Self {
        Self::raw(format!("HTTP/1.1 {status} \r\n{headers}content-length: {}\r\n\r\n{body}", body.len()))
    }

    pub(crate) fn ok(body: &str) -> Self {
        Self::new(200, "", body)
    }

    pub(crate) fn redirect(status: u16, location: &str) -> Self {
        Self::new(status, &format!("location: {location}\r\n"), "")
    }

    /// No answer at all.
    pub(crate) fn never() -> Self {
        Self::raw("").and_hold()
    }

    /// The connection stays open after the bytes.
    pub(crate) fn and_hold(self) -> Self {
        Self { then: Then::Hold, ..self }
    }

    /// `part` follows for ever.
    pub(crate) fn and_repeat(self, part: &str) -> Self {
        Self { then: Then::Repeat(part.into()), ..self }
    }

    /// Nothing is sent before `gate` opens.
    pub(crate) fn behind(self, gate: &CancellationToken) -> Self {
        Self { gate: Some(gate.clone()), ..self }
    }

    async fn send(self, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        if let Some(gate) = self.gate {
            gate.cancelled().await;
        }
        stream.write_all(&self.bytes).await?;
        stream.flush().await?;
        match self.then {
            Then::Close => stream.shutdown().await,
            Then::Hold => std::future::pending().await,
            Then::Repeat(part) => loop {
                stream.write_all(&part).await?;
            },
        }
    }
}

type Handler = dyn Fn(&Request) -> Answer + Send + Sync;

impl Witness {
    /// A server at 127.0.0.1.
    pub(crate) async fn start(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_on("127.0.0.1:0".parse().unwrap(), None, answer).await
    }

    /// A server at 127.0.0.1 that speaks TLS.
    pub(crate) async fn start_tls(
        tls: ServerConfig,
        answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::start_on("127.0.0.1:0".parse().unwrap(), Some(tls), answer).await
    }

    /// A server that must not be reached. It answers, so that whoever reaches it succeeds.
    pub(crate) async fn forbidden_on(address: SocketAddr) -> Self {
        Self::start_on(address, None, |_| Answer::ok("you should not be here")).await
    }

    async fn start_on(
        address: SocketAddr,
        tls: Option<ServerConfig>,
        answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let tls = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
        let (sender, seen) = watch::channel(Seen::default());
        let (sender, answer): (_, Arc<Handler>) = (Arc::new(sender), Arc::new(answer));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                sender.send_modify(|seen| seen.connections += 1);
                let (sender, answer, tls) = (Arc::clone(&sender), Arc::clone(&answer), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, &*answer, &sender).await,
                        Some(tls) => {
                            // A client that does not trust this server ends the handshake.
                            let Ok(stream) = tls.accept(stream).await else { return };
                            if stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed) {
                                sender.send_modify(|seen| seen.resumed += 1);
                            }
                            serve(stream, &*answer, &sender).await;
                        }
                    }
                });
            }
        });
        Self { address, seen }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// `{host}:{port}`, for URLs and lists of hosts.
    pub(crate) fn at(&self, host: &str) -> String {
        format!("{host}:{}", self.port())
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// The only request so far.
    #[track_caller]
    pub(crate) fn only_request(&self) -> Request {
        let [request] = self.seen().requests.try_into().expect("one request");
        request
    }

    /// Waits until `condition` holds.
    pub(crate) async fn until(&self, condition: impl Fn(&Seen) -> bool) {
        let mut seen = self.seen.clone();
        let waited = timeout(PATIENCE, seen.wait_for(condition)).await.map(|found| found.is_ok());
        assert_eq!(waited, Ok(true), "{:?}", self.seen());
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, answer: &Handler, sender: &watch::Sender<Seen>) {
    let (mut from, mut to) = io::split(stream);
    let Some(request) = read_request(&mut from).await else { return };
    sender.send_modify(|seen| {
        seen.requests.push(request.clone());
        seen.in_flight += 1;
        seen.most_in_flight = seen.most_in_flight.max(seen.in_flight);
    });
    let answered = tokio::select! {
        sent = answer(&request).send(&mut to) => sent.is_ok(),
        // Nothing more is expected, so this is the end, in whatever way.
        _ = from.read_u8() => false,
    };
    sender.send_modify(|seen| {
        seen.in_flight -= 1;
        seen.abandoned += usize::from(!answered);
    });
}

async fn read_request(from: &mut (impl AsyncRead + Unpin)) -> Option<Request> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(from.read_u8().await.ok()?);
    }
    let head = String::from_utf8(bytes).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: Vec<_> = lines
        .map(|line| line.split_once(": ").unwrap_or((line, "")))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let mut request = Request { method, target, headers, body: String::new() };
    let length = request.header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    from.read_exact(&mut body).await.ok()?;
    request.body = String::from_utf8(body).unwrap();
    Some(request)
}
