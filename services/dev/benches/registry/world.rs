//! A registry, with or without an invoker, on a database of its own.

use std::{fs, net::SocketAddr, time::Duration};

use chatfn_pg::{PoolConfig, testing::TestDatabase};
use chatfn_proto::{
    invoker::v1::{
        InvocationEvent, InvokeRequest, RunReport, invoker_service_client::InvokerServiceClient, run_report,
    },
    registry::v1::{
        CreateFunctionRequest, DeployFunctionRequest, Function, FunctionSettings, UndeployFunctionRequest,
        UpdateFunctionRequest, function_service_client::FunctionServiceClient,
    },
};
use chatfn_rpc::{Client, ClientConfig, Shutdown, connect};
use chatfn_telemetry::EndpointArgs;
use clap::Parser as _;
use prost_types::FieldMask;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tonic::{Code, Status};

/// The function that everything here is about.
pub(crate) const FUNCTION: &str = "accounts/bench/functions/chat.start";

/// The services, until dropped.
pub(crate) struct World {
    pub(crate) registry: Client,
    /// For more connections to it.
    pub(crate) registry_config: ClientConfig,
    pub(crate) invoker: Client,
    shutdown: Shutdown,
    _folder: TempDir,
    pub(crate) database: TestDatabase,
}

impl World {
    /// Starts both services, and waits until they serve.
    pub(crate) async fn start() -> Self {
        let database = TestDatabase::create().await;
        let folder = tempfile::tempdir().expect("a folder");
        let shutdown = Shutdown::new();
        let (registry_address, registry_listener) = listen().await;
        let (invoker_address, invoker_listener) = listen().await;

        let keys = folder.path().join("keys");
        fs::write(&keys, format!("bench: {}\n", "A".repeat(43) + "=")).expect("a file of keys");
        let invoker_uri = format!("http://{invoker_address}").parse().expect("a URI");
        let mut config = chatfn_registry::Config::new(PoolConfig::new(database.url().clone()), invoker_uri);
        config.secrets.secret_keys_file = Some(keys);
        config.endpoint = EndpointArgs::OFF;
        tokio::spawn(chatfn_registry::run(config, registry_listener, shutdown.clone()));

        let registry_flag = format!("--registry=http://{registry_address}");
        let config =
            chatfn_invoker::Config::parse_from(["chatfn-invoker", "--telemetry-listen=off", &registry_flag]);
        tokio::spawn(chatfn_invoker::run(config, invoker_listener, shutdown.clone()));

        let world = Self {
            registry: connect(config_of(registry_address)).expect("a client"),
            registry_config: config_of(registry_address),
            invoker: connect(config_of(invoker_address)).expect("a client"),
            shutdown,
            _folder: folder,
            database,
        };
        while world.invoke().await.is_err_and(|status| status.code() == Code::Unavailable) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        world
    }

    pub(crate) fn functions(&self) -> FunctionServiceClient<Client> {
        FunctionServiceClient::new(self.registry.clone())
    }

    /// Creates the function.
    pub(crate) async fn create(&self) {
        let request = CreateFunctionRequest {
            parent: "accounts/bench".into(),
            template: "chat.start".into(),
            ..CreateFunctionRequest::default()
        };
        self.functions().create_function(request).await.expect("it is created");
    }

    /// Replaces its draft.
    pub(crate) async fn edit(&self, source: String, settings: FunctionSettings) {
        let function =
            Function { name: FUNCTION.into(), source, settings: Some(settings), ..Function::default() };
        // Without a mask, what is empty would stay as it is.
        let update_mask = Some(FieldMask { paths: ["source", "settings"].map(str::to_owned).to_vec() });
        let request = UpdateFunctionRequest { function: Some(function), update_mask, ..Default::default() };
        self.functions().update_function(request).await.expect("it is changed");
    }

    /// Makes its draft live.
    pub(crate) async fn deploy(&self) {
        let request = DeployFunctionRequest { name: FUNCTION.into(), ..DeployFunctionRequest::default() };
        self.functions().deploy_function(request).await.expect("it is deployed");
    }

    pub(crate) async fn undeploy(&self) {
        let request = UndeployFunctionRequest { name: FUNCTION.into(), ..UndeployFunctionRequest::default() };
        self.functions().undeploy_function(request).await.expect("it is undeployed");
    }

    /// Runs it once.
    pub(crate) async fn invoke(&self) -> Result<RunReport, Status> {
        let event = InvocationEvent {
            event_id: "e-1".into(),
            conversation_id: "c-1".into(),
            attempt: 1,
            payload_json: r#"{"chatSessionKey":"H1"}"#.into(),
            ..InvocationEvent::default()
        };
        let request = InvokeRequest { function: FUNCTION.into(), event: Some(event) };
        let response = InvokerServiceClient::new(self.invoker.clone()).invoke(request).await?;
        Ok(response.into_inner().report.expect("a report"))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.force();
    }
}

/// What a run returned.
pub(crate) fn result(report: &RunReport) -> Value {
    match &report.outcome {
        Some(run_report::Outcome::ResultJson(json)) => serde_json::from_str(json).expect("JSON"),
        other => panic!("it should return: {other:?}"),
    }
}

async fn listen() -> (SocketAddr, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    (listener.local_addr().expect("an address"), listener)
}

fn config_of(address: SocketAddr) -> ClientConfig {
    let uri = format!("http://{address}").parse().expect("a URI");
    ClientConfig { default_timeout: Duration::from_secs(30), ..ClientConfig::new(uri) }
}
