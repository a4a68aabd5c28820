//! `TailDeliveries`: reads the store again and again, since what happens in other replicas is found nowhere else. Nothing is
//! buffered for a reader beyond a few responses, and reading on waits for it.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    mem,
    ops::Bound::{Excluded, Unbounded},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chatfn_domain::{
    lane::LANES,
    name::{AccountId, AccountName},
};
use chatfn_proto::{
    convert::parse,
    ingest::v1::{DeliveryState, TailDeliveriesRequest, TailDeliveriesResponse},
};
use sqlx::PgPool;
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{
    delivery::{optional, page_of},
    page,
};
use crate::{
    error,
    shares::Shares,
    store::{
        days, deliveries,
        interventions::Place,
        lanes,
        tail::{self, Filter, Part},
    },
};

/// Streams that this replica serves at once, shared by accounts.
const MOST: usize = 32;
/// Responses that may wait for the reader.
const QUEUE: usize = 4;
/// Longest wait for the reader.
const PATIENCE: Duration = Duration::from_secs(10);
/// Events of a lane that one look goes through.
const SPAN: i64 = 200;
/// Unfinished deliveries that are followed.
const FOLLOWED: usize = 10_000;
/// Those of them, besides new ones, whose states one look reads; the others' turn comes next.
const LOOKED: usize = 2_000;
/// Deliveries in one response.
const TOGETHER: usize = 100;
/// Pause between looks: short while something happens.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));
/// Longest rest after a look that took long.
const LONGEST_REST: Duration = Duration::from_secs(10);
/// How long ago the day was open at whose beginning a resumed stream starts at the earliest, whatever its token says.
const FURTHEST: Duration = Duration::from_secs(24 * 60 * 60);
const HALTED: i16 = DeliveryState::Halted as i16;
/// In place of the state of a delivery that a resumed stream found waiting, and has not told.
const FOUND: i16 = -1;

/// The streams of this replica. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Tails(Arc<Mutex<Shares>>);

/// A stream's place among them, until dropped.
#[derive(Debug)]
struct Seat {
    account: AccountId,
    tails: Tails,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.tails.0.lock().unwrap_or_else(PoisonError::into_inner).give_back(&self.account, 1);
    }
}

type Responses = mpsc::Sender<Result<TailDeliveriesResponse, Status>>;

impl Tails {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Shares::new(MOST))))
    }

    fn enter(&self, account: &AccountId) -> Option<Seat> {
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !shares.allow(account, 1) {
            return None;
        }
        shares.take(account, 1);
        Some(Seat { account: account.clone(), tails: self.clone() })
    }

    /// Starts a stream. It ends when nobody reads it.
    pub(super) async fn start(
        &self,
        pool: PgPool,
        request: TailDeliveriesRequest,
    ) -> Result<ReceiverStream<Result<TailDeliveriesResponse, Status>>, Status> {
        let parent: AccountName = parse("parent", &request.parent)?;
        let filter = Filter {
            account: parent.account,
            template: optional("template", &request.template)?,
            conversation_id: optional("conversation_id", &request.conversation_id)?,
        };
        let list = [
            "tail".to_owned(),
            request.parent.clone(),
            request.template.clone(),
            request.conversation_id.clone(),
            request.states.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        ];
        let keys: Vec<&str> = list.iter().map(String::as_str).collect();
        let lanes = usize::from(LANES.unsigned_abs());
        let read_to = page::numbers(&keys, &request.resume_token, lanes)?;
        let entered = self.enter(&filter.account).ok_or_else(|| error::too_many_tails(&filter.account))?;
        let (read_to, followed) = match read_to {
            Some(read_to) => resumed(&pool, &filter, read_to).await.map_err(error::store)?,
            None => (newest(&pool).await.map_err(error::store)?, BTreeMap::new()),
        };
        let (responses, stream) = mpsc::channel(QUEUE);
        let states = request.states.iter().filter_map(|state| i16::try_from(*state).ok()).collect();
        let tail = Tail {
            pool,
            filter,
            states,
            list,
            read_to,
            followed,
            looked_at: (0, 0),
            waited: Duration::ZERO,
            responses,
            _entered: entered,
        };
        tokio::spawn(tail.run());
        Ok(ReceiverStream::new(stream))
    }
}

