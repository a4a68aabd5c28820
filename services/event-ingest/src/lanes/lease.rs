//! The proof of holding a lane.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

/// How long leases last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeaseTerms {
    /// What a renewal asks of the database.
    pub(crate) ttl: Duration,
    /// How much earlier the holder stops by itself.
    pub(crate) margin: Duration,
}

impl LeaseTerms {
    /// Leases of `ttl`, which their holders give up a fifth earlier.
    pub(crate) fn new(ttl: Duration) -> Self {
        Self { ttl, margin: ttl / 5 }
    }

    /// Time between renewals: several fit into a lease, and a lane that falls free is soon taken.
    pub(crate) fn renewal(&self) -> Duration {
        (self.ttl / 10).clamp(Duration::from_millis(20), Duration::from_secs(1))
    }
}

/// A lane that this process holds. Cheap to clone.
///
/// It ends by itself, by the monotonic clock, before it could end in the database: the holder counts
/// from *before* it asked for the lease, and stops a margin earlier. So clocks need not agree, and a process
/// that cannot reach the database stops before another one starts.
#[derive(Debug, Clone)]
pub(crate) struct Lease(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    lane: i16,
    epoch: i64,
    margin: Duration,
    until: watch::Sender<Instant>,
    lost: CancellationToken,
}

impl Lease {
    /// A lease that was asked for at `asked` and lasts as long as a renewal. Starts the task that ends it.
    pub(crate) fn start(lane: i16, epoch: i64, asked: Instant, terms: LeaseTerms) -> Self {
        let until = watch::Sender::new(asked + terms.ttl - terms.margin);
        let lease = Self(Arc::new(Inner {
            lane,
            epoch,
            margin: terms.margin,
            until,
            lost: CancellationToken::new(),
        }));
        tokio::spawn(watch_over(lease.0.until.subscribe(), lease.0.lost.clone()));
        lease
    }

    pub(crate) fn lane(&self) -> i16 {
        self.0.lane
    }

    pub(crate) fn epoch(&self) -> i64 {
        self.0.epoch
    }

    /// The database granted at least `granted` when it was asked at `asked`. Never shortens the lease, and
    /// does not revive a lost one.
    pub(crate) fn extend(&self, asked: Instant, granted: Duration) {
        let until = asked + granted.saturating_sub(self.0.margin);
        self.0.until.send_if_modified(|current| {
            let later = until > *current;
            if later {
                *current = until;
            }
            later
        });
    }

    /// What the database must grant so that the holder may work for `needed` from now on.
    pub(crate) fn hold_for(&self, needed: Duration) -> Duration {
        needed + self.0.margin
    }

    /// The holder stops at this instant, unless the lease is extended.
    pub(crate) fn until(&self) -> Instant {
        *self.0.until.borrow()
    }

    /// Ends the lease now: somebody else has the lane.
    pub(crate) fn lose(&self) {
        self.0.lost.cancel();
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.0.lost.is_cancelled()
    }

    /// Completes when the lease is lost. Cancel safe.
    pub(crate) async fn lost(&self) {
        self.0.lost.cancelled().await;
    }
}

