//! Who runs lambdas: one that only answers, and the real one.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use chatfn_deployments::{Deployment, Deployments, Template};
use chatfn_domain::{
    function::version_digest,
    name::{FunctionName, VersionNumber},
    settings::FunctionSettings,
};
use chatfn_proto::invoker::v1::{
    InvocationEvent, InvokeRequest, InvokeResponse, PrepareRequest, PrepareResponse, RunReport,
    TestInvokeRequest, TestInvokeResponse,
    invoker_service_client::InvokerServiceClient,
    invoker_service_server::{InvokerService, InvokerServiceServer},
    run_report::Outcome,
};
use chatfn_rpc::{ClientConfig, Server, ServerConfig, Shutdown};
use clap::Parser as _;
use http::Uri;
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

use crate::{
    cluster::{ACCOUNT, HOG, ONCE, TEMPLATE},
    engine::SEED,
    measure::PAYLOAD,
};

/// What is live: the seed's lambda, for two accounts and one template.
pub(crate) fn deployments() -> Deployments {
    let settings = FunctionSettings::default();
    let function = |account: &str| Deployment {
        function: FunctionName {
            account: account.parse().expect("an account"),
            template: TEMPLATE.parse().expect("a template"),
        },
        version: VersionNumber::new(1).expect("a version"),
        digest: version_digest(SEED, &settings),
        settings: settings.clone(),
        source: SEED.into(),
    };
    let template = |name: &str| Template {
        name: name.parse().expect("a template"),
        payload_schema_json: r#"{"type": "object", "required": ["chatSessionKey"]}"#.to_owned(),
        sample_payload_json: "{}".to_owned(),
        fires_once: name == ONCE,
    };
    Deployments::fixed([ACCOUNT, HOG].map(function), [TEMPLATE, ONCE].map(template))
}

/// Starts the real invoker; gives its address once it runs the lambda.
pub(crate) async fn start_real(shutdown: &Shutdown) -> Uri {
    let config = chatfn_invoker::Config::parse_from(["chatfn-invoker"]);
    let (listener, uri) = listen().await;
    tokio::spawn(chatfn_invoker::run_with(config, deployments(), listener, shutdown.clone()));
    let client = chatfn_rpc::connect(ClientConfig::new(uri.clone())).expect("a client");
    let event = InvocationEvent {
        event_id: "e".to_owned(),
        conversation_id: "c".to_owned(),
        attempt: 1,
        payload_json: PAYLOAD.to_owned(),
        ..InvocationEvent::default()
    };
    let function = function_of(ACCOUNT);
    let request = InvokeRequest { function, event: Some(event) };
    while InvokerServiceClient::new(client.clone()).invoke(request.clone()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    uri
}

fn function_of(account: &str) -> String {
    format!("accounts/{account}/functions/{TEMPLATE}")
}

pub(crate) async fn listen() -> (TcpListener, Uri) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let uri = format!("http://{}", listener.local_addr().expect("an address")).parse().expect("a URI");
    (listener, uri)
}

/// Answers at once or after a while, and remembers when it was asked, or how often.
#[derive(Clone, Default)]
pub(crate) struct FakeInvoker {
    /// Milliseconds that a run takes.
    pub(crate) takes_ms: Arc<AtomicU64>,
    /// Runs that took such a time, by function.
    took: Arc<Mutex<HashMap<String, u64>>>,
    /// Whether starts are remembered.
    pub(crate) remembers: Arc<AtomicBool>,
    pub(crate) starts: Arc<Mutex<HashMap<String, Instant>>>,
}

impl FakeInvoker {
    /// Serves; gives its address.
    pub(crate) async fn start(&self, shutdown: &Shutdown) -> Uri {
        let (listener, uri) = listen().await;
        let server = Server::builder(ServerConfig::default())
            .service(InvokerServiceServer::new(self.clone()))
            .build()
            .await
            .expect("a server");
        tokio::spawn(server.serve(listener, shutdown.soft()));
        uri
    }

    /// How many runs of an account took time.
    pub(crate) fn took(&self, account: &str) -> u64 {
        self.took.lock().expect("not poisoned").get(&function_of(account)).copied().unwrap_or_default()
    }
}

#[tonic::async_trait]
impl InvokerService for FakeInvoker {
    async fn invoke(&self, request: Request<InvokeRequest>) -> Result<Response<InvokeResponse>, Status> {
        let request = request.into_inner();
        let takes = self.takes_ms.load(Ordering::Relaxed);
        if takes > 0 {
            tokio::time::sleep(Duration::from_millis(takes)).await;
            *self.took.lock().expect("not poisoned").entry(request.function).or_default() += 1;
        }
        if self.remembers.load(Ordering::Relaxed)
            && let Some(event) = request.event
        {
            self.starts.lock().expect("not poisoned").entry(event.event_id).or_insert_with(Instant::now);
        }
        let outcome = Some(Outcome::ResultJson("null".to_owned()));
        let report = Some(RunReport { outcome, version: 1, ..RunReport::default() });
        Ok(Response::new(InvokeResponse { report }))
    }

    async fn prepare(&self, _: Request<PrepareRequest>) -> Result<Response<PrepareResponse>, Status> {
        Err(Status::unimplemented("nothing is deployed"))
    }

    async fn test_invoke(
        &self,
        _: Request<TestInvokeRequest>,
    ) -> Result<Response<TestInvokeResponse>, Status> {
        Err(Status::unimplemented("nothing is tested"))
    }
}
