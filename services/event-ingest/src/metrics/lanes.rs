//! What lanes tell of themselves. Each lane writes its own numbers, and a scrape adds them up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use chatfn_domain::lane::LANES;
use chatfn_telemetry::Metrics;
use tokio::time::Instant;

use super::{HALTED, LANES as OWNED, OLDEST, UNFINISHED, WAITING};

/// What all lanes tell. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct LanesTold(Arc<All>);

#[derive(Debug)]
struct All {
    /// From when on instants are counted.
    epoch: Instant,
    lanes: Box<[Numbers]>,
}

#[derive(Debug, Default)]
struct Numbers {
    is_owned: AtomicBool,
    /// When the oldest event that may start was accepted, in milliseconds after `epoch` plus [`PAST`]; 0: there is none.
    oldest: AtomicU64,
    unfinished: AtomicUsize,
    waiting: AtomicUsize,
    halted: AtomicUsize,
}

/// Events may have been accepted before this process began: by so many milliseconds at most, a hundred years.
const PAST: u64 = 100 * 365 * 86_400_000;

/// What one lane tells for as long as it is run here.
#[derive(Debug)]
pub(crate) struct LaneTold {
    all: Arc<All>,
    lane: usize,
}

impl LanesTold {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let lanes = (0..LANES).map(|_| Numbers::default()).collect();
        let told = Self(Arc::new(All { epoch: Instant::now(), lanes }));
        let sum = |read: fn(&Numbers) -> usize| {
            let all = Arc::clone(&told.0);
            move || Some(all.lanes.iter().map(read).sum::<usize>() as f64)
        };
        metrics.observe(&OWNED, sum(|it| it.is_owned.load(Ordering::Relaxed).into()));
        metrics.observe(&UNFINISHED, sum(|it| it.unfinished.load(Ordering::Relaxed)));
        metrics.observe(&WAITING, sum(|it| it.waiting.load(Ordering::Relaxed)));
        metrics.observe(&HALTED, sum(|it| it.halted.load(Ordering::Relaxed)));
        let all = Arc::clone(&told.0);
        metrics.observe(&OLDEST, move || Some(all.oldest_age().as_secs_f64()));
        told
    }

    /// A lane is run here from now on, until what is given is dropped.
    pub(crate) fn begin(&self, lane: i16) -> LaneTold {
        let lane = usize::try_from(lane).unwrap_or_default().min(self.0.lanes.len() - 1);
        let told = LaneTold { all: Arc::clone(&self.0), lane };
        told.numbers().is_owned.store(true, Ordering::Relaxed);
        told
    }

    /// The lanes that are run here.
    pub(crate) fn owned(&self) -> Vec<i16> {
        let owned = self.0.lanes.iter().zip(0..).filter(|(it, _)| it.is_owned.load(Ordering::Relaxed));
        owned.map(|(_, lane)| lane).collect()
    }
}

impl All {
    fn millis(&self, at: Instant) -> u64 {
        let after = at.saturating_duration_since(self.epoch).as_millis();
        let before = self.epoch.saturating_duration_since(at).as_millis();
        let [after, before] = [after, before].map(|millis| u64::try_from(millis).unwrap_or(u64::MAX));
        PAST.saturating_add(after).saturating_sub(before).max(1)
    }

    fn oldest_age(&self) -> Duration {
        let oldest = self.lanes.iter().map(|it| it.oldest.load(Ordering::Relaxed)).filter(|at| *at > 0).min();
        let age = oldest.map_or(0, |at| self.millis(Instant::now()).saturating_sub(at));
        Duration::from_millis(age)
    }
}

impl LaneTold {
    /// How the lane is now: when the oldest event that may start was accepted, and its conversations: all of them, those that
    /// wait for another attempt, those that are halted.
    pub(crate) fn tell(&self, oldest: Option<Instant>, unfinished: usize, waiting: usize, halted: usize) {
        let numbers = self.numbers();
        numbers.oldest.store(oldest.map_or(0, |at| self.all.millis(at)), Ordering::Relaxed);
        numbers.unfinished.store(unfinished, Ordering::Relaxed);
        numbers.waiting.store(waiting, Ordering::Relaxed);
        numbers.halted.store(halted, Ordering::Relaxed);
    }

    fn numbers(&self) -> &Numbers {
        &self.all.lanes[self.lane]
    }
}

impl Drop for LaneTold {
    fn drop(&mut self) {
        self.tell(None, 0, 0, 0);
        self.numbers().is_owned.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_oldest_of_all_lanes_is_told_and_what_is_lost_is_not() {
        let metrics = Metrics::new();
        let lanes = LanesTold::new(&metrics);
        let has = |line: &str| metrics.encode().lines().any(|it| it == line);
        let (one, other) = (lanes.begin(3), lanes.begin(5));
        assert!(has("chatfn_ingest_oldest_unstarted_seconds 0.0"));
        tokio::time::advance(Duration::from_secs(10)).await;
        one.tell(Some(Instant::now() - Duration::from_secs(2)), 4, 1, 1);
        other.tell(Some(Instant::now() - Duration::from_secs(3)), 2, 1, 0);
        tokio::time::advance(Duration::from_secs(1)).await;
        for line in [
            "chatfn_ingest_oldest_unstarted_seconds 4.0",
            "chatfn_ingest_conversations_unfinished 6.0",
            "chatfn_ingest_conversations_waiting 2.0",
            "chatfn_ingest_conversations_halted 1.0",
            "chatfn_ingest_lanes_owned 2.0",
        ] {
            assert!(has(line), "{line} is missing in\n{}", metrics.encode());
        }
        assert_eq!(lanes.owned(), [3, 5]);
        drop(other);
        assert!(has("chatfn_ingest_oldest_unstarted_seconds 3.0"));
        assert!(has("chatfn_ingest_lanes_owned 1.0"));
    }

    #[tokio::test(start_paused = true)]
    async fn events_from_before_the_start_are_older() {
        let before = Instant::now();
        tokio::time::advance(Duration::from_secs(3_600)).await;
        let metrics = Metrics::new();
        let lanes = LanesTold::new(&metrics);
        let lane = lanes.begin(0);
        lane.tell(Some(before), 1, 0, 0);
        assert!(metrics.encode().contains("chatfn_ingest_oldest_unstarted_seconds 3600.0"));
    }
}