/// Loses the lease at its end. Ends when nobody has the lease any more.
async fn watch_over(mut until: watch::Receiver<Instant>, lost: CancellationToken) {
    loop {
        let end = *until.borrow_and_update();
        tokio::select! {
            biased;
            () = lost.cancelled() => return,
            changed = until.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(end) => lost.cancel(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::{runtime, task::yield_now, time};

    use super::*;
    use crate::testing::cases;

    const TERMS: LeaseTerms = LeaseTerms { ttl: Duration::from_secs(10), margin: Duration::from_secs(2) };

    #[tokio::test(start_paused = true)]
    async fn a_lease_ends_before_the_databases_does() {
        let asked = Instant::now();
        let lease = Lease::start(3, 7, asked, TERMS);
        lease.lost().await;
        assert!(asked.elapsed() < TERMS.ttl);
        assert!(asked.elapsed() >= TERMS.ttl - TERMS.margin);
        lease.extend(Instant::now(), TERMS.ttl);
        assert!(lease.is_lost(), "a lost lease stays lost");
    }

    #[tokio::test(start_paused = true)]
    async fn renewals_extend_it_and_never_shorten_it() {
        let start = Instant::now();
        let lease = Lease::start(3, 7, start, TERMS);
        let long_run = lease.hold_for(Duration::from_secs(30));
        lease.extend(start, long_run);
        assert_eq!(lease.until(), start + Duration::from_secs(30));
        tokio::time::sleep(Duration::from_secs(5)).await;
        lease.extend(Instant::now(), TERMS.ttl);
        assert_eq!(lease.until(), start + Duration::from_secs(30));
        lease.lost().await;
        assert!(start.elapsed() >= Duration::from_secs(30));
    }

    /// What a holder does, in ms: how long the question is on its way to the database, and how long the answer comes back.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        Wait(u64),
        Renew { there: u64, back: u64, arrives: bool },
        Run { needed: u64, there: u64, back: u64, arrives: bool },
    }

    fn step() -> impl Strategy<Value = Step> {
        // Mostly as in life, and now and then halted, or far away, for longer than a lease lasts.
        let way = || prop_oneof![4 => 0u64..50, 1 => 0u64..15_000];
        let wait = prop_oneof![4 => 0u64..1_500, 1 => 0u64..20_000];
        prop_oneof![
            wait.prop_map(Step::Wait),
            (way(), way(), any::<bool>()).prop_map(|(there, back, arrives)| Step::Renew {
                there,
                back,
                arrives
            }),
            (0u64..30_000, way(), way(), any::<bool>())
                .prop_map(|(needed, there, back, arrives)| Step::Run { needed, there, back, arrives }),
        ]
    }

    /// The lane as the database has it: somebody else takes it the moment it may.
    struct Row {
        until: Instant,
        is_taken: bool,
    }

    impl Row {
        async fn pass(&mut self, lease: &Lease, ms: u64) -> Result<(), TestCaseError> {
            time::advance(Duration::from_millis(ms)).await;
            // The lease's own task has its turn.
            yield_now().await;
            self.is_taken |= Instant::now() > self.until;
            prop_assert!(lease.is_lost() || !self.is_taken, "two hold the lane");
            Ok(())
        }

        async fn ask(
            &mut self,
            lease: &Lease,
            (there, back, arrives): (u64, u64, bool),
            granted: Duration,
        ) -> Result<(), TestCaseError> {
            let asked = Instant::now();
            self.pass(lease, there).await?;
            let is_granted = !self.is_taken;
            if is_granted {
                self.until = self.until.max(Instant::now() + granted);
            }
            self.pass(lease, back).await?;
            match (arrives, is_granted) {
                (true, true) => lease.extend(asked, granted),
                (true, false) => lease.lose(),
                (false, _) => {}
            }
            Ok(())
        }
    }

    proptest! {
        #![proptest_config(cases())]

        #[test]
        fn while_it_is_held_nobody_else_has_the_lane(steps in prop::collection::vec(step(), 1..30)) {
            let runtime = runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
            runtime.block_on(async {
                let asked = Instant::now();
                let lease = Lease::start(3, 7, asked, TERMS);
                let mut row = Row { until: asked + TERMS.ttl, is_taken: false };
                // Its task begins.
                yield_now().await;
                for step in steps {
                    match step {
                        Step::Wait(ms) => row.pass(&lease, ms).await?,
                        Step::Renew { there, back, arrives } => {
                            row.ask(&lease, (there, back, arrives), TERMS.ttl).await?;
                        }
                        Step::Run { needed, there, back, arrives } => {
                            let hold = lease.hold_for(Duration::from_millis(needed));
                            row.ask(&lease, (there, back, arrives), hold).await?;
                        }
                    }
                }
                Ok::<_, TestCaseError>(())
            })?;
        }
    }
}
