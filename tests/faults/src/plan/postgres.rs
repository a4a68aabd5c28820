//! Postgres is killed, stopped, halted and filled up.

use std::time::{Duration, Instant};

use super::{Hurt, RECOVERY, Run, Scale};

/// How long it is gone.
const OUTAGE: Duration = Duration::from_secs(6);
/// The same, in the long form.
const LONG_OUTAGE: Duration = Duration::from_secs(60);

impl Run {
    pub(super) async fn hurt_postgres(&mut self, scale: Scale) -> anyhow::Result<()> {
        let outage = if scale == Scale::Long { LONG_OUTAGE } else { OUTAGE };
        for _ in 0..2 {
            self.cluster.database.kill().await;
            self.kills += 1;
            self.cluster.database.start().await?;
            self.recovered(Hurt::Postgres, "SIGKILL of Postgres and all its sessions", Instant::now())
                .await?;
        }
        self.cluster.database.stop().await?;
        tokio::time::sleep(outage).await;
        self.cluster.database.start().await?;
        self.recovered(Hurt::Postgres, &format!("Postgres stopped for {outage:?}"), Instant::now()).await?;

        self.cluster.database.halt();
        tokio::time::sleep(outage).await;
        self.cluster.database.go_on();
        self.recovered(Hurt::Postgres, &format!("Postgres silent for {outage:?}"), Instant::now()).await?;

        if self.cluster.database.has_own_disk {
            self.cluster.database.fill(true)?;
            tokio::time::sleep(outage).await;
            self.cluster.database.fill(false)?;
            let since = Instant::now();
            // It ends when it cannot write its log.
            if tokio::time::timeout(RECOVERY, self.cluster.database.stale_writes())
                .await
                .is_ok_and(|it| it.is_err())
            {
                self.cluster.database.kill().await;
                self.cluster.database.start().await?;
            }
            self.recovered(Hurt::Postgres, &format!("Postgres' disk full for {outage:?}"), since).await?;
        } else {
            self.leave_out("Postgres' disk full: needs a root who may mount, to give it one of its own");
        }
        Ok(())
    }
}
