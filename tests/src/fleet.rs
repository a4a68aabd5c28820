//! A cluster with several processes of each service, each service behind one address, as in Kubernetes.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use chatfn_pg::testing::TestDatabase;
use chatfn_rpc::Client;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::{
    cluster::{Service, services},
    eventually,
    identities::Call,
};

/// Processes of each service.
const REPLICAS: usize = 2;

/// The three services, [`REPLICAS`] processes each, on one database. They are killed when it is dropped.
pub struct Fleet {
    /// The registries.
    pub registry: Replicas,
    /// The invokers.
    pub invoker: Replicas,
    /// The event-ingests.
    pub event_ingest: Replicas,
    _database: TestDatabase,
}

impl Fleet {
    /// Starts a fleet, and waits until all of it serves.
    pub async fn start() -> Self {
        let database = TestDatabase::create().await;
        let fronts = [Front::start().await, Front::start().await, Front::start().await];
        let patterns = services(&database, [&fronts[0], &fronts[1], &fronts[2]].map(|it| it.address), None);
        let [registry, mut invoker, event_ingest] = patterns;
        // A single invoker has the calls of both for a while, which must not fail for their number.
        invoker.flag("egress-rate", "10000");
        let [registry_front, invoker_front, event_ingest_front] = fronts;
        // The first processes of a service start one after the other: the first invoker compiles the engine for all.
        let registry = Replicas::start(registry, registry_front).await;
        let invoker = Replicas::start(invoker, invoker_front).await;
        let event_ingest = Replicas::start(event_ingest, event_ingest_front).await;
        Self { registry, invoker, event_ingest, _database: database }
    }
}

/// The processes of a service.
pub struct Replicas {
    pattern: Service,
    front: Front,
    running: Vec<Service>,
}

impl Replicas {
    async fn start(mut pattern: Service, front: Front) -> Self {
        // As the manifests have it: whoever looked the address up before may still come for a while.
        pattern.flag("rpc-drain-delay", "1s");
        let mut replicas = Self { pattern, front, running: Vec::new() };
        for _ in 0..REPLICAS {
            replicas.add().await;
        }
        replicas
    }

    /// A client of the service, whichever process answers.
    pub fn client(&self) -> Client {
        self.pattern.client_at(self.front.address, &Call::Plain)
    }

    /// Replaces every process by a new one, as a Deployment that may surge by one does it: a new one serves before
    /// an old one is told to stop. Returns how long it took.
    ///
    /// # Panics
    /// When a process does not start to serve, or does not stop with success.
    pub async fn roll(&mut self) -> Duration {
        let start = Instant::now();
        for _ in 0..self.running.len() {
            self.add().await;
            let mut old = self.running.remove(0);
            old.terminate();
            // Kubernetes takes it out of its endpoints only some time after it was told.
            eventually("it is not ready any more", async || (!old.is_serving().await).then_some(())).await;
            self.front.remove(old.address());
            old.stopped().await;
        }
        start.elapsed()
    }

    async fn add(&mut self) {
        let mut replica = self.pattern.another();
        replica.start();
        replica.serving().await;
        self.front.add(replica.address());
        self.running.push(replica);
    }
}

/// What a Service of Kubernetes is to its callers: one address, whose connections go to the ready processes in turn.
struct Front {
    address: SocketAddr,
    ready: Arc<Mutex<Ready>>,
    _server: JoinSet<()>,
}

#[derive(Default)]
struct Ready {
    addresses: Vec<SocketAddr>,
    turn: usize,
}

impl Front {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let ready = Arc::<Mutex<Ready>>::default();
        let mut server = JoinSet::new();
        let endpoints = Arc::clone(&ready);
        server.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut caller, _) = listener.accept().await.expect("connections can be accepted");
                while connections.try_join_next().is_some() {}
                let Some(endpoint) = lock(&endpoints).next() else { continue };
                connections.spawn(async move {
                    if let Ok(mut replica) = TcpStream::connect(endpoint).await {
                        // Either side may go away: that is the other's to notice.
                        let _ = tokio::io::copy_bidirectional(&mut caller, &mut replica).await;
                    }
                });
            }
        });
        Self { address, ready, _server: server }
    }

    fn add(&self, address: SocketAddr) {
        lock(&self.ready).addresses.push(address);
    }

    fn remove(&self, address: SocketAddr) {
        lock(&self.ready).addresses.retain(|it| *it != address);
    }
}

impl Ready {
    fn next(&mut self) -> Option<SocketAddr> {
        self.turn += 1;
        let count = self.addresses.len();
        (count > 0).then(|| self.addresses[self.turn % count])
    }
}

fn lock(ready: &Mutex<Ready>) -> std::sync::MutexGuard<'_, Ready> {
    ready.lock().unwrap_or_else(PoisonError::into_inner)
}
