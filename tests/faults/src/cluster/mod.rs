//! The cluster that is hurt: a registry, an invoker, two replicas of event-ingest with failpoints, Postgres and the
//! witness, each a process, with a proxy on each link of event-ingest.

mod functions;
mod replica;

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use anyhow::Context as _;
use chatfn_rpc::{Client, ClientConfig, connect};
use chatfn_telemetry::testing::free_addresses;
use nix::sys::signal::Signal;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

pub use self::replica::Replica;
use crate::{
    database::Database,
    places::Places,
    process::{Process, until},
    proxy::Proxy,
    witness::Ledger,
};

/// How long anything may take that a slow machine does slowly.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long a lane stays with a replica that has fallen silent.
pub const LEASE_TTL: Duration = Duration::from_secs(2);
/// The accounts, each with its canary: a secret that must stay where it belongs.
pub const ACCOUNTS: [(&str, &str); 2] = [("acme", "canary-2f7c1e"), ("globex", "canary-9b04d3")];

/// The cluster. Its processes are killed when it is dropped.
pub struct Cluster {
    /// The registry.
    pub registry: Process,
    /// The invoker.
    pub invoker: Process,
    /// Event-ingest.
    pub ingest: [Replica; 2],
    /// Postgres.
    pub database: Database,
    /// What the witness wrote down.
    pub ledger: Ledger,
    invoker_address: SocketAddr,
    _witness: Process,
}

/// A client that gives up after 3 s.
pub fn client(address: SocketAddr) -> anyhow::Result<Client> {
    let uri = format!("http://{address}").parse()?;
    let config = ClientConfig { default_timeout: Duration::from_secs(3), ..ClientConfig::new(uri) };
    Ok(connect(config)?)
}

impl Cluster {
    /// Starts all of it and waits until it serves, with the functions of both accounts deployed.
    ///
    /// # Errors
    /// Something does not start.
    pub async fn start(places: &Places) -> anyhow::Result<Self> {
        let folder = &places.folder;
        functions::templates(&folder.join("templates"))?;
        let database = Database::create(&folder.join("postgres"), places.has_own_disk).await?;
        let (mut witness, witness_address) = start_witness(places).await?;
        let [registry_address, invoker_address, one, two] = free_addresses();
        let process = |name: &str, binary: &str, arguments: Vec<String>| {
            let log = folder.join(format!("{name}.log"));
            let mut process = Process::new(name, &places.binaries.join(binary), arguments, &log);
            process.environment.push(("NO_COLOR".to_owned(), "1".to_owned()));
            process.environment.push(("CHATFN_TELEMETRY_LISTEN".to_owned(), "off".to_owned()));
            process
        };
        let mut registry = process(
            "registry",
            "chatfn-registry",
            vec![
                format!("--listen={registry_address}"),
                format!("--database-url={}", database.url_by(database.address())),
                format!("--invoker=http://{invoker_address}"),
                format!("--templates={}", folder.join("templates").display()),
            ],
        );
        let mut invoker = process(
            "invoker",
            "chatfn-invoker",
            vec![
                format!("--listen={invoker_address}"),
                format!("--registry=http://{registry_address}"),
                format!("--cache-dir={}", places.binaries.join("../tmp/engine-cache").display()),
                "--egress-allow-cidr=127.0.0.1/32".to_owned(),
                "--egress-rate=10000".to_owned(),
            ],
        );
        registry.start()?;
        invoker.start()?;
        let mut replicas = Vec::new();
        for (name, address) in [("ingest-a", one), ("ingest-b", two)] {
            let (from_clients, to_database, to_invoker) = (
                Proxy::start(address).await?,
                Proxy::start(database.address()).await?,
                Proxy::start(invoker_address).await?,
            );
            let mut ingest = process(
                name,
                "chatfn-event-ingest-faulty",
                vec![
                    format!("--listen={address}"),
                    format!("--database-url={}", database.url_by(to_database.address())),
                    format!("--registry=http://{registry_address}"),
                    format!("--invoker=http://{}", to_invoker.address()),
                    format!("--lease-ttl={}s", LEASE_TTL.as_secs()),
                ],
            );
            let orders = folder.join(format!("{name}.orders"));
            let mut environment = |name: &str, value: &Path| {
                ingest.environment.push((name.to_owned(), value.display().to_string()));
            };
            environment("CHATFN_FAILPOINT_FILE", &orders);
            let clock = folder.join(format!("{name}.clock"));
            // One replica alone: then a difference between the two would show.
            let fake_time = places.fake_time.as_ref().filter(|_| name == "ingest-b");
            if let Some(library) = fake_time {
                fs::write(&clock, "+0s")?;
                environment("LD_PRELOAD", library);
                environment("FAKETIME_TIMESTAMP_FILE", &clock);
                environment("FAKETIME_CACHE_DURATION", Path::new("1"));
                environment("FAKETIME_DONT_FAKE_MONOTONIC", Path::new("1"));
            }
            let clock = fake_time.map(|_| clock);
            if let Some(mutant) = &places.mutant {
                ingest.environment.push(("CHATFN_MUTANT".to_owned(), mutant.clone()));
            }
            ingest.start()?;
            replicas.push(Replica { process: ingest, orders, clock, from_clients, to_database, to_invoker });
        }
        let ingest = replicas.try_into().map_err(|_| anyhow::anyhow!("two replicas"))?;
        let ledger = Ledger::new(folder.join("ledger.jsonl"));
        witness.name = "witness".to_owned();
        let cluster =
            Self { registry, invoker, ingest, database, ledger, invoker_address, _witness: witness };
        serving("registry", registry_address).await?;
        serving("invoker", invoker_address).await?;
        functions::deploy(client(registry_address)?, &witness_address).await?;
        cluster.serving().await?;
        Ok(cluster)
    }

