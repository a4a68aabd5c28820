//! One event-ingest or several on one database, and how to talk to them.

use std::{
    net::SocketAddr,
    panic::Location,
    time::{Duration, Instant},
};

use chatfn_deployments::{Deployment, Deployments, Template};
use chatfn_domain::{
    name::{FunctionName, VersionNumber},
    retry::RetryPolicy,
    settings::FunctionSettings,
};
use chatfn_event_ingest::Config;
use chatfn_pg::{
    DatabaseUrl, PoolConfig,
    testing::{Proxy, TestDatabase},
};
use chatfn_proto::ingest::v1::{
    Acknowledgement, Delivery, DeliveryState, Event, GetDeliveryRequest, PublishEventRequest,
    PublishEventsRequest, delivery_service_client::DeliveryServiceClient, event::PayloadKind,
    event_ingest_service_client::EventIngestServiceClient, publish_result::Result as Published,
    replay_service_client::ReplayServiceClient,
};
use chatfn_rpc::{Client, ClientConfig, ErrorReport, Shutdown};
use chatfn_telemetry::{EndpointArgs, testing::print_warnings};
use prost::Message as _;
use tokio::{net::TcpListener, task::JoinHandle};
use tonic::{Code, Request, Status};

use crate::invoker::FakeInvoker;

/// How long a test waits for what must happen. Never reached on a machine that works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The account of all tests.
pub(crate) const ACME: &str = "acme";
/// Another account, with a function for [`MESSAGE`] alone.
pub(crate) const BYSTANDER: &str = "bystander";
/// A template that fires for every event; acme has a function for it, whose runs may take as long as any.
pub(crate) const MESSAGE: &str = "chat.message";
/// A template that fires once per conversation; acme has a function for it.
pub(crate) const START: &str = "chat.start";
/// A template without a function.
pub(crate) const UNUSED: &str = "chat.unused";

/// An event-ingest with a database and an invoker of its own.
pub(crate) struct World {
    pub(crate) replica: Replica,
    pub(crate) invoker: FakeInvoker,
    pub(crate) proxy: Proxy,
    settings: FunctionSettings,
    shutdown: Shutdown,
    // Last, so that it is dropped after everything that uses it.
    pub(crate) database: TestDatabase,
}

/// Settings of a function whose retries come fast.
pub(crate) fn settings(max_attempts: u32) -> FunctionSettings {
    let pause = Duration::from_millis(10);
    let retry =
        RetryPolicy { max_attempts, initial_backoff: pause, max_backoff: pause, ..RetryPolicy::default() };
    FunctionSettings { timeout: Duration::from_secs(30), retry, ..FunctionSettings::default() }
}

/// What is live: functions with these settings.
pub(crate) fn deployments(settings: &FunctionSettings) -> Deployments {
    deployments_with(settings, &[MESSAGE, START])
}

/// The same with functions for these templates.
pub(crate) fn deployments_with(settings: &FunctionSettings, templates: &[&str]) -> Deployments {
    let schema = r#"{"type": "object", "properties": {"text": {"type": "string"}}}"#;
    let function = |account: &str, template: &str| Deployment {
        function: FunctionName { account: account.parse().unwrap(), template: template.parse().unwrap() },
        version: VersionNumber::new(1).unwrap(),
        digest: "0".repeat(64),
        settings: settings.clone(),
        source: "".into(),
    };
    let template = |name: &str| Template {
        name: name.parse().unwrap(),
        payload_schema_json: schema.to_owned(),
        sample_payload_json: "{}".to_owned(),
        fires_once: name == START,
    };
    let functions = templates.iter().map(|template| function(ACME, template));
    let functions = functions.chain([function(BYSTANDER, MESSAGE)]);
    Deployments::fixed(functions, [MESSAGE, START, UNUSED].map(template))
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::start_with(settings(3), |_| {}).await
    }

    /// Starts everything; functions have these settings, and event-ingest others than usual.
    pub(crate) async fn start_with(settings: FunctionSettings, change: impl FnOnce(&mut Config)) -> Self {
        let database = TestDatabase::create().await;
        let (shutdown, invoker) = (Shutdown::new(), FakeInvoker::new());
        let proxy = Proxy::start(invoker.serve(&shutdown).await).await;
        let config = config(database.url(), proxy.address(), change);
        let replica = Replica::start(config, deployments(&settings)).await;
        Self { replica, invoker, proxy, settings, shutdown, database }
    }

    /// Settings for another replica on the same database.
    pub(crate) fn config(&self, change: impl FnOnce(&mut Config)) -> Config {
        config(self.database.url(), self.proxy.address(), change)
    }

    pub(crate) fn deployments(&self) -> Deployments {
        deployments(&self.settings)
    }

    /// Number of lanes that each owner holds.
    pub(crate) async fn shares(&self) -> Vec<i64> {
        sqlx::query_scalar(
            "SELECT count(*) FROM ingest.lanes WHERE owner IS NOT NULL GROUP BY owner ORDER BY owner",
        )
        .fetch_all(self.database.pool())
        .await
        .unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.force();
    }
}

