//! `TailDeliveries`: reads the store again and again, since what happens in other replicas is found nowhere else. Nothing is
//! buffered for a reader beyond a few responses, and reading on waits for it.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashSet},
    mem,
    ops::Bound::{Excluded, Unbounded},
    time::Duration,
};

use chatfn_domain::{
    lane::LANES,
    name::AccountName,
    shares::{Held, Stock},
};
use chatfn_pg::Background;
use chatfn_proto::{
    convert::parse,
    ingest::v1::{DeliveryState, TailDeliveriesRequest, TailDeliveriesResponse},
    validate::Violations,
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
    store::{
        days, deliveries,
        interventions::Place,
        lanes,
        tail::{self, Filter, Part, State},
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
const PENDING: i16 = DeliveryState::Pending as i16;
const HALTED: i16 = DeliveryState::Halted as i16;
/// Statements of one question to the store, at most.
const STATEMENTS: u32 = 4;

/// The streams of this replica. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Tails {
    store: Background,
    seats: Stock,
}

type Responses = mpsc::Sender<Result<TailDeliveriesResponse, Status>>;

impl Tails {
    /// Streams that read `store`: no deadline bounds them.
    pub(crate) fn new(store: Background) -> Self {
        Self { store, seats: Stock::new(MOST) }
    }

    /// Starts a stream. It ends when nobody reads it.
    pub(super) async fn start(
        &self,
        request: TailDeliveriesRequest,
    ) -> Result<ReceiverStream<Result<TailDeliveriesResponse, Status>>, Status> {
        let parent: AccountName = parse("parent", &request.parent)?;
        if request.states.contains(&DeliveryState::Unspecified.into()) {
            return Err(
                Violations::one("states", "must each name a state; leave the list empty for all").into()
            );
        }
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
        let entered = self
            .seats
            .take(filter.account.clone(), 1)
            .ok_or_else(|| error::too_many_tails(&filter.account))?;
        let store = self.store.clone();
        let begins = async {
            match read_to {
                Some(read_to) => resumed(store.pool(), &filter, read_to).await,
                None => Ok((newest(store.pool()).await?, BTreeMap::new())),
            }
        };
        let (read_to, followed) = store.ask_all(STATEMENTS, begins).await.map_err(error::store)?;
        let (responses, stream) = mpsc::channel(QUEUE);
        let states = request.states.iter().filter_map(|state| i16::try_from(*state).ok()).collect();
        let tail = Tail {
            store,
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

/// What a stream knows of an unfinished delivery that it follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// It was not told.
    New,
    /// It was not told, and HALTED when the stream was resumed.
    Found,
    /// It was told in this state.
    Told(i16),
    /// It was told in PENDING, and cannot run before a HALTED one.
    Behind,
}

impl Known {
    /// The state that it was told in.
    fn told(self) -> Option<i16> {
        match self {
            Self::New | Self::Found => None,
            Self::Told(state) => Some(state),
            Self::Behind => Some(PENDING),
        }
    }

    /// Whether a stream that is resumed must read its event again. HALTED ones may be so for weeks, and are found. Those behind them
    /// are found when it goes on.
    fn holds(self) -> bool {
        !matches!(self, Self::Found | Self::Told(HALTED) | Self::Behind)
    }
}

type Followed = BTreeMap<(i16, i64), Known>;

/// Where a resumed stream goes on, and what it follows from before: what waits.
async fn resumed(
    pool: &PgPool,
    filter: &Filter,
    mut read_to: Vec<i64>,
) -> Result<(Vec<i64>, Followed), sqlx::Error> {
    let furthest = days::open_before(pool, FURTHEST).await?.saturating_sub(1);
    read_to.iter_mut().for_each(|place| *place = (*place).max(furthest));
    let waiting = tail::waiting(pool, filter, i64::try_from(FOLLOWED).unwrap_or(i64::MAX)).await?;
    let followed = waiting
        .into_iter()
        .filter(|(place, _)| place.sequence <= read_to[usize::from(place.lane.unsigned_abs())])
        .map(|(place, is_halted)| {
            ((place.lane, place.sequence), if is_halted { Known::Found } else { Known::New })
        })
        .collect();
    Ok((read_to, followed))
}

struct Tail {
    store: Background,
    filter: Filter,
    states: Vec<i16>,
    /// What its tokens hold for.
    list: [String; 5],
    /// By lane: all events up to there are, or were, followed.
    read_to: Vec<i64>,
    /// Unfinished deliveries.
    followed: Followed,
    /// The last of them whose turn it was.
    looked_at: (i16, i64),
    /// Time that the present look has waited for the reader.
    waited: Duration,
    responses: Responses,
    _entered: Held,
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
            let store = self.store.clone();
            let has_more = store.ask_all(STATEMENTS, self.read_on()).await.map_err(error::store)?;
            let has_told = self.tell_changes().await?;
            self.let_go();
            pause = if has_more || has_told { PAUSES.0 } else { (pause * 2).min(PAUSES.1) };
            let took = start.elapsed().saturating_sub(mem::take(&mut self.waited));
            tokio::time::sleep(rest(took, (!has_more).then_some(pause))).await;
        }
    }

    /// Follows what was accepted; gives whether there is more.
    async fn read_on(&mut self) -> Result<bool, sqlx::Error> {
        let pool = self.store.pool();
        let newest = newest(pool).await?;
        let mut parts = Vec::new();
        for ((lane, after), newest) in (0..).zip(&self.read_to).zip(&newest) {
            if newest > after {
                parts.push(Part { lane, after: *after, to: *newest });
            }
        }
        if parts.is_empty() {
            return Ok(false);
        }
        let parts = tail::shortened(pool, &parts, SPAN).await?;
        for place in tail::accepted(pool, &self.filter, &parts).await? {
            // It may be followed already, as it was behind one that was HALTED.
            self.followed.entry((place.lane, place.sequence)).or_insert(Known::New);
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
            turns.filter(|(_, known)| **known != Known::New).take(LOOKED).map(|(place, _)| *place).collect();
        self.looked_at = turns.last().copied().unwrap_or_default();
        let new = self.followed.iter().filter(|(_, known)| **known == Known::New).map(|(place, _)| *place);
        let places: Vec<Place> = new.chain(turns).map(|(lane, sequence)| Place { lane, sequence }).collect();
        if places.is_empty() {
            return Ok(false);
        }
        let store = self.store.clone();
        let states = store.ask(tail::states(store.pool(), &places)).await.map_err(error::store)?;
        self.follow_what_goes_on(&states).await.map_err(error::store)?;
        let told = self.learn(&places, &states);
        for part in told.chunks(TOGETHER) {
            let in_places = deliveries::in_places(store.pool(), part);
            let mut rows = store.ask(in_places).await.map_err(error::store)?;
            // What they are told in, should they have changed meanwhile.
            rows.iter().for_each(|row| self.learn_told((row.lane, row.sequence), row.state));
            while !rows.is_empty() {
                let page = store.bound(STATEMENTS, page_of(store.pool(), rows.clone(), false));
                let (deliveries, _) = page.await.map_err(error::store)??;
                rows.drain(..deliveries.len().min(rows.len()));
                self.tell(deliveries).await?;
            }
        }
        for State { place, state, .. } in states {
            if is_outcome(state) {
                self.followed.remove(&(place.lane, place.sequence));
            }
        }
        Ok(!told.is_empty())
    }

    /// Takes in that a delivery is told in a state.
    fn learn_told(&mut self, place: (i16, i64), state: i16) {
        if let Some(known) = self.followed.get_mut(&place)
            && known.told() != Some(state)
            && !is_outcome(state)
        {
            *known = Known::Told(state);
        }
    }

    /// Follows what was behind deliveries that were HALTED and are so no more. A resumed stream does not know of it, and any other
    /// must not let a token pass it from now on.
    async fn follow_what_goes_on(&mut self, states: &[State]) -> Result<(), sqlx::Error> {
        let was_halted = |place: &Place| {
            matches!(
                self.followed.get(&(place.lane, place.sequence)),
                Some(Known::Found | Known::Told(HALTED))
            )
        };
        let go_on: Vec<Place> = states
            .iter()
            .filter(|it| it.state != HALTED && was_halted(&it.place))
            .map(|it| it.place)
            .collect();
        if go_on.is_empty() {
            return Ok(());
        }
        let most = i64::try_from(FOLLOWED).unwrap_or(i64::MAX);
        let behind = tail::behind(self.store.pool(), &self.filter, &go_on, most);
        for place in self.store.ask(behind).await? {
            let known = self.followed.entry((place.lane, place.sequence)).or_insert(Known::New);
            if *known == Known::Behind {
                *known = Known::Told(PENDING);
            }
        }
        Ok(())
    }

    /// Takes in what state deliveries are in; gives those that are to be told, in their order. Those that have their outcomes are
    /// followed until they have been told: no token that is told before passes them.
    fn learn(&mut self, places: &[Place], states: &[State]) -> Vec<Place> {
        let is_wanted = |state| self.states.is_empty() || self.states.contains(&state);
        // The HALTED one may be of another template: then it is not followed, and would not tell when it goes on.
        let is_told_when_to_go_on = self.filter.template.is_none();
        let mut told: Vec<Place> = Vec::new();
        for State { place, state, is_behind_halted } in states {
            let Some(known) = self.followed.get_mut(&(place.lane, place.sequence)) else { continue };
            if known.told() != Some(*state) && is_wanted(*state) {
                told.push(*place);
            }
            match *state {
                state if is_outcome(state) => {}
                PENDING if *is_behind_halted && is_told_when_to_go_on => *known = Known::Behind,
                state => *known = Known::Told(state),
            }
        }
        told.sort_unstable_by_key(|place| (place.lane, place.sequence));
        // What retention has dropped is not followed any more.
        let there: HashSet<(i16, i64)> = states.iter().map(|it| (it.place.lane, it.place.sequence)).collect();
        for Place { lane, sequence } in places {
            if !there.contains(&(*lane, *sequence)) {
                self.followed.remove(&(*lane, *sequence));
            }
        }
        told
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

    /// Goes on before the first delivery of each lane that is still followed and [holds](Known::holds) it back.
    fn token(&self) -> String {
        let mut read_to = self.read_to.clone();
        for ((lane, sequence), _) in self.followed.iter().filter(|(_, known)| known.holds()) {
            let place = &mut read_to[usize::from(lane.unsigned_abs())];
            *place = (*place).min(sequence - 1);
        }
        page::numbers_token(&self.list.each_ref().map(String::as_str), &read_to)
    }
}

/// How long to rest after a look that took so long: a stream has a connection half of the time at most, however much there
/// is to read, unless a look takes longer than [`LONGEST_REST`].
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
mod tests;