    /// Waits until both replicas, and the invoker, serve.
    ///
    /// # Errors
    /// They do not in a minute.
    pub async fn serving(&self) -> anyhow::Result<()> {
        serving("the invoker", self.invoker_address).await?;
        for replica in &self.ingest {
            serving(&replica.process.name, replica.from_clients.address()).await?;
        }
        Ok(())
    }

    /// The services' processes, in the order in which they are to be stopped.
    pub fn processes(&mut self) -> [&mut Process; 4] {
        let [one, two] = &mut self.ingest;
        [&mut one.process, &mut two.process, &mut self.invoker, &mut self.registry]
    }

    /// Starts what does not run.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_missing(&mut self) -> anyhow::Result<()> {
        for process in self.processes() {
            if process.has_ended()? {
                process.start()?;
            } else if process.is_halted() {
                process.signal(Signal::SIGCONT)?;
            }
        }
        Ok(())
    }
}

async fn serving(name: &str, address: SocketAddr) -> anyhow::Result<()> {
    let mut health = HealthClient::new(client(address)?);
    until(&format!("{name} serves"), PATIENCE, async || {
        let answer = health.check(HealthCheckRequest::default()).await;
        Ok(answer.ok().filter(|it| it.get_ref().status() == ServingStatus::Serving).map(|_| ()))
    })
    .await
}

async fn start_witness(places: &Places) -> anyhow::Result<(Process, String)> {
    let log = places.folder.join("witness.log");
    let ledger = places.folder.join("ledger.jsonl");
    let arguments = vec!["witness".to_owned(), "--ledger".to_owned(), ledger.display().to_string()];
    let mut witness = Process::new("witness", &places.program, arguments, &log);
    witness.start()?;
    let address = until("the witness tells its address", PATIENCE, async || {
        let log = fs::read_to_string(&log).unwrap_or_default();
        Ok(log.split_once('\n').map(|(line, _)| line.to_owned()))
    })
    .await?;
    address.parse::<SocketAddr>().with_context(|| format!("the witness says: {address}"))?;
    Ok((witness, address))
}
