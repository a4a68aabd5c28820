//! Keeps this replica's share of the lanes: renews, claims, gives up, releases.

use std::{collections::HashMap, convert::Infallible, time::Duration};

use chatfn_pg::background::within;
use sqlx::PgPool;
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    lease::{Lease, LeaseTerms},
    share::{self, Change},
};
use crate::{
    dispatch::{Ended, Shared, run_lane},
    failpoint,
    store::lanes,
};

/// Pause between looks at lanes that are being given up at shutdown.
const DRAIN_LOOK: Duration = Duration::from_millis(20);

/// The lanes of this replica.
pub(crate) struct Manager {
    replica: Uuid,
    terms: LeaseTerms,
    pool: PgPool,
    shared: Shared,
    held: HashMap<i16, Held>,
    /// Lanes that ended well and are still to be released, with their epochs.
    drained: Vec<(i16, i64)>,
    /// Fires true once the first round went well.
    works: watch::Sender<bool>,
    is_failing: bool,
}

struct Held {
    lease: Lease,
    drain: CancellationToken,
    life: JoinHandle<Ended>,
}

impl Manager {
    /// `pool` is for leases alone: a renewal must not queue behind what lanes read, nor for want of a connection that another
    /// task waits on.
    pub(crate) fn new(replica: Uuid, terms: LeaseTerms, pool: PgPool, shared: Shared) -> Self {
        let works = watch::Sender::new(false);
        Self {
            replica,
            terms,
            pool,
            shared,
            held: HashMap::new(),
            drained: Vec::new(),
            works,
            is_failing: false,
        }
    }

    /// How long a statement may take: if its connection is dead, another round renews the leases before they end.
    fn patience(&self) -> Duration {
        (self.terms.ttl - self.terms.margin) / 3
    }

    /// Becomes true once leases can be had.
    pub(crate) fn works(&self) -> watch::Receiver<bool> {
        self.works.subscribe()
    }

    /// Holds lanes until `stop`; then gives them up as their runs end, for at most `grace`. What still runs
    /// then is cut off, and its lane's lease is left to expire, so that no run can meet its successor.
    pub(crate) async fn run(mut self, stop: CancellationToken, grace: Duration) -> Result<(), Infallible> {
        let ready = self.shared.deployments.clone();
        tokio::select! {
            () = ready.ready() => {}
            () = stop.cancelled() => return Ok(()),
        }
        while !stop.is_cancelled() {
            self.round(true).await;
            tokio::select! {
                () = tokio::time::sleep(self.terms.renewal()) => {}
                () = stop.cancelled() => {}
            }
        }
        self.leave(grace).await;
        Ok(())
    }

