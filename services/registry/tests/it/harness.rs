//! A registry, or several on one database, and how to talk to them.

use std::{net::SocketAddr, time::Duration};

use chatfn_pg::{DatabaseUrl, PoolConfig, testing::TestDatabase};
use chatfn_proto::registry::v1::{
    CreateFunctionRequest, DeployFunctionRequest, DeployFunctionResponse, Function, GetFunctionRequest,
    UndeployFunctionRequest, UndeployFunctionResponse, UpdateFunctionRequest,
    deployment_watch_service_client::DeploymentWatchServiceClient,
    function_service_client::FunctionServiceClient, secret_access_service_client::SecretAccessServiceClient,
    secret_service_client::SecretServiceClient, template_service_client::TemplateServiceClient,
};
use chatfn_registry::Config;
use chatfn_rpc::{Client, ClientConfig, ErrorReport, Shutdown};
use chatfn_telemetry::{EndpointArgs, testing::print_warnings};
use tokio::{net::TcpListener, task::JoinHandle};
use tonic::{Code, Status};

use crate::invoker::{self, Script};

/// How long a test waits for what must happen. Never reached on a machine that works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The account of most tests.
pub(crate) const ACME: &str = "accounts/acme";
/// The function of most tests.
pub(crate) const START: &str = "accounts/acme/functions/chat.start";

/// A registry on a database and an invoker of its own.
pub(crate) struct World {
    pub(crate) registry: Registry,
    pub(crate) invoker: Script,
    pub(crate) invoker_address: SocketAddr,
    shutdown: Shutdown,
    // Last, so that it is dropped after everything that uses it.
    pub(crate) database: TestDatabase,
}

