//! Prepared versions by digest: single flight, least recently used out first.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use chatfn_engine::{PrepareError, WeakPrepared};
use tokio::{sync::watch, time::Instant};

use super::{LoadError, Loaded, is_authors};

/// How long the same source is not tried again after it failed. Its author's mistakes do not go away.
const AUTHORS_FAILURE: Duration = Duration::from_secs(60);
/// The same after a failure of the platform: just long enough that a crowd does not try at once.
const PLATFORMS_FAILURE: Duration = Duration::from_millis(250);
/// It grows with each that follows, up to this.
const PLATFORMS_FAILURES: Duration = Duration::from_secs(16);
/// So often in a row it is the platform's failure that a live version was not ready in time, as it was when it was deployed: the
/// processors may be busy. After that it is its author's, so that its events end, and that others need not wait behind it.
const TOO_SLOW: u32 = 3;
/// What an entry costs besides the function itself, failures included, so that their number is bounded as well.
const ENTRY_BYTES: usize = 1024;

/// Digests that were dropped and are remembered; beyond, all are forgotten, and counted as new.
const MAX_DROPPED: usize = 16_384;

type Outcome = Result<Loaded, LoadError>;
type Waiting = watch::Receiver<Option<Outcome>>;

/// Outcomes of preparations by digest of the version.
#[derive(Debug)]
pub(super) struct Cache {
    max_bytes: usize,
    entries: Mutex<Entries>,
    /// Counts uses; a larger number is a later use.
    clock: AtomicU64,
}

#[derive(Debug, Default)]
struct Entries {
    by_digest: HashMap<String, Entry>,
    bytes: usize,
    /// Digests that were dropped to make room, so that those that come back are told from new ones.
    dropped: HashMap<String, Dropped>,
}

/// What was dropped, unless it was a failure. Runs may have it still: to prepare it again would make another copy for each time that
/// it is dropped, which no budget counts.
#[derive(Debug)]
struct Dropped(Option<(WeakPrepared, Bytes)>);

impl Dropped {
    fn new(outcome: &Outcome) -> Self {
        Self(outcome.as_ref().ok().map(|loaded| (loaded.prepared.downgrade(), loaded.env_json.clone())))
    }

    /// The same as it was, if it is in use.
    fn in_use(&self) -> Option<Loaded> {
        let (prepared, env_json) = self.0.as_ref()?;
        Some(Loaded { prepared: prepared.upgrade()?, env_json: env_json.clone() })
    }
}

#[derive(Debug)]
enum Entry {
    Preparing(Waiting),
    Done(Done),
}

/// An outcome that is kept.
#[derive(Debug)]
struct Done {
    outcome: Outcome,
    bytes: usize,
    /// When it was last used, by the cache's clock.
    used: u64,
    retry_at: Option<Instant>,
    in_a_row: u32,
}

/// What the cache has under a digest.
pub(super) enum Slot {
    /// The outcome.
    Ready(Outcome),
    /// Someone prepares it; the outcome comes through here.
    Preparing(Waiting),
    /// Nothing, and the caller is the one to fill it.
    Empty(Filler),
}

/// The duty to fill an entry. Dropped without that, the entry is free again.
pub(super) struct Filler {
    digest: String,
    outcome: watch::Sender<Option<Outcome>>,
    was_dropped: bool,
    /// Failures of the platform, or by slowness, that came before, without another outcome in between.
    in_a_row: u32,
}

impl Filler {
    /// Whether it was there, and was dropped to make room.
    pub(super) fn was_dropped(&self) -> bool {
        self.was_dropped
    }

    pub(super) fn waiting(&self) -> Waiting {
        self.outcome.subscribe()
    }

    /// What it means for a live version that its preparation came to this.
    pub(super) fn judge(&self, outcome: Result<Loaded, PrepareError>) -> Outcome {
        outcome.map_err(|error| {
            let is_platforms = error.ran_out_of_time() && self.in_a_row < TOO_SLOW;
            Arc::new(if is_platforms { PrepareError::NoCapacity } else { error })
        })
    }
}

