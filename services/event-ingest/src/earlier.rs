//! Whether events that may have been recorded days ago were: in days in which not every id is looked for when it is recorded.
//!
//! By when an event happened. It was recorded no earlier, but for what its publisher's clock was ahead; and which days are open, and
//! since when nothing was dropped, Postgres knows by its own clock. What was recorded then is found, whatever the settings are and were,
//! and whatever a replica's clock says. Of what is not found, a setting says how old it may be.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chatfn_domain::{name::AccountId, shares::Stock};
use chatfn_pg::budget;
use chatfn_rpc::{ApiError, Deadline};
use sqlx::PgPool;
use tokio::{sync::Semaphore, time::Instant};
use tonic::Code;

use crate::{
    config::RetentionConfig,
    error,
    event::NewEvent,
    store::{
        Time,
        days::{self, Facts},
        events::{self, Earlier},
    },
};

/// How far ahead a publisher's clock may be: a local time that is taken for UTC is up to 14 hours.
pub(crate) const AHEAD: Duration = Duration::from_secs(15 * 3600);
/// Looks at a time, each with a connection.
pub(crate) const LOOKS: u32 = 2;
/// Calls and streams that look or wait for it, of which an account may hold as much as is free: a look takes some milliseconds, so that
/// what an account has old events of delays another's by a tenth of a second, not by its whole backlog.
const WAITING: usize = 64;
/// A call for several accounts counts for each of them, by as much less.
const PARTS: usize = 64;
/// Longest look, with the wait for its turn.
const LONGEST: Duration = Duration::from_secs(10);
/// What is left of that for the answer of a statement that was ended.
const WAY: Duration = Duration::from_millis(250);
/// Longest time for which what was heard of the days holds: with as much again for what waits to be recorded, in which days may be opened
/// that [`days::facts`] reckons with.
const HEARD: Duration = days::FORESEEN.checked_div(2).expect("not by zero");

/// What was heard last of the days. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known(Arc<Mutex<Option<Heard>>>);

#[derive(Debug, Clone, Copy)]
struct Heard {
    facts: Facts,
    asked: Asked,
}

/// When it was asked, by two clocks: one stands still while the machine sleeps, the other may be set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked(Instant, Time);

impl Asked {
    pub(crate) fn now() -> Self {
        Self(Instant::now(), Time::now())
    }

    fn is_recent(self, here: Time) -> bool {
        self.0.elapsed() < HEARD && here.since(self.1) < HEARD
    }
}

impl Known {
    /// It was so at `asked`, or later.
    pub(crate) fn set(&self, facts: Facts, asked: Asked) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Heard { facts, asked });
    }

    /// Whether an event that happened then is found when it is recorded, if it was before, and is not to be refused.
    fn needs_no_look(&self, occurred: Time, keep: Duration, here: Time) -> bool {
        let heard = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.is_some_and(|Heard { facts, asked }| {
            asked.is_recent(here)
                && (facts.newest_since..=facts.now).contains(&occurred.minus(AHEAD))
                && facts.now.since(occurred) <= keep
        })
    }
}

/// Why an event that happened then is not to be recorded if none with its id is found.
fn refusal(occurred: Time, facts: Facts, keep: Duration) -> Option<ApiError> {
    let Facts { now, kept_since, .. } = facts;
    let is_gone = occurred.minus(AHEAD) < kept_since;
    if occurred.minus(AHEAD) > now {
        Some(error::not_yet(occurred.since(now), AHEAD))
    } else if is_gone || now.since(occurred) > keep {
        Some(error::too_old(now.since(occurred)))
    } else {
        None
    }
}

/// What a look at an event found.
#[derive(Debug, Clone)]
pub(crate) enum Looked {
    /// It is to be recorded; if it was in one of the days in which every id is looked for, that is found then.
    New,
    /// An event with its id was recorded.
    Recorded(Earlier),
    /// It is not to be recorded.
    Refused(ApiError),
}