/// Settings of a service that a slow machine does not fail: without strict timeouts.
pub(crate) fn config(url: &DatabaseUrl, invoker: SocketAddr, change: impl FnOnce(&mut Config)) -> Config {
    let database = PoolConfig {
        acquire_timeout: PATIENCE,
        statement_timeout: PATIENCE,
        lock_timeout: PATIENCE,
        ..PoolConfig::new(url.clone())
    };
    let mut config = Config::new(database);
    config.invoker = format!("http://{invoker}").parse().unwrap();
    // Long, so that no lane is lost to a machine that stalls.
    config.dispatch.lease_ttl = PATIENCE;
    config.endpoint = EndpointArgs::OFF;
    change(&mut config);
    config
}

/// One process, as it were.
pub(crate) struct Replica {
    pub(crate) client: Client,
    pub(crate) shutdown: Shutdown,
    pub(crate) task: JoinHandle<anyhow::Result<()>>,
}

impl Replica {
    pub(crate) async fn start(config: Config, deployments: Deployments) -> Self {
        print_warnings();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::new();
        let task =
            tokio::spawn(chatfn_event_ingest::run_with(config, deployments, listener, shutdown.clone()));
        let client = chatfn_rpc::connect(ClientConfig {
            default_timeout: PATIENCE,
            connect_timeout: PATIENCE,
            ..ClientConfig::new(format!("http://{address}").parse().unwrap())
        })
        .unwrap();
        Self { client, shutdown, task }
    }

    /// Shuts it down as SIGTERM does and waits for its end.
    pub(crate) async fn stop(&mut self) {
        self.shutdown.begin();
        patiently(&mut self.task).await.unwrap().unwrap();
    }

    pub(crate) fn events(&self) -> EventIngestServiceClient<Client> {
        EventIngestServiceClient::new(self.client.clone())
    }

    pub(crate) fn replays(&self) -> ReplayServiceClient<Client> {
        ReplayServiceClient::new(self.client.clone())
    }

    pub(crate) fn deliveries(&self) -> DeliveryServiceClient<Client> {
        DeliveryServiceClient::new(self.client.clone())
    }

    pub(crate) async fn publish(&self, event: Event) -> Result<Acknowledgement, Status> {
        self.publish_request(Request::new(PublishEventRequest { event: Some(event) })).await
    }

    pub(crate) async fn publish_request(
        &self,
        request: Request<PublishEventRequest>,
    ) -> Result<Acknowledgement, Status> {
        Ok(self.events().publish_event(request).await?.into_inner().acknowledgement.unwrap())
    }

    /// Publishes events together.
    pub(crate) async fn publish_all(&self, events: Vec<Event>) -> Vec<Result<Acknowledgement, Status>> {
        let response = self.events().publish_events(PublishEventsRequest { events }).await.unwrap();
        let result = |published| match published {
            Published::Acknowledgement(acknowledgement) => Ok(acknowledgement),
            Published::Error(error) => Err(status(&error)),
        };
        response.into_inner().results.into_iter().map(|published| result(published.result.unwrap())).collect()
    }

    pub(crate) async fn delivery(&self, event_id: &str) -> Result<Delivery, Status> {
        let request = GetDeliveryRequest { name: format!("accounts/{ACME}/deliveries/{event_id}") };
        Ok(self.deliveries().get_delivery(request).await?.into_inner().delivery.unwrap())
    }

    /// The delivery of an event, once it is in this state.
    #[track_caller]
    pub(crate) fn reaches(&self, event_id: &str, state: DeliveryState) -> impl Future<Output = Delivery> {
        let caller = Location::caller();
        async move {
            let start = Instant::now();
            loop {
                let delivery = self.delivery(event_id).await.unwrap();
                if delivery.state() == state {
                    return delivery;
                }
                let is_final = !matches!(
                    delivery.state(),
                    DeliveryState::Pending | DeliveryState::Retrying | DeliveryState::Halted
                );
                assert!(!is_final && start.elapsed() < PATIENCE, "{delivery:?} at {caller}");
                // Asks again and again, as an admin would; the sleep only lets others work in between.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.shutdown.force();
        self.task.abort();
    }
}

/// The status of a single event.
pub(crate) fn status(error: &tonic_types::Status) -> Status {
    Status::with_details(Code::from(error.code), error.message.clone(), error.encode_to_vec().into())
}

/// An event of [`MESSAGE`].
pub(crate) fn event(conversation_id: &str, event_id: &str) -> Event {
    Event {
        account: ACME.to_owned(),
        event_id: event_id.to_owned(),
        template: MESSAGE.to_owned(),
        conversation_id: conversation_id.to_owned(),
        payload_kind: Some(PayloadKind::PayloadJson(r#"{"text":"hello"}"#.to_owned())),
        ..Event::default()
    }
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
    let caller = Location::caller();
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
pub(crate) fn eventually<F: Future<Output = bool>>(
    mut condition: impl FnMut() -> F,
) -> impl Future<Output = ()> {
    patiently(async move {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
}