/// The newest sequence number of each lane.
async fn newest(pool: &PgPool) -> Result<Vec<i64>, sqlx::Error> {
    let mut newest = vec![0; usize::from(LANES.unsigned_abs())];
    for (lane, next) in lanes::heads(pool).await? {
        if let Some(place) = usize::try_from(lane).ok().and_then(|lane| newest.get_mut(lane)) {
            *place = next - 1;
        }
    }
    Ok(newest)
}

/// Where a resumed stream goes on, and what it follows from before: what waits, which holds no token back for long.
async fn resumed(
    pool: &PgPool,
    filter: &Filter,
    mut read_to: Vec<i64>,
) -> Result<(Vec<i64>, BTreeMap<(i16, i64), i16>), sqlx::Error> {
    let furthest = days::open_before(pool, FURTHEST).await?.saturating_sub(1);
    read_to.iter_mut().for_each(|place| *place = (*place).max(furthest));
    let waiting = tail::waiting(pool, filter, i64::try_from(FOLLOWED).unwrap_or(i64::MAX)).await?;
    let is_before = |place: &Place| place.sequence <= read_to[usize::from(place.lane.unsigned_abs())];
    let followed = waiting.into_iter().filter(is_before).map(|it| ((it.lane, it.sequence), FOUND)).collect();
    Ok((read_to, followed))
}

struct Tail {
    pool: PgPool,
    filter: Filter,
    states: Vec<i16>,
    /// What its tokens hold for.
    list: [String; 5],
    /// By lane: all events up to there are, or were, followed.
    read_to: Vec<i64>,
    /// Unfinished deliveries, with the state that they were told in; 0: none yet, or [`FOUND`].
    followed: BTreeMap<(i16, i64), i16>,
    /// The last of them whose turn it was.
    looked_at: (i16, i64),
    /// Time that the present look has waited for the reader.
    waited: Duration,
    responses: Responses,
    _entered: Seat,
}

impl Tail {
    async fn run(mut self) {
        let responses = self.responses.clone();
        let end = tokio::select! {
            () = responses.closed() => return,
            end = self.follow() => end,
        };
        if let Err(status) = end {
            // To a reader that is slow, too: it finds this behind what it has not read.
            let _ = tokio::time::timeout(PATIENCE, responses.send(Err(status))).await;
        }
    }

    async fn follow(&mut self) -> Result<(), Status> {
        self.tell(Vec::new()).await?;
        let mut pause = PAUSES.0;
        loop {
            let start = Instant::now();
            let has_more = self.read_on().await.map_err(error::store)?;
            let has_told = self.tell_changes().await?;
            self.let_go();
            pause = if has_more || has_told { PAUSES.0 } else { (pause * 2).min(PAUSES.1) };
            let took = start.elapsed().saturating_sub(mem::take(&mut self.waited));
            tokio::time::sleep(rest(took, (!has_more).then_some(pause))).await;
        }
    }

    /// Follows what was accepted; gives whether there is more.
    async fn read_on(&mut self) -> Result<bool, sqlx::Error> {
        let newest = newest(&self.pool).await?;
        let mut parts = Vec::new();
        for ((lane, after), newest) in (0..).zip(&self.read_to).zip(&newest) {
            if newest > after {
                parts.push(Part { lane, after: *after, to: *newest });
            }
        }
        if parts.is_empty() {
            return Ok(false);
        }
        let parts = tail::shortened(&self.pool, &parts, SPAN).await?;
        for place in tail::accepted(&self.pool, &self.filter, &parts).await? {
            self.followed.insert((place.lane, place.sequence), 0);
        }
        for Part { lane, to, .. } in parts {
            self.read_to[usize::from(lane.unsigned_abs())] = to;
        }
        Ok(self.read_to.iter().zip(&newest).any(|(read_to, newest)| read_to < newest))
    }