/// Looks for events that were recorded days ago.
#[derive(Debug)]
pub(crate) struct Looks {
    store: PgPool,
    known: Known,
    dedupe_days: u16,
    /// Beyond, an event that is not found is refused even if all are kept.
    keep: Duration,
    waiting: Stock,
    turns: Semaphore,
}

impl Looks {
    /// On a pool of [`LOOKS`] connections.
    pub(crate) fn new(store: PgPool, known: Known, config: &RetentionConfig) -> Self {
        let keep = Duration::from_secs(24 * 3600) * u32::from(config.retention_days);
        let (waiting, turns) = (Stock::new(WAITING * PARTS), Semaphore::new(LOOKS as usize));
        Self { store, known, dedupe_days: config.dedupe_days, keep, waiting, turns }
    }

    /// Whether an event may have been recorded earlier than ids are looked for when it is recorded.
    pub(crate) fn is_due(&self, event: &NewEvent) -> bool {
        event.occur_time.is_some_and(|occurred| !self.known.needs_no_look(occurred, self.keep, Time::now()))
    }

    /// What is known of each of these events, in order. Takes no longer than [`LONGEST`].
    ///
    /// If nothing can be told of one, all of its account are refused: what follows must not come before what it follows. Cancel safe.
    pub(crate) async fn look(&self, events: &[NewEvent], deadline: Option<Deadline>) -> Vec<Looked> {
        let mut due: Vec<usize> = (0..events.len()).filter(|index| self.is_due(&events[*index])).collect();
        let accounts: HashSet<&AccountId> = due.iter().map(|index| &events[*index].account).collect();
        let parts = (PARTS / accounts.len().max(1)).max(1);
        let (mut held, mut refused) = (Vec::new(), HashMap::new());
        for account in accounts {
            match self.waiting.take(account.clone(), parts) {
                Some(place) => held.push(place),
                None => _ = refused.insert(account, error::account_busy(account)),
            }
        }
        due.retain(|index| !refused.contains_key(&events[*index].account));
        let mut looked = vec![Looked::New; events.len()];
        if !due.is_empty()
            && let Err(error) = self.look_in_time(events, due.clone(), &mut looked, deadline).await
        {
            refused.extend(due.iter().map(|index| (&events[*index].account, error.clone())));
        }
        for (event, looked) in events.iter().zip(&mut looked) {
            if let Some(error) = refused.get(&event.account) {
                *looked = Looked::Refused(error.clone());
            }
        }
        looked
    }

    async fn look_in_time(
        &self,
        events: &[NewEvent],
        mut due: Vec<usize>,
        looked: &mut [Looked],
        deadline: Option<Deadline>,
    ) -> Result<(), ApiError> {
        let remaining = deadline.map(|deadline| deadline.remaining()).filter(|it| *it < LONGEST);
        let limit = remaining.unwrap_or(LONGEST);
        let now = Instant::now().into_std();
        let has_turn = AtomicBool::new(false);
        let work = async {
            // Never closed.
            let _turn = self.turns.acquire().await;
            has_turn.store(true, Ordering::Relaxed);
            // Whoever was before may have heard of the days.
            due.retain(|index| self.is_due(&events[*index]));
            self.look_at(events, &due, looked).await
        };
        let ended = budget::within(now + limit.saturating_sub(WAY), now + limit, work).await;
        match ended.map(|done| done.map_err(error::store)) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) if error.code() != Code::DeadlineExceeded => return Err(error),
            Ok(Err(_)) | Err(_) => {}
        }
        // There was no time: that is the caller's matter, or who keeps the store busy.
        Err(match (remaining, has_turn.load(Ordering::Relaxed)) {
            (Some(_), _) => error::expired_in_queue(),
            (None, true) => error::store_unavailable(),
            (None, false) => error::overloaded(),
        })
    }

    async fn look_at(
        &self,
        events: &[NewEvent],
        due: &[usize],
        looked: &mut [Looked],
    ) -> Result<(), sqlx::Error> {
        if due.is_empty() {
            return Ok(());
        }
        let wanted: Vec<(usize, Time)> = due
            .iter()
            .filter_map(|index| events[*index].occur_time.map(|occurred| (*index, occurred)))
            .collect();
        let since: Vec<_> =
            wanted.iter().map(|(index, occurred)| (&events[*index], occurred.minus(AHEAD))).collect();
        let found = events::find_since(&self.store, &since).await?;
        // After that: of a day that was dropped meanwhile nothing was found, or not all.
        let facts = self.facts().await?;
        for (index, occurred) in &wanted {
            if let Some(error) = refusal(*occurred, facts, self.keep) {
                looked[*index] = Looked::Refused(error);
            }
        }
        for (position, earlier) in found {
            looked[wanted[position].0] = Looked::Recorded(earlier);
        }
        Ok(())
    }

    /// Asks for them, and keeps them for those who come.
    async fn facts(&self) -> Result<Facts, sqlx::Error> {
        let asked = Asked::now();
        let facts = days::facts(&self.store, self.dedupe_days).await?;
        self.known.set(facts, asked);
        Ok(facts)
    }
}

