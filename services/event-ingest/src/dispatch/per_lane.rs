//! A number for each lane that only rises, and those who wait for it to.

use std::sync::Arc;

use chatfn_domain::lane::LANES;
use tokio::sync::watch;

/// The numbers, from zero. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct PerLane(Arc<[watch::Sender<i64>]>);

impl PerLane {
    pub(super) fn new() -> Self {
        Self((0..LANES).map(|_| watch::Sender::new(0)).collect())
    }

    /// Makes a number known; gives whether it was news.
    pub(super) fn ring(&self, lane: i16, number: i64) -> bool {
        self.of(lane).is_some_and(|sender| {
            sender.send_if_modified(|current| {
                let news = number > *current;
                if news {
                    *current = number;
                }
                news
            })
        })
    }

    /// Follows the number of a lane; `None` if there is no such lane.
    pub(super) fn follow(&self, lane: i16) -> Option<watch::Receiver<i64>> {
        self.of(lane).map(watch::Sender::subscribe)
    }

    fn of(&self, lane: i16) -> Option<&watch::Sender<i64>> {
        self.0.get(usize::try_from(lane).ok()?)
    }
}
