//! Other processes are killed, replicas are replaced in order, and clocks are wrong.

use std::{fs, time::Instant};

use nix::sys::signal::Signal;

use super::{Hurt, Run};
use crate::{
    cluster::{LEASE_TTL, PATIENCE},
    process::until,
};

impl Run {
    pub(super) async fn kill_others(&mut self) -> anyhow::Result<()> {
        for _ in 0..2 {
            self.cluster.invoker.kill()?;
            self.kills += 1;
            self.heal()?;
            self.recovered(Hurt::Kill, "SIGKILL of the invoker", Instant::now()).await?;
        }
        self.cluster.registry.kill()?;
        self.kills += 1;
        self.recovered(Hurt::Kill, "without the registry", Instant::now()).await?;
        self.heal()?;
        for replica in &mut self.cluster.ingest {
            replica.process.kill()?;
            self.kills += 1;
        }
        let since = Instant::now();
        self.heal()?;
        self.recovered(Hurt::Kill, "SIGKILL of both replicas", since).await?;
        self.cluster.serving().await?;
        for index in 0..self.cluster.ingest.len() {
            let process = &mut self.cluster.ingest[index].process;
            let name = process.name.clone();
            process.signal(Signal::SIGTERM)?;
            until("it stops when asked", PATIENCE, async || Ok(process.has_ended()?.then_some(()))).await?;
            let since = Instant::now();
            self.heal()?;
            self.recovered(Hurt::Replaced, &format!("{name} replaced in order"), since).await?;
            self.cluster.serving().await?;
        }
        Ok(())
    }

    pub(super) async fn turn_clocks(&mut self) -> anyhow::Result<()> {
        let replicas = self.cluster.ingest.iter();
        let clocks: Vec<_> =
            replicas.filter_map(|replica| Some((replica.process.pid(), replica.clock.clone()?))).collect();
        if clocks.is_empty() {
            self.leave_out("clocks: need libfaketime, which is not installed");
        }
        for (pid, clock) in clocks {
            // If it does not run, nothing was turned, either.
            let maps = pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/maps")).ok());
            if !maps.is_some_and(|maps| maps.contains("faketime")) {
                self.aside.unrecovered.push("libfaketime was not loaded, so no clock was turned".to_owned());
            }
            for offset in ["+3600s", "-3600s", "+0s"] {
                fs::write(&clock, offset)?;
                // It looks at the file once a second.
                tokio::time::sleep(LEASE_TTL).await;
                self.recovered(Hurt::Clock, &format!("a replica's clock at {offset}"), Instant::now())
                    .await?;
            }
        }
        Ok(())
    }
}
