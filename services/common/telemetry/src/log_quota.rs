//! How much may be logged.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

const SECOND: Duration = Duration::from_secs(1);

/// So many lines in a second, and the number of those that were too many: in an overload each call that is refused would write one,
/// which costs more than to refuse it. Cheap to clone: clones share it.
#[derive(Clone, Debug)]
pub struct LogQuota {
    per_second: u32,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    begun: Instant,
    written: u32,
    withheld: u64,
}

/// What becomes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// Write it; so many were withheld before.
    Write {
        /// Lines since the last one that was written.
        withheld: u64,
    },
    /// Withhold it.
    Withhold,
}

impl LogQuota {
    /// At most `per_second` lines in each second from `now` on.
    pub fn new(per_second: u32, now: Instant) -> Self {
        Self { per_second, state: Arc::new(Mutex::new(State { begun: now, written: 0, withheld: 0 })) }
    }

    /// Asks for a line, at `now`. Never waits.
    pub fn line(&self, now: Instant) -> Line {
        // Nothing panics while it is locked.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(state.begun) >= SECOND {
            state.begun = now;
            state.written = 0;
        }
        if state.written >= self.per_second {
            state.withheld += 1;
            return Line::Withhold;
        }
        state.written += 1;
        Line::Write { withheld: std::mem::take(&mut state.withheld) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_is_counted_and_told_with_the_next_line() {
        let begun = Instant::now();
        let quota = LogQuota::new(2, begun);
        let at = |millis| quota.line(begun + Duration::from_millis(millis));
        assert_eq!([at(0), at(1)], [Line::Write { withheld: 0 }; 2]);
        assert_eq!([at(1), at(500), at(999)], [Line::Withhold; 3]);
        assert_eq!(at(1000), Line::Write { withheld: 3 });
        assert_eq!(at(1000), Line::Write { withheld: 0 });
        assert_eq!(at(1001), Line::Withhold);
        assert_eq!(at(9000), Line::Write { withheld: 1 });
    }
}