impl Cache {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { max_bytes, entries: Mutex::default(), clock: AtomicU64::new(0) }
    }

    /// What is under `digest`, now used. What was dropped and is in use is back at once, for which others may be dropped; gives how
    /// many, too.
    pub(super) fn get(&self, digest: &str) -> (Slot, u64) {
        let mut entries = self.lock();
        match entries.by_digest.get_mut(digest) {
            Some(Entry::Done(Done { outcome, used, retry_at, .. }))
                if !retry_at.is_some_and(|at| at <= Instant::now()) =>
            {
                *used = self.now();
                return (Slot::Ready(outcome.clone()), 0);
            }
            // A closed channel without an outcome: whoever prepared it panicked.
            Some(Entry::Preparing(waiting))
                if waiting.has_changed().is_ok() || waiting.borrow().is_some() =>
            {
                return (Slot::Preparing(waiting.clone()), 0);
            }
            _ => {}
        }
        let dropped = entries.dropped.remove(digest);
        if let Some(loaded) = dropped.as_ref().and_then(Dropped::in_use) {
            let bytes = size(&loaded);
            let done =
                Done { outcome: Ok(loaded.clone()), bytes, used: self.now(), retry_at: None, in_a_row: 0 };
            let count = entries.keep(digest, done, self.max_bytes);
            return (Slot::Ready(Ok(loaded)), count);
        }
        let (outcome, waiting) = watch::channel(None);
        let in_a_row = entries.take(digest).map_or(0, |done| done.in_a_row);
        entries.by_digest.insert(digest.to_owned(), Entry::Preparing(waiting));
        let was_dropped = dropped.is_some();
        (Slot::Empty(Filler { digest: digest.to_owned(), outcome, was_dropped, in_a_row }), 0)
    }

    /// How many outcomes there are, and the bytes that they take.
    pub(super) fn kept(&self) -> (usize, usize) {
        let entries = self.lock();
        (entries.by_digest.len(), entries.bytes)
    }

    /// Most bytes that they may take.
    pub(super) fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// Fills an entry, and drops others until all fit; gives how many.
    pub(super) fn fill(&self, filler: Filler, outcome: Outcome) -> u64 {
        let (bytes, pause, in_a_row) = match &outcome {
            Ok(loaded) => (size(loaded), None, 0),
            Err(error) if is_authors(error) => {
                let in_a_row = if error.ran_out_of_time() { filler.in_a_row } else { 0 };
                (ENTRY_BYTES, Some(AUTHORS_FAILURE), in_a_row)
            }
            Err(_) => (ENTRY_BYTES, Some(after_platforms(filler.in_a_row)), filler.in_a_row + 1),
        };
        let retry_at = pause.map(|pause| Instant::now() + pause);
        let done = Done { outcome: outcome.clone(), bytes, used: self.now(), retry_at, in_a_row };
        let dropped = self.lock().keep(&filler.digest, done, self.max_bytes);
        filler.outcome.send_replace(Some(outcome));
        dropped
    }

    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether something more can be prepared without dropping anything, as far as one can tell before.
    pub(super) fn has_room(&self) -> bool {
        self.lock().bytes < self.max_bytes / 10 * 9
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    fn take(&mut self, digest: &str) -> Option<Done> {
        let Some(Entry::Done(done)) = self.by_digest.remove(digest) else { return None };
        self.bytes -= done.bytes;
        Some(done)
    }

    /// Keeps an outcome, and drops others until all have at most `max_bytes`; gives how many.
    fn keep(&mut self, digest: &str, done: Done, max_bytes: usize) -> u64 {
        self.take(digest);
        let dropped = self.evict(max_bytes.saturating_sub(done.bytes));
        self.bytes += done.bytes;
        self.by_digest.insert(digest.to_owned(), Entry::Done(done));
        dropped
    }

    /// Drops the least recently used until at most `max_bytes` are left. Walks over all entries for each that it
    /// drops, which is little beside the preparation that made it necessary. Gives how many were dropped.
    fn evict(&mut self, max_bytes: usize) -> u64 {
        let mut count = 0;
        while self.bytes > max_bytes {
            let oldest = self.by_digest.iter().filter_map(|(digest, entry)| match entry {
                Entry::Done(Done { used, .. }) => Some((*used, digest)),
                Entry::Preparing(_) => None,
            });
            let Some((_, digest)) = oldest.min() else { return count };
            let digest = digest.clone();
            let Some(done) = self.take(&digest) else { return count };
            if self.dropped.len() >= MAX_DROPPED {
                self.dropped.clear();
            }
            self.dropped.insert(digest, Dropped::new(&done.outcome));
            count += 1;
        }
        count
    }
}

