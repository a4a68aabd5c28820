//! SIGKILL and SIGSTOP at the edges between what is durable and what is told.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rand::RngExt as _;

use super::{Hurt, Run, Scale};
use crate::{
    cluster::{LEASE_TTL, PATIENCE},
    process::until,
};

/// What makes event-ingest pass an edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passed {
    /// Events; as often as this, at most, before it is hurt.
    ByLoad(u64),
    /// Its start.
    AtStart,
    /// Its stop.
    AtStop,
    /// An invoker that is gone.
    WithoutInvoker,
}

/// Where event-ingest is killed. `src/failpoint.rs` there says how; the names are beside the code.
pub const EDGES: [(&str, Passed); 22] = [
    ("commit.collected", Passed::ByLoad(5)),
    ("commit.sent", Passed::ByLoad(5)),
    ("commit.durable", Passed::ByLoad(5)),
    ("commit.told", Passed::ByLoad(5)),
    ("commit.acknowledged", Passed::ByLoad(5)),
    ("lane.begun", Passed::AtStart),
    ("lane.flushed", Passed::AtStop),
    ("lease.claimed", Passed::AtStart),
    ("lease.announced", Passed::ByLoad(3)),
    ("lease.renewed", Passed::ByLoad(3)),
    ("lease.released", Passed::AtStop),
    ("journal.collected", Passed::ByLoad(5)),
    ("journal.sent", Passed::ByLoad(5)),
    ("journal.voided", Passed::WithoutInvoker),
    ("journal.intervened", Passed::ByLoad(1)),
    ("journal.durable", Passed::ByLoad(5)),
    ("attempt.counted", Passed::ByLoad(5)),
    ("attempt.made", Passed::ByLoad(5)),
    ("replay.asked", Passed::ByLoad(1)),
    ("replay.durable", Passed::ByLoad(1)),
    ("attempt.counted", Passed::ByLoad(40)),
    ("commit.acknowledged", Passed::ByLoad(40)),
];

/// Where a mistake would show most.
const SMOKE: [&str; 3] = ["commit.acknowledged", "journal.sent", "attempt.made"];

/// Where event-ingest is halted for longer than its leases last.
const HALTS: [&str; 6] =
    ["journal.collected", "journal.sent", "attempt.counted", "attempt.made", "lease.renewed", "commit.sent"];

impl Run {
    pub(super) async fn kill_at_edges(&mut self, scale: Scale) -> anyhow::Result<()> {
        for (edge, passed) in EDGES {
            if scale != Scale::Smoke || SMOKE.contains(&edge) && passed != Passed::ByLoad(40) {
                self.kill_at(edge, passed).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn halt_at_edges(&mut self) -> anyhow::Result<()> {
        for edge in HALTS {
            self.halt_at(edge, leases(edge)).await?;
        }
        Ok(())
    }

    /// Kills a replica at an edge.
    ///
    /// # Errors
    /// It cannot be started again.
    pub async fn kill_at(&mut self, edge: &str, passed: Passed) -> anyhow::Result<()> {
        let index = self.any_replica();
        let pass = if let Passed::ByLoad(most) = passed { self.rng.random_range(1..=most) } else { 1 };
        let cluster = &mut self.cluster;
        if passed == Passed::AtStop {
            // Who has just started has nothing to give up yet.
            let database = &cluster.database;
            let shared = async || Ok(database.are_lanes_shared().await?.then_some(()));
            until("both replicas have lanes", PATIENCE, shared).await?;
        }
        let replica = &mut cluster.ingest[index];
        if passed == Passed::AtStart {
            replica.process.kill()?;
            self.kills += 1;
        }
        replica.arm(edge, "kill", pass)?;
        match passed {
            Passed::AtStart => replica.process.start()?,
            Passed::AtStop => replica.process.signal(Signal::SIGTERM)?,
            Passed::WithoutInvoker => {
                cluster.invoker.kill()?;
                self.kills += 1;
            }
            Passed::ByLoad(_) => {}
        }
        let process = &mut cluster.ingest[index].process;
        let ended = until(edge, PATIENCE, async || Ok(process.has_ended()?.then_some(()))).await;
        let since = Instant::now();
        let name = process.name.clone();
        let was_passed = ended.is_ok() && !self.cluster.ingest[index].is_armed();
        if was_passed {
            self.kills += 1;
        } else {
            self.aside.unrecovered.push(format!("{name} did not pass {edge}, so nothing was killed there"));
        }
        // The other one takes over, or it is back before that.
        let is_back_first = self.rng.random();
        if is_back_first || passed == Passed::WithoutInvoker {
            self.heal()?;
        }
        self.recovered(Hurt::Kill, &format!("SIGKILL of {name} at {edge} ({pass})"), since).await?;
        self.heal()?;
        self.cluster.serving().await
    }

    /// Halts a replica at an edge for `times` as long as its leases last.
    ///
    /// # Errors
    /// It cannot be made to go on.
    pub async fn halt_at(&mut self, edge: &str, times: f64) -> anyhow::Result<()> {
        let index = self.any_replica();
        let replica = &mut self.cluster.ingest[index];
        let name = replica.process.name.clone();
        replica.arm(edge, "stop", 2)?;
        let process = &replica.process;
        if until(edge, PATIENCE, async || Ok(process.is_halted().then_some(()))).await.is_err() {
            self.aside.unrecovered.push(format!("{name} did not pass {edge}, so nothing was halted there"));
        }
        let halted = Instant::now();
        let halt = LEASE_TTL.mul_f64(times);
        // What it has locked in the middle of a transaction, Postgres gives free before the lease is over.
        self.recovered(Hurt::Halt, &format!("SIGSTOP of {name} at {edge}, taken over"), halted).await?;
        tokio::time::sleep(halt.saturating_sub(halted.elapsed()) + Duration::from_millis(500)).await;
        let halted = halted.elapsed().as_secs_f64();
        self.heal()?;
        self.recovered(
            Hurt::Halt,
            &format!("SIGCONT of {name} after {halted:.1} s at {edge}"),
            Instant::now(),
        )
        .await
    }
}

/// How many times as long as a lease, from 1.5 to 3: what is held for a run in progress lasts longer than one.
fn leases(edge: &str) -> f64 {
    if edge.starts_with("journal") { 3.0 } else { 1.5 }
}
