//! What is done to the cluster, and how it recovers.

mod end;
mod hurt;
mod kills;
mod network;
mod peers;
mod postgres;
mod processes;

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

pub use self::{
    end::SETTLE,
    hurt::Hurt,
    kills::{EDGES, Passed},
};
use crate::{
    cluster::Cluster,
    history::{Aside, Kind, Template},
    load::{Load, Publishers, Records},
    places::Places,
    process::until,
    proxy::Weather,
};

/// Conversations that must be served again before the cluster counts as recovered: over most lanes of both replicas.
const PROBES: usize = 16;
/// How long a recovery may take before it is none: far above any that was seen.
const RECOVERY: Duration = Duration::from_secs(60);
/// Most memory of a service, in MiB, built for debugging.
const MEMORY_MIB: u64 = 2048;
/// Most connections to the database: the pools of two replicas and the registry, and once more while Postgres has not
/// noticed that their former selves are gone.
const CONNECTIONS: i64 = 160;

/// How much is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Three kills.
    Smoke,
    /// Every fault.
    Full,
    /// Every fault, and outages of a minute.
    Long,
}

/// A cluster under load, and what was done to it.
pub struct Run {
    cluster: Cluster,
    publishers: Publishers,
    load: Option<Load>,
    rng: SmallRng,
    start: Instant,
    /// Processes killed.
    pub kills: u64,
    /// Faults injected.
    pub faults: u64,
    /// Faults that cannot be injected here, and what they lack.
    pub left_out: Vec<String>,
    /// How long each recovery took, and from what.
    pub recoveries: Vec<(Hurt, Duration)>,
    aside: Aside,
    /// How long a recovery may take before it is none.
    patience: Duration,
}