    /// One round: renew the lanes, release those that ended, and change their number if need be. Without
    /// `may_claim` the replica is leaving, and says so.
    async fn round(&mut self, may_claim: bool) {
        match self.try_round(may_claim).await {
            Ok(()) => {
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!("leases are renewed again");
                }
                self.works.send_if_modified(|works| !std::mem::replace(works, true));
            }
            Err(error) => {
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::warn!(
                        "cannot renew the leases of lanes; they end by themselves unless that changes: {}",
                        chatfn_pg::error::describe(&error)
                    );
                }
            }
        }
    }

    /// Each statement has a limit of its own. One for all would cut a claim off where the database is merely slow, which records
    /// it all the same: nobody would run those lanes until their leases end.
    async fn try_round(&mut self, may_claim: bool) -> Result<(), sqlx::Error> {
        let patience = self.patience();
        within(patience, self.renew()).await?;
        if !may_claim {
            // Else the others would leave its share of the lanes to it, and what it has given up to nobody.
            within(patience, lanes::leave(&self.pool, self.replica)).await?;
        }
        self.collect().await?;
        if may_claim {
            let live = within(patience, lanes::heartbeat(&self.pool, self.replica, self.terms.ttl)).await?;
            failpoint::edge("lease.announced");
            let held = self.held.values().filter(|held| !held.drain.is_cancelled()).count();
            match share::change(held, live) {
                Change::Claim(most) => within(patience, self.claim(most)).await?,
                Change::GiveUp(extra) => {
                    // A lane starts nothing from then on, and goes when its last run ends. First those with no long runs, whose leases
                    // end first.
                    let mut giving: Vec<_> =
                        self.held.values().filter(|held| !held.drain.is_cancelled()).collect();
                    giving.sort_by_key(|held| held.lease.until());
                    giving.into_iter().take(extra).for_each(|held| held.drain.cancel());
                }
                Change::Keep => {}
            }
        }
        Ok(())
    }

    /// Forgets lanes that ended, and releases those that ended well.
    async fn collect(&mut self) -> Result<(), sqlx::Error> {
        let ended: Vec<i16> =
            self.held.iter().filter(|(_, held)| held.life.is_finished()).map(|(lane, _)| *lane).collect();
        for lane in ended {
            let Some(held) = self.held.remove(&lane) else { continue };
            match held.life.await {
                Ok(Ended::Drained) => self.drained.push((lane, held.lease.epoch())),
                Ok(Ended::Lost) => self.shared.metrics.lane_lost(),
                // Its lease expires, and whoever takes it over counts what was running.
                Err(error) => {
                    tracing::error!(lane, "lane {lane} ended: {error}");
                    self.shared.metrics.lane_lost();
                    held.lease.lose();
                }
            }
        }
        if !self.drained.is_empty() {
            within(self.patience(), lanes::release(&self.pool, self.replica, &self.drained)).await?;
            failpoint::edge("lease.released");
            self.drained.clear();
        }
        Ok(())
    }

    async fn renew(&mut self) -> Result<(), sqlx::Error> {
        let held: Vec<(i16, i64)> = self
            .held
            .values()
            .filter(|held| !held.lease.is_lost() && !held.life.is_finished())
            .map(|held| (held.lease.lane(), held.lease.epoch()))
            .collect();
        if held.is_empty() {
            return Ok(());
        }
        let asked = Instant::now();
        let renewed = lanes::renew(&self.pool, self.replica, &held, self.terms.ttl).await?;
        failpoint::edge("lease.renewed");
        for (lane, _) in held {
            let Some(held) = self.held.get(&lane) else { continue };
            if renewed.contains(&lane) {
                held.lease.extend(asked, self.terms.ttl);
            } else {
                tracing::warn!(lane, epoch = held.lease.epoch(), "another replica has lane {lane}");
                held.lease.lose();
            }
        }
        Ok(())
    }

    async fn claim(&mut self, most: usize) -> Result<(), sqlx::Error> {
        let asked = Instant::now();
        let claimed = lanes::claim(&self.pool, self.replica, most, self.terms.ttl).await?;
        failpoint::edge("lease.claimed");
        if !claimed.is_empty() {
            tracing::info!(lanes = claimed.len(), replica = %self.replica, "took over {} lanes", claimed.len());
        }
        self.shared.metrics.lanes_taken(claimed.len());
        for lanes::Claimed { lane, epoch, cursor } in claimed {
            let lease = Lease::start(lane, epoch, asked, self.terms);
            let drain = CancellationToken::new();
            let life = tokio::spawn(run_lane(self.shared.clone(), lease.clone(), cursor, drain.clone()));
            // A lane that was lost here and expired: its old life is over or ends now.
            if let Some(old) = self.held.insert(lane, Held { lease, drain, life }) {
                old.lease.lose();
                self.shared.metrics.lane_lost();
            }
        }
        Ok(())
    }

    /// Gives all lanes up.
    async fn leave(&mut self, grace: Duration) {
        let end = Instant::now() + grace;
        self.held.values().for_each(|held| held.drain.cancel());
        // Signs off. If that fails, the others see the heartbeat expire.
        self.round(false).await;
        let mut next_renewal = Instant::now() + self.terms.renewal();
        while !(self.held.is_empty() && self.drained.is_empty()) && Instant::now() < end {
            if Instant::now() >= next_renewal {
                self.round(false).await;
                next_renewal = Instant::now() + self.terms.renewal();
            } else {
                let has_ended = self.held.values().any(|held| held.life.is_finished());
                let is_due = has_ended || !self.drained.is_empty();
                if !is_due || self.collect().await.is_err() {
                    tokio::time::sleep(DRAIN_LOOK).await;
                }
            }
        }
        if !self.held.is_empty() {
            tracing::warn!(
                lanes = self.held.len(),
                "runs did not end in time: cut off, to be taken up elsewhere"
            );
            self.held.values().for_each(|held| held.lease.lose());
        }
    }
}

impl Drop for Manager {
    /// Nobody would renew them any more.
    fn drop(&mut self) {
        self.held.values().for_each(|held| held.lease.lose());
    }
}
