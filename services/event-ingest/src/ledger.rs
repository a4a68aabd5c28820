//! Keeps the books of the lanes that this replica runs, in the background: whether every event that a lane's cursor has
//! passed has its outcome, or is parked. An event for which neither holds would never run; `Reconcile` would find it, if
//! somebody asked.
//!
//! Each event is looked at about once, when the cursor has passed it, in bounded statements: a few for each look, of which there
//! are four a minute while nothing happens, and about one probe of a primary key for each event otherwise. What nothing would
//! run is remembered and looked at again each time, until it has its outcome; a lane with as much of it as is remembered is not
//! gone on with.

use std::{collections::HashMap, convert::Infallible, time::Duration};

use chatfn_pg::Background;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::{
    metrics::IngestMetrics,
    store::{
        interventions::Place,
        ledger::{self, Looked, Next, Unreachable},
    },
};

/// Time between looks, if the last one saw all that there was.
const PERIOD: Duration = Duration::from_secs(15);
/// The same if there is more to see.
const PAUSE: Duration = Duration::from_millis(500);
/// Statements of one look, about: one more for each two weeks or so that lanes are apart.
const STATEMENTS: u32 = 8;
/// Events of a lane that one look covers.
const ROWS: i64 = 1_000;
/// Events of a lane that nothing would run and that are remembered.
const REMEMBERED: usize = 100;
/// Sequence numbers before the cursor from which on a lane is looked at that was just taken over.
const BACK: i64 = 10_000;

