//! A service whose handlers are closures, a server around it, and clients for it.

use std::{
    convert::Infallible, future::Future, net::SocketAddr, pin::Pin, sync::Arc, task::Poll, time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use chatfn_rpc::{
    Client, ClientConfig, Drained, Health, MethodPolicy, SecurityConfig, Server, ServerConfig, bind, connect,
};
use futures_util::{FutureExt, Stream, StreamExt};
use http::{HeaderMap, uri::PathAndQuery};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{client::legacy, rt::TokioExecutor};
use prost::Message;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, body::Body, server::NamedService};
use tonic_prost::ProstCodec;

pub(crate) const UNARY: &str = "/chatfn.test.v1.Probe/Unary";
pub(crate) const WATCH: &str = "/chatfn.test.v1.Probe/Watch";
pub(crate) const CHAT: &str = "/chatfn.test.v1.Probe/Chat";

/// Long enough for any machine; reached only when something hangs.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Note {
    #[prost(string, tag = "1")]
    pub(crate) text: String,
}

pub(crate) fn note(text: impl Into<String>) -> Note {
    Note { text: text.into() }
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
pub(crate) type Notes = Pin<Box<dyn Stream<Item = Result<Note, Status>> + Send>>;
type Handler<In, Out> = Arc<dyn Fn(Request<In>) -> Boxed<Result<Response<Out>, Status>> + Send + Sync>;

/// The service under test.
#[derive(Clone)]
pub(crate) struct Probe {
    unary: Handler<Note, Note>,
    watch: Handler<Note, Notes>,
    chat: Handler<Streaming<Note>, Notes>,
}

impl Probe {
    /// Answers every call at once; streams end after one message.
    pub(crate) fn new() -> Self {
        Self {
            unary: Arc::new(|request| async move { Ok(Response::new(request.into_inner())) }.boxed()),
            watch: Arc::new(|request| {
                async move { Ok(Response::new(just(request.into_inner()).boxed())) }.boxed()
            }),
            chat: Arc::new(|request| async move { Ok(Response::new(request.into_inner().boxed())) }.boxed()),
        }
    }

    pub(crate) fn unary<F>(mut self, handler: impl Fn(Request<Note>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Note, Status>> + Send + 'static,
    {
        self.unary =
            Arc::new(move |request| handler(request).map(|answer| answer.map(Response::new)).boxed());
        self
    }

    pub(crate) fn watch(
        mut self,
        handler: impl Fn(Request<Note>) -> Result<Notes, Status> + Send + Sync + 'static,
    ) -> Self {
        self.watch = Arc::new(move |request| std::future::ready(handler(request).map(Response::new)).boxed());
        self
    }

    pub(crate) fn chat(
        mut self,
        handler: impl Fn(Request<Streaming<Note>>) -> Notes + Send + Sync + 'static,
    ) -> Self {
        self.chat = Arc::new(move |request| std::future::ready(Ok(Response::new(handler(request)))).boxed());
        self
    }
}

/// One message, then the end.
pub(crate) fn just(note: Note) -> impl Stream<Item = Result<Note, Status>> + Send {
    futures_util::stream::iter([Ok(note)])
}

/// One message, then silence.
pub(crate) fn then_silence(note: Note) -> Notes {
    just(note).chain(futures_util::stream::pending()).boxed()
}

impl NamedService for Probe {
    const NAME: &'static str = "chatfn.test.v1.Probe";
}

struct Call<In, Out>(Handler<In, Out>);

impl<In, Out> tower_service::Service<Request<In>> for Call<In, Out> {
    type Response = Response<Out>;
    type Error = Status;
    type Future = Boxed<Result<Response<Out>, Status>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<In>) -> Self::Future {
        (self.0)(request)
    }
}

impl tower_service::Service<http::Request<Body>> for Probe {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Boxed<Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let probe = self.clone();
        async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<Note, Note>::default());
            Ok(match request.uri().path() {
                UNARY => grpc.unary(Call(probe.unary), request).await,
                WATCH => grpc.server_streaming(Call(probe.watch), request).await,
                CHAT => grpc.streaming(Call(probe.chat), request).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        }
        .boxed()
    }
}

/// A running server.
pub(crate) struct Running {
    pub(crate) addr: SocketAddr,
    pub(crate) health: Health,
    pub(crate) shutdown: CancellationToken,
    pub(crate) served: JoinHandle<Drained>,
}

pub(crate) async fn start(probe: Probe) -> Running {
    start_with(probe, ServerConfig::default()).await
}

pub(crate) async fn start_with(probe: Probe, config: ServerConfig) -> Running {
    start_at("127.0.0.1:0".parse().expect("an address"), probe, config, &[]).await
}

pub(crate) async fn start_at(
    addr: SocketAddr,
    probe: Probe,
    config: ServerConfig,
    policies: &[(&str, MethodPolicy)],
) -> Running {
    let mut builder = Server::builder(config).service(probe);
    for (name, policy) in policies {
        builder = builder.policy(name, *policy);
    }
    let server = builder.build().await.expect("a valid server");
    let listener = bind(addr, &SecurityConfig::default()).await.expect("a free port");
    let addr = listener.local_addr().expect("bound");
    let (health, shutdown) = (server.health(), CancellationToken::new());
    let serving = server.serve(listener, shutdown.clone());
    let served = tokio::spawn(async move { serving.await.expect("loopback") });
    Running { addr, health, shutdown, served }
}

impl Running {
    pub(crate) fn client_config(&self) -> ClientConfig {
        ClientConfig::new(format!("http://{}", self.addr).parse().expect("a URI"))
    }

    pub(crate) fn client(&self) -> Client {
        connect(self.client_config()).expect("a valid configuration")
    }
}

fn grpc(client: &Client) -> tonic::client::Grpc<Client> {
    tonic::client::Grpc::new(client.clone())
}

fn path(path: &'static str) -> PathAndQuery {
    PathAndQuery::from_static(path)
}

pub(crate) async fn unary(client: &Client, request: Request<Note>) -> Result<String, Status> {
    let codec = ProstCodec::<Note, Note>::default();
    within(grpc(client).unary(request, path(UNARY), codec)).await.map(|reply| reply.into_inner().text)
}

pub(crate) async fn watch(client: &Client, request: Request<Note>) -> Result<Streaming<Note>, Status> {
    let codec = ProstCodec::<Note, Note>::default();
    within(grpc(client).server_streaming(request, path(WATCH), codec)).await.map(Response::into_inner)
}

pub(crate) async fn chat(
    client: &Client,
    request: Request<impl Stream<Item = Note> + Send + 'static>,
) -> Result<Streaming<Note>, Status> {
    let codec = ProstCodec::<Note, Note>::default();
    within(grpc(client).streaming(request, path(CHAT), codec)).await.map(Response::into_inner)
}

/// The result of `future`; panics if it hangs.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.expect("hangs")
}

