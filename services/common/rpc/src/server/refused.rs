//! Tells an operator of connections that come to nothing.

use std::{
    fmt::Display,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Shortest time between two warnings: whoever can connect could fill a log otherwise.
const PAUSE: Duration = Duration::from_secs(10);

/// Counts connections that were closed before their first call.
#[derive(Clone, Debug, Default)]
pub(super) struct Refused(Arc<Mutex<Count>>);

#[derive(Debug, Default)]
struct Count {
    /// Since the last warning.
    unreported: u64,
    warned: Option<Instant>,
}

impl Refused {
    /// A connection of `peer` was closed for this reason: a warning now and then, with their number, and a line each for who
    /// looks closer.
    pub(super) fn report(&self, peer: SocketAddr, why: impl Display) {
        match self.count(Instant::now()) {
            Some(count) => tracing::warn!(
                net.peer = %peer,
                net.refused = count,
                "closed: {why}; of the {count} connections that came to nothing since the last such line (the others at \
                 debug)"
            ),
            None => tracing::debug!(net.peer = %peer, "closed: {why}"),
        }
    }

    /// How many there are to be told of now, if it is time.
    fn count(&self, now: Instant) -> Option<u64> {
        let mut count = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        count.unreported += 1;
        if count.warned.is_some_and(|warned| now.duration_since(warned) < PAUSE) {
            return None;
        }
        count.warned = Some(now);
        Some(std::mem::take(&mut count.unreported))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_a_line_now_and_then() {
        let (refused, start) = (Refused::default(), Instant::now());
        assert_eq!(refused.count(start), Some(1));
        for millis in 0..1_000 {
            assert_eq!(refused.clone().count(start + Duration::from_millis(millis)), None);
        }
        assert_eq!(refused.count(start + PAUSE), Some(1_001));
        assert_eq!(refused.count(start + PAUSE * 3), Some(1));
    }
}
