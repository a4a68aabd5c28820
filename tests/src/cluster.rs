//! A cluster of real processes on a database of its own.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use chatfn_pg::testing::TestDatabase;
use chatfn_rpc::{Client, ClientConfig, Role, connect};
use chatfn_telemetry::testing::free_addresses;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    PATIENCE,
    api::ACCOUNT,
    eventually,
    identities::{Call, Identities},
};

/// The three services, each a process, on one database. They are killed when it is dropped.
pub struct Cluster {
    /// The registry.
    pub registry: Service,
    /// The invoker.
    pub invoker: Service,
    /// Event-ingest.
    pub event_ingest: Service,
    /// The database.
    pub database: TestDatabase,
}

impl Cluster {
    /// Starts a cluster in which lambdas may call 127.0.0.1, and waits until all of it serves.
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// Starts a cluster that speaks TLS and asks who calls. Its own clients have every role in the tests' account.
    pub async fn start_secure(identities: &Identities) -> Self {
        Self::start_with(Some(identities)).await
    }

    async fn start_with(identities: Option<&Identities>) -> Self {
        let database = TestDatabase::create().await;
        let addresses = free_addresses();
        let [registry, invoker, event_ingest] = services(&database, addresses, identities);
        let mut cluster = Self { registry, invoker, event_ingest, database };
        for service in [&mut cluster.registry, &mut cluster.invoker, &mut cluster.event_ingest] {
            service.start();
        }
        for service in [&cluster.registry, &cluster.invoker, &cluster.event_ingest] {
            service.serving().await;
        }
        cluster
    }

    /// Starts another process of the registry on the same database, and waits until it serves. It is killed when it
    /// is dropped.
    pub async fn another_registry(&self) -> Service {
        let mut registry = self.registry.another();
        registry.start();
        registry.serving().await;
        registry
    }
}

/// Registry, invoker and event-ingest, not started yet. They listen at `addresses` and call each other there.
pub(crate) fn services(
    database: &TestDatabase,
    addresses: [SocketAddr; 3],
    identities: Option<&Identities>,
) -> [Service; 3] {
    let url = database.url().expose().to_owned();
    let [registry, invoker, event_ingest] = addresses;
    let scheme = if identities.is_some() { "https" } else { "http" };
    let [registry_url, invoker_url] = [registry, invoker].map(|it| format!("{scheme}://{it}"));
    let call = identities.map_or(Call::Plain, |it| it.call(&it.token(ACCOUNT, &Role::ALL)));
    // The compiled engine is the same for all tests.
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tmp/engine-cache");
    let [registry_metrics, invoker_metrics, ingest_metrics] = other_addresses(&addresses);
    let service = |name: &'static str, address, metrics, flags: &[(&str, &str)]| {
        let mut arguments = vec![format!("--listen={address}")];
        arguments.extend(flags.iter().map(|(flag, value)| format!("--{flag}={value}")));
        if let Some(identities) = identities {
            arguments.extend(identities.flags(name));
        }
        Service {
            name,
            address,
            metrics,
            arguments,
            variables: Vec::new(),
            process: None,
            call: call.clone(),
        }
    };
    [
        service("registry", registry, registry_metrics, &[("database-url", &url), ("invoker", &invoker_url)]),
        service(
            "invoker",
            invoker,
            invoker_metrics,
            &[
                ("registry", &registry_url),
                ("cache-dir", &cache.display().to_string()),
                ("egress-allow-cidr", "127.0.0.1/32"),
            ],
        ),
        service(
            "event-ingest",
            event_ingest,
            ingest_metrics,
            &[
                ("database-url", &url),
                ("registry", &registry_url),
                ("invoker", &invoker_url),
                // A killed replica's lanes are taken over soon.
                ("lease-ttl", "2s"),
            ],
        ),
    ]
}

/// A service's process.
pub struct Service {
    name: &'static str,
    address: SocketAddr,
    metrics: SocketAddr,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    process: Option<Child>,
    call: Call,
}

impl Service {
    /// Where the process serves.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the process tells of itself over HTTP.
    pub fn metrics(&self) -> SocketAddr {
        self.metrics
    }

    /// Another process with the same settings at an address of its own, not started yet.
    pub(crate) fn another(&self) -> Self {
        let [address, metrics] = free_addresses();
        let (variables, call) = (self.variables.clone(), self.call.clone());
        let mut another = Self {
            name: self.name,
            address,
            metrics,
            arguments: self.arguments.clone(),
            variables,
            process: None,
            call,
        };
        another.flag("listen", &address.to_string());
        another
    }

