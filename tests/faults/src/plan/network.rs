//! What networks do to one replica's links.

use std::time::{Duration, Instant};

use super::{Hurt, Run};
use crate::proxy::Weather;

/// How long the weather lasts: longer than the leases.
const WEATHER: Duration = Duration::from_secs(4);

impl Run {
    pub(super) async fn hurt_network(&mut self) -> anyhow::Result<()> {
        for weather in [
            Weather::Partition,
            Weather::HalfOpen,
            Weather::Resets,
            Weather::Slow(Duration::from_millis(500)),
        ] {
            let hurt = if weather == Weather::HalfOpen { Hurt::HalfOpen } else { Hurt::Network };
            for link in ["from clients", "to Postgres", "to the invoker"] {
                let index = self.any_replica();
                let replica = &self.cluster.ingest[index];
                let name = replica.process.name.clone();
                let proxy = match link {
                    "from clients" => &replica.from_clients,
                    "to Postgres" => &replica.to_database,
                    _ => &replica.to_invoker,
                };
                proxy.set(weather);
                tokio::time::sleep(WEATHER).await;
                proxy.set(Weather::Clear);
                self.recovered(hurt, &format!("{weather:?} {link} of {name}"), Instant::now()).await?;
            }
        }
        Ok(())
    }
}