/// Tries until `attempt` gives something. For what a peer does and nothing here is told of; the sleep only lets
/// it work in between.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(mut attempt: impl FnMut() -> F) -> T {
    within(async {
        loop {
            if let Some(found) = attempt().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

/// A message as gRPC frames it.
pub(crate) fn frame(note: &Note) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(note.encoded_len()).expect("a small message"));
    note.encode(&mut frame).expect("room enough");
    frame.freeze()
}

pub(crate) type Raw = legacy::Client<legacy::connect::HttpConnector, Full<Bytes>>;

/// HTTP/2 without any of our layers: what it sees is the server's own doing.
pub(crate) fn raw_client() -> Raw {
    raw_builder().build_http()
}

/// Takes about one kilobyte of a response, and nothing more until someone reads it.
pub(crate) fn unread_client() -> Raw {
    raw_builder().http2_initial_stream_window_size(1024).build_http()
}

#[expect(clippy::disallowed_methods, reason = "a peer that is not ours")]
fn raw_builder() -> legacy::Builder {
    let mut builder = legacy::Client::builder(TokioExecutor::new());
    builder.http2_only(true);
    builder
}

pub(crate) async fn raw_call(
    client: &Raw,
    addr: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
) -> http::Response<Incoming> {
    let mut request = http::Request::post(format!("http://{addr}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(frame(&note("raw")))).expect("a valid request");
    within(client.request(request)).await.expect("an answer")
}

/// The status that the server sent, in headers or trailers, and how much data came before it.
pub(crate) async fn raw_status(response: http::Response<Incoming>) -> (Status, usize) {
    let (parts, mut body) = response.into_parts();
    if let Some(status) = Status::from_header_map(&parts.headers) {
        return (status, 0);
    }
    let (mut trailers, mut data) = (HeaderMap::new(), 0);
    while let Some(frame) = within(body.frame()).await {
        match frame.expect("a frame").into_data() {
            Ok(bytes) => data += bytes.len(),
            Err(frame) => trailers = frame.into_trailers().expect("trailers"),
        }
    }
    (Status::from_header_map(&trailers).expect("a status"), data)
}