    /// Starts the process; it need not serve yet.
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "{} runs already", self.name);
        let process = Command::new(binary(self.name))
            .args(&self.arguments)
            // A slow machine is no failure.
            .env("CHATFN_DATABASE_ACQUIRE_TIMEOUT", "30s")
            .env("CHATFN_DATABASE_STATEMENT_TIMEOUT", "30s")
            .env("CHATFN_DATABASE_LOCK_TIMEOUT", "30s")
            // Not a flag, which earlier releases would not know.
            .env("CHATFN_TELEMETRY_LISTEN", self.metrics.to_string())
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .spawn();
        self.process = Some(process.unwrap_or_else(|error| panic!("{} does not start: {error}", self.name)));
    }

    /// Sets a flag for the starts to come.
    pub fn flag(&mut self, flag: &str, value: &str) {
        let flag = format!("--{flag}=");
        self.arguments.retain(|argument| !argument.starts_with(&flag));
        self.arguments.push(flag + value);
    }

    /// Sets a variable of the environment for the starts to come.
    pub fn variable(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// Waits until the process reports SERVING.
    pub async fn serving(&self) {
        eventually(&format!("{} serves", self.name), async || self.is_serving().await.then_some(())).await;
    }

    /// Whether the process reports SERVING.
    pub async fn is_serving(&self) -> bool {
        let answer = HealthClient::new(self.client()).check(HealthCheckRequest::default()).await;
        answer.is_ok_and(|answer| answer.get_ref().status() == ServingStatus::Serving)
    }

    /// What the program's sub-command `health` says of the process that its settings name: nothing if all is well.
    pub fn health(&self, flags: &[&str]) -> Result<(), String> {
        let mut command = Command::new(binary(self.name));
        let asked = command.args(&self.arguments).arg("health").args(flags).stdin(Stdio::null()).output();
        let output = asked.unwrap_or_else(|error| panic!("{} does not start: {error}", self.name));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(said) }
    }

    /// Asks the process to stop, and does not wait.
    pub fn terminate(&self) {
        let process = self.process.as_ref().expect("the process runs");
        kill(pid(process), Signal::SIGTERM).expect("a child can be signalled");
    }

    /// Ends the process as a crash does: at once, without a chance to do anything.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("the process runs");
        process.kill().expect("a child can be killed");
        process.wait().expect("a child can be waited for");
    }

    /// Asks the process to stop and waits until it has, with success.
    pub async fn stop(&mut self) {
        self.terminate();
        self.stopped().await;
    }

    /// Waits until a process that was asked to stop has, with success.
    pub async fn stopped(&mut self) {
        let status = self.ended().await;
        assert!(status.success(), "{} stopped with {status}", self.name);
    }

    /// Waits until a process that was asked to stop has, and says how.
    pub async fn ended(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("the process runs");
        eventually(&format!("{} stops", self.name), async || process.try_wait().unwrap()).await
    }

    /// A client of the service. It outlives restarts.
    pub fn client(&self) -> Client {
        self.client_as(&self.call)
    }

    /// A client that proves who it is in this way.
    pub fn client_as(&self, call: &Call) -> Client {
        self.client_at(self.address, call)
    }

    /// A client that calls the service somewhere else than where this process listens.
    pub(crate) fn client_at(&self, address: SocketAddr, call: &Call) -> Client {
        let config = call.config(address);
        connect(ClientConfig { default_timeout: PATIENCE, ..config }).unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
    }
}

fn pid(process: &Child) -> Pid {
    Pid::from_raw(process.id().cast_signed())
}

/// Three more than these that are free now.
fn other_addresses(addresses: &[SocketAddr]) -> [SocketAddr; 3] {
    loop {
        let others = free_addresses();
        if !others.iter().any(|other| addresses.contains(other)) {
            return others;
        }
    }
}

/// The binary of a service: beside the one that runs this test, or of another release (`make test-upgrade`).
pub fn binary(service: &str) -> PathBuf {
    if let Some(folder) = std::env::var_os("CHATFN_TEST_BINARIES") {
        return Path::new(&folder).join(format!("chatfn-{service}"));
    }
    let test = std::env::current_exe().expect("this test's own path");
    let folder = test.parent().and_then(Path::parent).expect("target/debug/deps");
    let binary = folder.join(format!("chatfn-{service}"));
    assert!(binary.exists(), "{} is not built: run `make test`", binary.display());
    binary
}