    /// Tells what has changed of those whose turn it is; gives whether anything has.
    async fn tell_changes(&mut self) -> Result<bool, Status> {
        let after = self.followed.range((Excluded(self.looked_at), Unbounded));
        let turns = after.chain(self.followed.range(..=self.looked_at));
        let turns: Vec<(i16, i64)> =
            turns.filter(|(_, state)| **state != 0).take(LOOKED).map(|(place, _)| *place).collect();
        self.looked_at = turns.last().copied().unwrap_or_default();
        let new = self.followed.iter().filter(|(_, state)| **state == 0).map(|(place, _)| *place);
        let places: Vec<Place> = new.chain(turns).map(|(lane, sequence)| Place { lane, sequence }).collect();
        if places.is_empty() {
            return Ok(false);
        }
        let states = tail::states(&self.pool, &places).await.map_err(error::store)?;
        let is_wanted = |state| self.states.is_empty() || self.states.contains(&state);
        let mut told: Vec<Place> = states
            .iter()
            .filter(|(place, state)| {
                self.followed.get(&(place.lane, place.sequence)) != Some(state) && is_wanted(*state)
            })
            .map(|(place, _)| *place)
            .collect();
        told.sort_unstable_by_key(|place| (place.lane, place.sequence));
        let has_told = !told.is_empty();
        for part in told.chunks(TOGETHER) {
            let mut rows = deliveries::in_places(&self.pool, part).await.map_err(error::store)?;
            while !rows.is_empty() {
                let (deliveries, _) = page_of(&self.pool, rows.clone(), false).await?;
                rows.drain(..deliveries.len().min(rows.len()));
                self.tell(deliveries).await?;
            }
        }
        // What retention has dropped is not followed any more, nor what has its outcome.
        let states: HashMap<_, _> =
            states.into_iter().map(|(place, state)| ((place.lane, place.sequence), state)).collect();
        for Place { lane, sequence } in places {
            match states.get(&(lane, sequence)) {
                Some(state) if !is_outcome(*state) => _ = self.followed.insert((lane, sequence), *state),
                _ => _ = self.followed.remove(&(lane, sequence)),
            }
        }
        Ok(has_told)
    }

    /// Stops following the deliveries that are furthest behind in their lanes, if they are too many.
    fn let_go(&mut self) {
        let excess = self.followed.len().saturating_sub(FOLLOWED);
        if excess == 0 {
            return;
        }
        let behind =
            |(lane, sequence): &(i16, i64)| self.read_to[usize::from(lane.unsigned_abs())] - sequence;
        let mut all: Vec<(i16, i64)> = self.followed.keys().copied().collect();
        all.select_nth_unstable_by_key(excess - 1, |place| Reverse(behind(place)));
        for place in &all[..excess] {
            self.followed.remove(place);
        }
    }

    async fn tell(&mut self, deliveries: Vec<chatfn_proto::ingest::v1::Delivery>) -> Result<(), Status> {
        let response = TailDeliveriesResponse { deliveries, resume_token: self.token() };
        let start = Instant::now();
        let sent = self.responses.send_timeout(Ok(response), PATIENCE).await;
        self.waited += start.elapsed();
        match sent {
            Ok(()) => Ok(()),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => Err(error::tail_too_slow().into()),
            // Nobody reads, which ends this future.
            Err(mpsc::error::SendTimeoutError::Closed(_)) => std::future::pending().await,
        }
    }

    /// Goes on before the first delivery of each lane that is still followed, but for those that are HALTED: they may be for
    /// weeks, and a resumed stream finds them.
    fn token(&self) -> String {
        let mut read_to = self.read_to.clone();
        let holding = self.followed.iter().filter(|(_, state)| ![FOUND, HALTED].contains(*state));
        for ((lane, sequence), _) in holding {
            let place = &mut read_to[usize::from(lane.unsigned_abs())];
            *place = (*place).min(sequence - 1);
        }
        page::numbers_token(&self.list.each_ref().map(String::as_str), &read_to)
    }
}

/// How long to rest after a look that took so long: a stream has a connection half of the time at most, however much there
/// is to read.
fn rest(took: Duration, pause: Option<Duration>) -> Duration {
    took.min(LONGEST_REST).max(pause.unwrap_or_default())
}

fn is_outcome(state: i16) -> bool {
    let state = DeliveryState::try_from(i32::from(state)).unwrap_or_default();
    !matches!(
        state,
        DeliveryState::Unspecified | DeliveryState::Pending | DeliveryState::Retrying | DeliveryState::Halted
    )
}

#[cfg(test)]
mod tests {
    use chatfn_pg::testing::TestDatabase;
    use chatfn_rpc::ErrorReport;
    use sqlx::{AssertSqlSafe, postgres::PgPoolOptions};
    use tokio_stream::StreamExt as _;

    use super::*;