/// How long to wait after a failure of the platform that so many others came before.
fn after_platforms(in_a_row: u32) -> Duration {
    PLATFORMS_FAILURE.saturating_mul(4_u32.saturating_pow(in_a_row)).min(PLATFORMS_FAILURES)
}

/// What an entry with it takes.
fn size(loaded: &Loaded) -> usize {
    ENTRY_BYTES + loaded.prepared.size_bytes() + loaded.env_json.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> Outcome {
        Err(Arc::new(PrepareError::NoLambda))
    }

    fn slow() -> PrepareError {
        PrepareError::Timeout { limit: Duration::from_secs(5) }
    }

    fn filler(cache: &Cache, digest: &str) -> Filler {
        match cache.get(digest).0 {
            Slot::Empty(filler) => filler,
            Slot::Ready(_) | Slot::Preparing(_) => panic!("{digest} is taken"),
        }
    }

    fn is_ready(cache: &Cache, digest: &str) -> bool {
        matches!(cache.get(digest).0, Slot::Ready(_))
    }

    #[tokio::test]
    async fn everyone_waits_for_one_preparation() {
        let cache = Cache::new(1 << 20);
        let first = filler(&cache, "a");
        let Slot::Preparing(mut second) = cache.get("a").0 else { panic!("prepared twice") };
        cache.fill(first, failure());
        assert!(second.wait_for(Option::is_some).await.unwrap().as_ref().unwrap().is_err());
        assert!(is_ready(&cache, "a"));
    }

    #[test]
    fn an_abandoned_preparation_is_taken_over() {
        let cache = Cache::new(1 << 20);
        drop(filler(&cache, "a"));
        cache.fill(filler(&cache, "a"), failure());
        assert!(is_ready(&cache, "a"));
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let cache = Cache::new(3 * ENTRY_BYTES);
        for digest in ["a", "b", "c"] {
            cache.fill(filler(&cache, digest), failure());
        }
        assert!(is_ready(&cache, "a"));
        cache.fill(filler(&cache, "d"), failure());
        assert!(is_ready(&cache, "a") && is_ready(&cache, "c") && is_ready(&cache, "d"));
        assert!(filler(&cache, "b").was_dropped());
        assert_eq!(cache.lock().bytes, 3 * ENTRY_BYTES);
        assert!(!cache.has_room());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_forgotten_after_a_while() {
        let cache = Cache::new(1 << 20);
        cache.fill(filler(&cache, "a"), failure());
        assert!(is_ready(&cache, "a"));
        tokio::time::advance(AUTHORS_FAILURE).await;
        drop(filler(&cache, "a"));
        cache.fill(filler(&cache, "a"), Err(Arc::new(PrepareError::NoCapacity)));
        assert!(is_ready(&cache, "a"));
        tokio::time::advance(PLATFORMS_FAILURE).await;
        assert!(!is_ready(&cache, "a"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_version_that_is_never_ready_in_time_ends_as_its_authors_failure() {
        let cache = Cache::new(1 << 20);
        let try_again = async |pause| {
            let filler = filler(&cache, "a");
            let outcome = filler.judge(Err(slow()));
            let is_authors = outcome.as_ref().is_err_and(|error| is_authors(error));
            cache.fill(filler, outcome);
            tokio::time::advance(pause).await;
            is_authors
        };
        for pause in [250, 1_000, 4_000] {
            assert!(!try_again(Duration::from_millis(pause)).await);
        }
        for _ in 0..3 {
            assert!(try_again(AUTHORS_FAILURE).await);
        }
        let filler = filler(&cache, "b");
        assert!(filler.judge(Err(PrepareError::NoLambda)).is_err_and(|error| is_authors(&error)));
        assert!(filler.judge(Err(slow())).is_err_and(|error| !is_authors(&error)), "another one");
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_while_the_platform_fails() {
        let cache = Cache::new(1 << 20);
        for pause in [250, 1_000, 4_000, 16_000, 16_000] {
            cache.fill(filler(&cache, "a"), Err(Arc::new(PrepareError::NoCapacity)));
            tokio::time::advance(Duration::from_millis(pause - 1)).await;
            assert!(is_ready(&cache, "a"), "{pause} ms");
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        cache.fill(filler(&cache, "a"), failure());
        tokio::time::advance(AUTHORS_FAILURE).await;
        cache.fill(filler(&cache, "a"), Err(Arc::new(PrepareError::NoCapacity)));
        tokio::time::advance(PLATFORMS_FAILURE).await;
        drop(filler(&cache, "a"));
    }
}
