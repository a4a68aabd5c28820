//! A value for each lane, and those who wait for it to change.

use std::sync::Arc;

use chatfn_domain::lane::LANES;
use tokio::sync::watch;

/// The values. Cheap to clone.
#[derive(Debug)]
pub(super) struct PerLane<T>(Arc<[watch::Sender<T>]>);

impl<T> Clone for PerLane<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Default> PerLane<T> {
    pub(super) fn new() -> Self {
        Self((0..LANES).map(|_| watch::Sender::new(T::default())).collect())
    }

    /// The value of a lane; `None` if there is no such lane.
    pub(super) fn of(&self, lane: i16) -> Option<&watch::Sender<T>> {
        self.0.get(usize::try_from(lane).ok()?)
    }
}