/// Looks until `stop`. Cancel safe: it only reads.
pub(crate) async fn run(
    metrics: IngestMetrics,
    store: Background,
    stop: CancellationToken,
) -> Result<(), Infallible> {
    let mut keeper = Bookkeeper { metrics, pool: store.pool().clone(), lanes: HashMap::new() };
    let mut is_failing = false;
    loop {
        let looked = tokio::select! {
            looked = store.ask_all(STATEMENTS, keeper.look()) => looked,
            () = stop.cancelled() => return Ok(()),
        };
        let pause = match looked {
            Ok(is_complete) => {
                is_failing = false;
                if is_complete { PERIOD } else { PAUSE }
            }
            Err(error) => {
                if !std::mem::replace(&mut is_failing, true) {
                    tracing::warn!(
                        "cannot check whether every event is accounted for, and tries again: {}",
                        chatfn_pg::error::describe(&error)
                    );
                }
                PERIOD
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
}

struct Bookkeeper {
    metrics: IngestMetrics,
    pool: PgPool,
    lanes: HashMap<i16, Progress>,
}

/// How far a lane has been looked at.
#[derive(Debug, Clone, Default)]
struct Progress {
    /// The next look begins after this one.
    after: i64,
    /// Those up to there that nothing would run, at most [`REMEMBERED`].
    unreachable: Vec<i64>,
}

impl Bookkeeper {
    /// Looks once; gives whether it saw all that there was.
    async fn look(&mut self) -> Result<bool, sqlx::Error> {
        let owned = self.metrics.lanes().owned();
        self.lanes.retain(|lane, _| owned.contains(lane));
        let fresh: Vec<i16> = owned.iter().copied().filter(|lane| !self.lanes.contains_key(lane)).collect();
        if !fresh.is_empty() {
            for (lane, cursor) in ledger::cursors(&self.pool, &fresh).await? {
                let after = cursor.saturating_sub(BACK);
                self.lanes.insert(lane, Progress { after, unreachable: Vec::new() });
            }
        }
        let next: Vec<Next> = self.lanes.iter().map(|(lane, it)| it.next(*lane)).collect();
        let looked = ledger::look(&self.pool, &next, ROWS).await?;
        let remembered = self.lanes.iter().map(|(lane, it)| (*lane, &it.unreachable));
        let suspects: Vec<Place> = remembered
            .chain(looked.iter().map(|it| (it.lane, &it.unreachable)))
            .flat_map(|(lane, them)| them.iter().map(move |sequence| Place { lane, sequence: *sequence }))
            .collect();
        let unreachable =
            if suspects.is_empty() { Vec::new() } else { ledger::unreachable(&self.pool, &suspects).await? };
        let parked = ledger::parked(&self.pool, &owned).await?;
        // Nothing failed: what was seen counts.
        let (mut is_complete, mut checked) = (true, 0);
        for Looked { lane, events, after, has_more, .. } in looked {
            is_complete &= !has_more;
            checked += u64::try_from(events).unwrap_or_default();
            self.lanes.entry(lane).or_default().after = after;
        }
        self.lanes.values_mut().for_each(|it| it.unreachable.clear());
        for event in &unreachable {
            self.lanes.entry(event.lane).or_default().unreachable.push(event.sequence);
        }
        self.metrics.audited(checked, i64::try_from(unreachable.len()).unwrap_or(i64::MAX), parked);
        self.tell(&unreachable);
        Ok(is_complete)
    }

    fn tell(&self, unreachable: &[Unreachable]) {
        let Some(Unreachable { lane, sequence, account, conversation_id, event_id }) = unreachable.first()
        else {
            return;
        };
        let events = unreachable.len();
        let is_full = self.lanes.values().any(|it| it.unreachable.len() == REMEMBERED);
        let or_more = if is_full { " or more" } else { "" };
        tracing::error!(
            events,
            account,
            conversation_id,
            event_id,
            lane,
            sequence,
            "{events}{or_more} events would never run: they have no outcome, and lie before their lane's cursor without being \
             parked. The first is accounts/{account}/deliveries/{event_id}. Please report it; Reconcile tells of how many \
             an account is"
        );
    }
}

impl Progress {
    /// Where the next look at the lane goes on, and how many it may find that nothing would run.
    fn next(&self, lane: i16) -> Next {
        let room = REMEMBERED.saturating_sub(self.unreachable.len());
        Next { lane, after: self.after, room: i64::try_from(room).unwrap_or(i64::MAX) }
    }
}

#[cfg(test)]
mod tests {
    use chatfn_pg::testing::TestDatabase;
    use chatfn_telemetry::Metrics;
    use sqlx::AssertSqlSafe;

    use super::*;

    const LANE: i16 = 7;

    /// A database with a lane that is looked at.
    struct Fixture {
        metrics: Metrics,
        keeper: Bookkeeper,
        database: TestDatabase,
    }

    impl Fixture {
        async fn new() -> Self {
            let database = TestDatabase::create().await;
            let metrics = Metrics::new();
            let pool = database.pool().clone();
            let keeper = Bookkeeper { metrics: IngestMetrics::new(&metrics), pool, lanes: HashMap::new() };
            let fixture = Self { metrics, keeper, database };
            fixture.execute("SELECT ingest.prepare_day((now() AT TIME ZONE 'UTC')::date)").await;
            fixture
        }

        /// `{first}` stands for today's first sequence number.
        async fn execute(&self, statement: &str) {
            let first = "ingest.first_sequence((now() AT TIME ZONE 'UTC')::date)";
            let statement = statement.replace("{first}", first).replace("{lane}", &LANE.to_string());
            sqlx::query(AssertSqlSafe(statement)).execute(self.database.pool()).await.unwrap();
        }

        /// Records events with these numbers: `first, last`.
        async fn record(&self, numbers: &str, conversation: &str) {
            self.execute(&format!(
                "INSERT INTO ingest.events (lane, sequence, account, event_id, template, conversation_id, payload,
                                            content_hash)
                 SELECT {{lane}}, {{first}} + n, 'acme', 'e' || n, 'chat.message', {conversation}, '{{}}', ''
                 FROM generate_series({numbers}) n"
            ))
            .await;
        }

        async fn decide(&self, numbers: &str) {
            self.execute(&format!(
                "INSERT INTO ingest.outcomes (lane, sequence, state, epoch, account, accept_time)
                 SELECT {{lane}}, {{first}} + n, 3, 0, 'acme', now() FROM generate_series({numbers}) n"
            ))
            .await;
        }

        async fn move_cursor(&self, number: i64) {
            let statement =
                format!("UPDATE ingest.lanes SET cursor = {{first}} + {number} WHERE lane = {{lane}}");
            self.execute(&statement).await;
        }

        #[track_caller]
        fn told(&self, unreachable: u64, checked: u64) {
            let text = self.metrics.encode();
            for (name, value) in [("unreachable_events", unreachable), ("checked_events_total", checked)] {
                let line = format!("chatfn_ingest_ledger_{name} {value}");
                assert!(text.lines().any(|it| it == line), "not {line} in\n{text}");
            }
        }
    }

    #[tokio::test]
    async fn what_nothing_would_run_is_told_until_it_has_its_outcome() {
        let mut fixture = Fixture::new().await;
        let _lane = fixture.keeper.metrics.lanes().begin(LANE);
        for (numbers, conversation) in
            [("0, 0", "'done'"), ("1, 2", "'waits'"), ("3, 3", "'lost'"), ("4, 4", "'later'")]
        {
            fixture.record(numbers, conversation).await;
        }
        fixture.decide("0, 0").await;
        fixture
            .execute(
                "INSERT INTO ingest.parked (lane, sequence, account, conversation_id, next_attempt_time)
                 VALUES ({lane}, {first} + 1, 'acme', 'waits', now())",
            )
            .await;
        // The last one lies after it.
        fixture.move_cursor(3).await;
        for _ in 0..2 {
            assert!(fixture.keeper.look().await.unwrap());
            fixture.told(1, 4);
            let text = fixture.metrics.encode();
            assert!(text.contains("chatfn_ingest_ledger_parked_events{for=\"retry\"} 1\n"), "{text}");
        }
        let sequence = fixture.keeper.lanes[&LANE].unreachable[0];
        let places = [Place { lane: LANE, sequence: sequence - 1 }, Place { lane: LANE, sequence }];
        let [lost] = &ledger::unreachable(fixture.database.pool(), &places).await.unwrap()[..] else {
            panic!("what is parked is not reachable");
        };
        assert_eq!(
            (lost.sequence, lost.account.as_str(), lost.conversation_id.as_str(), lost.event_id.as_str()),
            (sequence, "acme", "lost", "e3")
        );
        fixture.decide("3, 3").await;
        fixture.keeper.look().await.unwrap();
        fixture.told(0, 4);

        fixture.decide("4, 4").await;
        fixture.move_cursor(4).await;
        fixture.keeper.look().await.unwrap();
        fixture.told(0, 5);
    }

    #[tokio::test]
    async fn what_comes_after_it_is_looked_at_too_up_to_a_bound() {
        let mut fixture = Fixture::new().await;
        let _lane = fixture.keeper.metrics.lanes().begin(LANE);
        // One in the first look's events, and later more than are remembered.
        fixture.record("0, 2399", "'c' || n").await;
        fixture.decide("1, 1999").await;
        fixture.move_cursor(1999).await;
        assert!(!fixture.keeper.look().await.unwrap());
        fixture.told(1, 1000);
        fixture.keeper.look().await.unwrap();
        fixture.told(1, 2000);

        fixture.decide("2010, 2010").await;
        fixture.move_cursor(2399).await;
        for _ in 0..2 {
            assert!(fixture.keeper.look().await.unwrap(), "it waits");
            fixture.told(100, 2100);
        }
        fixture.decide("2000, 2009").await;
        fixture.keeper.look().await.unwrap();
        fixture.told(90, 2100);
        fixture.keeper.look().await.unwrap();
        fixture.told(100, 2110);
        for numbers in ["0, 0", "2011, 2399"] {
            fixture.decide(numbers).await;
        }
        fixture.keeper.look().await.unwrap();
        fixture.keeper.look().await.unwrap();
        fixture.told(0, 2400);
    }
}
