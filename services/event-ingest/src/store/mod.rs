//! All SQL of event-ingest.
//!
//! | module | tables |
//! |---|---|
//! | [`events`] | records published events: `events`, `lane_heads`, `latches`; by a function of migration 17 |
//! | [`days`] | the partitions of each day: `days`, `latches` |
//! | [`lanes`] | who runs which lane: `lanes`, `replicas` |
//! | [`reading`] | what a lane's owner has to run: `events`, `parked` |
//! | [`journal`] | fenced writes of runs: `attempts`, `outcomes`, `parked`, `lanes` |
//! | [`interventions`] | what operators ask of a lane's owner, and their record: `interventions`, `superseded` |
//! | [`replays`] | replays and how far they are: `replays` |
//! | [`deliveries`] | the account of events for callers: `events`, `outcomes`, `parked`, `attempts`, `superseded` |
//! | [`ledger`] | how the counts add up: `events`, `outcomes`, `parked`, `lanes` |
//! | [`tail`] | deliveries as they change: `events`, `outcomes`, `attempts`, `parked` |
//! | `session` | a connection that is kept, for those who write all the time |

pub(crate) mod days;
pub(crate) mod deliveries;
pub(crate) mod events;
pub(crate) mod interventions;
pub(crate) mod journal;
pub(crate) mod lanes;
pub(crate) mod ledger;
pub(crate) mod reading;
pub(crate) mod replays;
mod session;
pub(crate) mod tail;
#[cfg(test)]
mod testing;
mod time;

use std::time::Duration;

pub(crate) use self::{
    session::{Session, Sessions},
    time::Time,
};

/// The first and the last of these sequence numbers, by which a statement says which partitions matter.
fn span(sequences: impl IntoIterator<Item = i64>) -> (i64, i64) {
    sequences
        .into_iter()
        .fold((i64::MAX, i64::MIN), |(first, last), sequence| (first.min(sequence), last.max(sequence)))
}

/// Milliseconds for `$n * interval '1 millisecond'`.
fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        path::{Path, PathBuf},
    };

    use chatfn_domain::reasons::events;

    /// The sources of this module.
    fn sources(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let of = |path: PathBuf| {
            if path.is_dir() { sources(&path) } else { vec![fs::read_to_string(path).unwrap()] }
        };
        entries.flat_map(of).collect()
    }

    /// SQL that gives or looks for a reason cannot name a constant.
    #[test]
    fn reasons_in_statements_are_listed_ones() {
        let mut sources = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store"));
        sources.push(include_str!("../../../../migrations/0017_record_events_in_rising_time.sql").to_owned());
        let quoted = sources.iter().flat_map(|source| source.split('\''));
        let is_reason = |text: &&str| {
            text.len() > 3 && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
        };
        let found: Vec<_> = quoted.filter(is_reason).collect();
        assert!(found.contains(&"ALREADY_FIRED") && found.contains(&"SKIPPED"), "{found:?}");
        for name in found {
            assert!(
                events::ALL.iter().any(|it| it.name() == name),
                "{name} is not in chatfn_domain::reasons::events"
            );
        }
    }
}