#[cfg(test)]
mod tests {
    use chatfn_rpc::reasons;

    use super::*;

    const HOUR: i64 = 3600 * 1_000_000;
    const KEEP: Duration = Duration::from_secs(30 * 24 * 3600);

    fn at(hours: i64) -> Time {
        Time::from_micros(hours * HOUR)
    }

    #[tokio::test(start_paused = true)]
    async fn what_happened_since_days_that_are_known_needs_no_look() {
        let known = Known::default();
        let here = Time::now();
        let needs_no_look = |hours, here| known.needs_no_look(at(hours), KEEP, here);
        assert!(!needs_no_look(100, here), "nothing was heard yet");
        let facts = Facts { now: at(1000), kept_since: Time::MIN, newest_since: at(48) };
        known.set(facts, Asked::now());
        assert!(needs_no_look(1000 - 720, here) && needs_no_look(1000 + 15, here));
        assert!(!needs_no_look(1000 - 721, here), "it is to be refused");
        assert!(!needs_no_look(1000 + 16, here), "it is to be refused, whatever this clock says");
        known.set(Facts { newest_since: at(900), ..facts }, Asked::now());
        assert!(needs_no_look(900 + 15, here));
        assert!(!needs_no_look(900 + 14, here), "the publisher's clock may be ahead");
        let asleep = Time::from_micros(Time::now().micros() + 2 * HOUR);
        assert!(!needs_no_look(1000, asleep), "this machine has slept");
        tokio::time::advance(HEARD).await;
        assert!(!needs_no_look(1000, here), "days may have been opened");
    }

    #[test]
    fn what_nobody_can_know_is_refused() {
        let reason = |occurred, kept_since| {
            let facts = Facts { now: at(10_000), kept_since, newest_since: at(9_952) };
            refusal(occurred, facts, KEEP).map(|error| error.reason())
        };
        let out_of_range = Some(reasons::OCCUR_TIME_OUT_OF_RANGE);
        assert_eq!(reason(at(10_000 + 15), Time::MIN), None);
        assert_eq!(reason(at(10_000 + 16), Time::MIN), out_of_range);
        assert_eq!(reason(at(10_000 - 720), Time::MIN), None);
        assert_eq!(reason(at(10_000 - 721), Time::MIN), out_of_range);
        assert_eq!(reason(at(9_900), at(9_900 - 15)), None);
        assert_eq!(reason(at(9_900), at(9_900 - 14)), out_of_range);
        assert_eq!(
            (reason(Time::MIN, Time::MIN), reason(Time::MAX, Time::MIN)),
            (out_of_range, out_of_range)
        );
    }
}