impl World {
    /// Starts everything.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// Starts everything, the registry with other settings.
    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let database = TestDatabase::create().await;
        let (shutdown, invoker) = (Shutdown::new(), Script::default());
        let invoker_address = invoker::serve(invoker.clone(), &shutdown).await;
        let registry = Registry::start(database.url(), invoker_address, change).await;
        Self { registry, invoker, invoker_address, shutdown, database }
    }

    /// Starts another registry on the same database.
    pub(crate) async fn another(&self) -> Registry {
        self.another_with(|_| {}).await
    }

    /// Starts another registry on the same database, where one was before.
    pub(crate) async fn another_at(&self, address: SocketAddr) -> Registry {
        let listener = patiently(async {
            loop {
                match TcpListener::bind(address).await {
                    Ok(listener) => return listener,
                    // The one before may not be gone quite yet.
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        })
        .await;
        Registry::start_on(listener, self.database.url(), self.invoker_address, |_| {})
    }

    /// Starts another registry on the same database, with other settings.
    pub(crate) async fn another_with(&self, change: impl FnOnce(&mut Config)) -> Registry {
        Registry::start(self.database.url(), self.invoker_address, change).await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.force();
    }
}

/// One process, as it were.
pub(crate) struct Registry {
    pub(crate) address: SocketAddr,
    pub(crate) client: Client,
    pub(crate) shutdown: Shutdown,
    pub(crate) task: JoinHandle<anyhow::Result<()>>,
}

impl Registry {
    pub(crate) async fn start(
        url: &DatabaseUrl,
        invoker: SocketAddr,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::start_on(listener, url, invoker, change)
    }

    fn start_on(
        listener: TcpListener,
        url: &DatabaseUrl,
        invoker: SocketAddr,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        print_warnings();
        // Strict timeouts are for services; a slow machine must not fail a test.
        let database = PoolConfig {
            acquire_timeout: PATIENCE,
            statement_timeout: PATIENCE,
            lock_timeout: PATIENCE,
            ..PoolConfig::new(url.clone())
        };
        let mut config = Config::new(database, format!("http://{invoker}").parse().unwrap());
        config.watch_stall = PATIENCE;
        config.endpoint = EndpointArgs::OFF;
        change(&mut config);
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::new();
        let task = tokio::spawn(chatfn_registry::run(config, listener, shutdown.clone()));
        let client = chatfn_rpc::connect(ClientConfig {
            default_timeout: PATIENCE,
            connect_timeout: PATIENCE,
            ..ClientConfig::new(format!("http://{address}").parse().unwrap())
        })
        .unwrap();
        Self { address, client, shutdown, task }
    }

    /// Ends it, as an operator does.
    pub(crate) async fn stop(&mut self) {
        self.shutdown.begin();
        patiently(&mut self.task).await.unwrap().unwrap();
    }

    pub(crate) fn templates(&self) -> TemplateServiceClient<Client> {
        TemplateServiceClient::new(self.client.clone())
    }

    pub(crate) fn functions(&self) -> FunctionServiceClient<Client> {
        FunctionServiceClient::new(self.client.clone())
    }

    pub(crate) fn secrets(&self) -> SecretServiceClient<Client> {
        SecretServiceClient::new(self.client.clone())
    }

    pub(crate) fn secret_access(&self) -> SecretAccessServiceClient<Client> {
        SecretAccessServiceClient::new(self.client.clone())
    }

    pub(crate) fn deployments(&self) -> DeploymentWatchServiceClient<Client> {
        DeploymentWatchServiceClient::new(self.client.clone())
    }

    /// Creates a function from its template's starter.
    pub(crate) async fn create(&self, parent: &str, template: &str) -> Result<Function, Status> {
        let request = CreateFunctionRequest {
            parent: parent.to_owned(),
            template: template.to_owned(),
            function: None,
            ..Default::default()
        };
        Ok(self.functions().create_function(request).await?.into_inner().function.unwrap())
    }

    pub(crate) async fn get(&self, name: &str) -> Result<Function, Status> {
        let request = GetFunctionRequest { name: name.to_owned() };
        Ok(self.functions().get_function(request).await?.into_inner().function.unwrap())
    }

    /// Replaces the draft's source, whatever it is.
    pub(crate) async fn edit(&self, name: &str, source: &str) -> Function {
        let function = Function { name: name.to_owned(), source: source.to_owned(), ..Default::default() };
        let request =
            UpdateFunctionRequest { function: Some(function), update_mask: None, ..Default::default() };
        self.functions().update_function(request).await.unwrap().into_inner().function.unwrap()
    }

    /// Deploys the draft.
    pub(crate) async fn deploy(&self, name: &str) -> Result<DeployFunctionResponse, Status> {
        self.deploy_request(deploy_request(name)).await
    }

    pub(crate) async fn deploy_request(
        &self,
        request: DeployFunctionRequest,
    ) -> Result<DeployFunctionResponse, Status> {
        Ok(self.functions().deploy_function(request).await?.into_inner())
    }

    pub(crate) async fn undeploy(&self, name: &str) -> Result<UndeployFunctionResponse, Status> {
        let request =
            UndeployFunctionRequest { name: name.to_owned(), etag: String::new(), ..Default::default() };
        Ok(self.functions().undeploy_function(request).await?.into_inner())
    }

    pub(crate) async fn delete(&self, name: &str) -> Result<(), Status> {
        let request = chatfn_proto::registry::v1::DeleteFunctionRequest {
            name: name.to_owned(),
            etag: String::new(),
            ..Default::default()
        };
        self.functions().delete_function(request).await?;
        Ok(())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.shutdown.force();
        self.task.abort();
    }
}

/// A request to deploy the draft.
pub(crate) fn deploy_request(name: &str) -> DeployFunctionRequest {
    DeployFunctionRequest { name: name.to_owned(), ..Default::default() }
}

/// The error, once code and reason are as expected.
#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(
    result: Result<T, Status>,
    code: Code,
    reason: &str,
) -> ErrorReport {
    let report = ErrorReport::from_status(&result.expect_err("the call must be refused"));
    assert_eq!((report.code, report.reason.as_deref()), (code, Some(reason)), "{}", report.message);
    report
}

/// What `wait` gives, or a failed test when that takes for ever.
#[track_caller]
pub(crate) fn patiently<F: Future>(wait: F) -> impl Future<Output = F::Output> {
    let caller = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(output) => output,
            Err(_) => panic!("waited for {PATIENCE:?} at {caller}"),
        }
    }
}

/// Waits until `condition` holds. For what nobody tells of, so this looks again and again; the sleep only lets others work in
/// between.
#[track_caller]
pub(crate) fn eventually(mut condition: impl AsyncFnMut() -> bool) -> impl Future<Output = ()> {
    patiently(async move {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
}
