//! The connections of a client.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use rand::RngExt as _;

/// Several of the same, each of which says how much it has to do.
#[derive(Clone)]
pub(super) struct Channels<T>(Arc<[Channel<T>]>);

struct Channel<T> {
    inner: T,
    calls: Arc<AtomicUsize>,
}

/// A call in progress; the end of it when dropped.
#[derive(Debug, Default)]
pub(super) struct InProgress(Arc<AtomicUsize>);

impl<T> Channels<T> {
    /// At least one.
    pub(super) fn new(channels: impl IntoIterator<Item = T>) -> Self {
        Self(channels.into_iter().map(|inner| Channel { inner, calls: Arc::default() }).collect())
    }

    /// The one of two, taken at random, that has fewer calls in progress: nearly as even as the least of all, and without a
    /// herd that rushes to the newest one.
    pub(super) fn pick(&self) -> (&T, InProgress) {
        let mut random = rand::rng();
        let mut any = || &self.0[random.random_range(0..self.0.len())];
        let (one, other) = (any(), any());
        let load = |channel: &Channel<T>| channel.calls.load(Ordering::Relaxed);
        let channel = if load(other) < load(one) { other } else { one };
        channel.calls.fetch_add(1, Ordering::Relaxed);
        (&channel.inner, InProgress(Arc::clone(&channel.calls)))
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<T> fmt::Debug for Channels<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Channels({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_in_progress_are_spread() {
        let channels = Channels::new(0..4);
        let calls: Vec<_> = (0..4_000).map(|_| channels.pick()).collect();
        for number in 0..4 {
            let of_one = calls.iter().filter(|(channel, _)| **channel == number).count();
            // Of two choices, the fuller one is more than a few ahead with a probability that nobody will live to see.
            assert!((950..=1_050).contains(&of_one), "{of_one}");
        }
        drop(calls);
        assert!(channels.0.iter().all(|channel| channel.calls.load(Ordering::Relaxed) == 0));
    }
}
