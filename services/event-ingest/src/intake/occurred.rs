//! What the time at which an event happened says about its id.

use std::time::Duration;

use chatfn_rpc::ApiError;

use crate::{config::RetentionConfig, error, store::Time};

/// How far ahead of this process' clock a publisher's may be: a local time that is taken for UTC is.
const AHEAD: Duration = Duration::from_secs(12 * 3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// By when an event happened, whether its id may have been recorded on a day that not every id is looked for in; and when that cannot be
/// told any more.
///
/// What was recorded was so no earlier than it happened, but for [`AHEAD`].
#[derive(Debug, Clone, Copy)]
pub(super) struct OccurTimes {
    /// Of younger ones, the id is found among those of the days in which each is looked for.
    recent: Duration,
    /// Of older ones, the event may be gone.
    kept: Duration,
}

impl OccurTimes {
    pub(super) fn new(config: &RetentionConfig) -> Self {
        let days = |days: u16| (DAY * u32::from(days)).saturating_sub(AHEAD);
        Self { recent: days(config.dedupe_days), kept: days(config.retention_days) }
    }

    /// Whether the id of an event that happened then is to be looked for in all days.
    ///
    /// # Errors
    /// Nobody knows whether it was recorded before; or it has not happened yet.
    pub(super) fn is_old(&self, occurred: Time, now: Time) -> Result<bool, ApiError> {
        let age = now.since(occurred);
        if age > self.kept {
            return Err(error::too_old(age, self.kept));
        }
        let ahead = occurred.since(now);
        if ahead > AHEAD {
            return Err(error::not_yet(ahead, AHEAD));
        }
        Ok(age > self.recent)
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    const HOUR: i64 = 3600 * 1_000_000;

    /// For an event that happened so many hours ago, or will happen, and a microsecond.
    fn judge(hours_ago: i64, micros: i64) -> Result<bool, Code> {
        let times = OccurTimes::new(&RetentionConfig { retention_days: 30, dedupe_days: 2 });
        let now = Time::from_micros(500_000 * HOUR);
        let occurred = Time::from_micros(now.micros() - hours_ago * HOUR - micros);
        times.is_old(occurred, now).map_err(|error| error.code())
    }

    #[test]
    fn ids_of_old_events_are_looked_for_further_back() {
        assert_eq!(judge(0, 0), Ok(false));
        assert_eq!(judge(-12, 0), Ok(false));
        assert_eq!(judge(36, 0), Ok(false));
        assert_eq!(judge(36, 1), Ok(true));
        assert_eq!(judge(30 * 24 - 12, 0), Ok(true));
    }

    #[test]
    fn what_is_far_from_now_is_refused() {
        assert_eq!(judge(-12, -1), Err(Code::OutOfRange));
        assert_eq!(judge(30 * 24 - 12, 1), Err(Code::OutOfRange));
        let times = OccurTimes::new(&RetentionConfig::default());
        for far in [Time::MIN, Time::MAX] {
            assert!(times.is_old(far, Time::from_micros(0)).is_err());
        }
    }

    #[test]
    fn the_shortest_settings_leave_room_for_what_comes_late() {
        let times = OccurTimes::new(&RetentionConfig { retention_days: 1, dedupe_days: 1 });
        assert!(matches!(times.is_old(Time::from_micros(0), Time::from_micros(12 * HOUR)), Ok(false)));
    }
}