    /// A stream that never gets as far as to read the store.
    #[expect(clippy::disallowed_methods, reason = "a pool that never connects")]
    fn tail(responses: Responses) -> Tail {
        let account: AccountId = "acme".parse().unwrap();
        Tail {
            pool: PgPoolOptions::new().connect_lazy("postgres://nobody@127.0.0.1:1/none").unwrap(),
            filter: Filter { account: account.clone(), template: None, conversation_id: None },
            states: Vec::new(),
            list: Default::default(),
            read_to: vec![0; usize::from(LANES.unsigned_abs())],
            followed: BTreeMap::new(),
            looked_at: (0, 0),
            waited: Duration::ZERO,
            responses,
            _entered: Tails::new().enter(&account).unwrap(),
        }
    }

    #[test]
    fn a_stream_rests_as_long_as_it_read() {
        let [short, long] = [20, 700].map(Duration::from_millis);
        assert_eq!([rest(short, None), rest(long, None)], [short, long]);
        assert_eq!([rest(short, Some(PAUSES.0)), rest(long, Some(PAUSES.0))], [PAUSES.0, long]);
        assert_eq!(rest(Duration::MAX, None), LONGEST_REST);
    }

    /// Whoever makes up a token, or keeps one for long, has no more read than that.
    #[tokio::test]
    async fn no_token_goes_back_further_than_the_day_before() {
        let database = TestDatabase::create().await;
        let pool = database.pool();
        let days = [4, 2, 0].map(|age| format!("(now() AT TIME ZONE 'UTC')::date - {age}"));
        for (day, number) in days.iter().zip(0..) {
            for statement in [
                format!("SELECT ingest.prepare_day({day})"),
                format!("UPDATE ingest.days SET open_time = {day} WHERE day = {day}"),
                format!(
                    "INSERT INTO ingest.events (lane, sequence, account, event_id, template, conversation_id, payload,
                                                content_hash)
                     VALUES (5, ingest.first_sequence({day}), 'acme', 'e{number}', 'chat.message', 'c{number}', '{{}}', '')"
                ),
                format!("UPDATE ingest.lane_heads SET next_sequence = ingest.first_sequence({day}) + 1 WHERE lane = 5"),
            ] {
                sqlx::query(AssertSqlSafe(statement)).execute(pool).await.unwrap();
            }
        }
        let list = ["tail", "accounts/acme", "", "", ""];
        let request = TailDeliveriesRequest {
            parent: list[1].to_owned(),
            resume_token: page::numbers_token(&list, &[0; 64]),
            ..TailDeliveriesRequest::default()
        };
        let mut stream = Tails::new().start(pool.clone(), request).await.unwrap();
        let mut told = Vec::new();
        while told.last().is_none_or(|id| id != "e2") {
            let response = stream.next().await.unwrap().unwrap();
            told.extend(response.deliveries.into_iter().map(|delivery| delivery.event_id));
        }
        assert_eq!(told, ["e1", "e2"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_does_not_read_is_told_so_when_it_does() {
        let (responses, mut stream) = mpsc::channel(1);
        responses.send(Ok(TailDeliveriesResponse::default())).await.unwrap();
        let running = tokio::spawn(tail(responses).run());
        tokio::time::sleep(PATIENCE + Duration::from_secs(1)).await;
        assert!(!running.is_finished(), "it waits to tell why it ends");
        assert!(stream.recv().await.unwrap().is_ok(), "what was there before");
        let report = ErrorReport::from_status(&stream.recv().await.unwrap().unwrap_err());
        assert_eq!(report.reason.as_deref(), Some("TAIL_TOO_SLOW"));
        assert!(stream.recv().await.is_none());
    }

    #[tokio::test]
    async fn of_too_many_those_furthest_behind_are_let_go() {
        let mut tail = tail(mpsc::channel(1).0);
        tail.read_to[3] = 1 << 40;
        let total = i64::try_from(FOLLOWED).unwrap() + 5_000;
        for sequence in 0..total {
            tail.followed
                .insert(if sequence % 2 == 0 { (3, (1 << 40) - sequence) } else { (4, -sequence) }, 1);
        }
        tail.let_go();
        assert_eq!(tail.followed.len(), FOLLOWED);
        let furthest = tail.followed.keys().map(
            |(lane, sequence)| {
                if *lane == 3 { (1 << 40) - sequence } else { -sequence }
            },
        );
        assert_eq!(furthest.max(), Some(i64::try_from(FOLLOWED).unwrap() - 1));
    }
}