impl Run {
    /// Starts a cluster and its load.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(places: &Places, seed: u64) -> anyhow::Result<Self> {
        let start = Instant::now();
        let cluster = Cluster::start(places).await?;
        let clients = cluster.ingest.iter().map(|replica| replica.client()).collect::<Result<_, _>>()?;
        let records = Arc::new(Records::new(&places.folder.join("clients.jsonl"))?);
        // What a mutant loses does not come back.
        let patience = if places.mutant.is_some() { RECOVERY / 6 } else { RECOVERY };
        let publishers = Publishers::new(clients, records, seed & 0xffff_ffff, 3 * patience);
        let load = Some(publishers.start(seed));
        let mut run = Self {
            cluster,
            publishers,
            load,
            rng: SmallRng::seed_from_u64(seed),
            start,
            kills: 0,
            faults: 0,
            left_out: Vec::new(),
            recoveries: Vec::new(),
            aside: Aside::default(),
            patience,
        };
        run.recovered(Hurt::Kill, "nothing yet", Instant::now()).await?;
        run.recoveries.clear();
        run.faults = 0;
        Ok(run)
    }

    /// Does all that there is, once.
    ///
    /// # Errors
    /// A fault cannot be injected; what it breaks is no error, but noted.
    pub async fn all(&mut self, scale: Scale) -> anyhow::Result<()> {
        self.kill_at_edges(scale).await?;
        if scale != Scale::Smoke {
            self.halt_at_edges().await?;
            self.hurt_postgres(scale).await?;
            self.hurt_network().await?;
            self.turn_clocks().await?;
            self.kill_others().await?;
            self.crash_attempts().await?;
            self.bad_peers().await?;
        }
        Ok(())
    }

    /// Waits until events of conversations all over the lanes run to their end, and notes how long that took since the
    /// fault ended.
    async fn recovered(&mut self, hurt: Hurt, what: &str, since: Instant) -> anyhow::Result<()> {
        self.faults += 1;
        let patience = self.patience;
        let probes = async {
            let probes = self.publishers.probes(PROBES).await;
            let mut missing: HashSet<&str> = probes.iter().map(String::as_str).collect();
            let mut seen = 0;
            let ledger = &mut self.cluster.ledger;
            until("the probes run", patience, async || {
                ledger.read_on()?;
                for effect in &ledger.effects[seen..] {
                    if effect.body.ordinal == 1 {
                        missing.remove(effect.body.event.as_str());
                    }
                }
                seen = ledger.effects.len();
                Ok(missing.is_empty().then_some(()))
            })
            .await
        };
        let recovered = tokio::time::timeout(patience, probes)
            .await
            .unwrap_or_else(|_| Err(anyhow::anyhow!("the probes were not acknowledged within {patience:?}")));
        let took = since.elapsed();
        self.look().await;
        match recovered {
            Ok(()) => {
                self.recoveries.push((hurt, took));
                self.tell(&format!("{what}: served again after {:.1} s", took.as_secs_f64()));
            }
            Err(error) => {
                let what = format!("{what}: {error:#}");
                self.tell(&what);
                self.aside.unrecovered.push(what);
            }
        }
        Ok(())
    }

    /// Notes what has grown too much.
    async fn look(&mut self) {
        let mut beyond = Vec::new();
        for process in self.cluster.processes() {
            if let Some(memory) = process.memory_mib().filter(|memory| *memory > MEMORY_MIB) {
                beyond.push(format!("{} has {memory} MiB", process.name));
            }
        }
        if let Ok(connections) = self.cluster.database.connections().await
            && connections > CONNECTIONS
        {
            beyond.push(format!("{connections} connections to the database"));
        }
        self.aside.beyond_bounds.extend(beyond);
    }

    fn leave_out(&mut self, what: &str) {
        self.tell(&format!("left out: {what}"));
        if !self.left_out.iter().any(|it| it == what) {
            self.left_out.push(what.to_owned());
        }
    }

    fn tell(&self, what: &str) {
        println!(
            "[{:>4} s] {what}  (events {}, effects {}, kills {})",
            self.start.elapsed().as_secs(),
            self.publishers.records.len(),
            self.cluster.ledger.effects.len(),
            self.kills
        );
    }

    /// Waits until some event has had another attempt.
    ///
    /// # Errors
    /// None had in a minute.
    pub async fn retried(&mut self) -> anyhow::Result<()> {
        let ledger = &mut self.cluster.ledger;
        until("an event is tried again", RECOVERY, async || {
            ledger.read_on()?;
            Ok(ledger.effects.iter().any(|effect| effect.attempt > 1).then_some(()))
        })
        .await
    }

    /// Waits until enough events of a template have their answers, and are over where their clients wait for that.
    ///
    /// # Errors
    /// They do not in a minute.
    pub async fn published(&mut self, template: Template) -> anyhow::Result<()> {
        const ENOUGH: usize = 12;
        let records = &self.publishers.records;
        until("events of a template are published", RECOVERY, async || {
            let (publications, _) = records.all();
            let count = publications.iter().filter(|it| it.template == template).count();
            Ok((count >= ENOUGH).then_some(()))
        })
        .await
    }

    /// Publishes an event whose attempts all end by kills of event-ingest, and lasts until it is over.
    ///
    /// # Errors
    /// A process cannot be killed or started.
    pub async fn crash_attempts(&mut self) -> anyhow::Result<()> {
        let attempts = Template::Poison.max_attempts();
        let conversation = format!("crasher-{}", self.publishers.records.next());
        let event = self.publishers.new_publication("acme", &conversation, (Template::Poison, Kind::Crasher));
        let event = self.publishers.publish(event).await.event;
        // One more than there should be, for a mistake to show.
        for attempt in 1..=attempts + 1 {
            let ledger = &mut self.cluster.ledger;
            let patience = if attempt > attempts { Duration::from_secs(8) } else { RECOVERY };
            let runs = until("the crasher runs", patience, async || {
                ledger.read_on()?;
                let seen = ledger.effects.iter().filter(|effect| effect.body.event == event).count();
                Ok((seen >= attempt as usize).then_some(()))
            });
            if runs.await.is_err() {
                break;
            }
            for replica in &mut self.cluster.ingest {
                replica.process.kill()?;
                self.kills += 1;
            }
            self.cluster.start_missing()?;
        }
        self.recovered(Hurt::Kill, "an event that always kills event-ingest", Instant::now()).await
    }

    /// Either replica.
    fn any_replica(&mut self) -> usize {
        self.rng.random_range(0..2)
    }

    /// Whatever was done to it ends.
    fn heal(&mut self) -> anyhow::Result<()> {
        for replica in &self.cluster.ingest {
            replica.disarm();
            for link in [&replica.from_clients, &replica.to_database, &replica.to_invoker] {
                link.set(Weather::Clear);
            }
        }
        self.cluster.start_missing().context("what was killed does not start again")
    }
}
