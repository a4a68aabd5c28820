//! `TailDeliveries`: reads the store again and again, since what happens in other replicas is found nowhere else. Nothing is
//! buffered for a reader beyond a few responses, and reading on waits for it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chatfn_domain::{lane::LANES, name::AccountName};
use chatfn_proto::{
    convert::parse,
    ingest::v1::{DeliveryState, TailDeliveriesRequest, TailDeliveriesResponse},
};
use sqlx::PgPool;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{
    delivery::{optional, page_of},
    page,
};
use crate::{
    error,
    store::{
        deliveries,
        interventions::Place,
        lanes,
        tail::{self, Filter, Part},
    },
};

/// Streams that this replica serves at once.
const MOST: usize = 32;
/// Responses that may wait for the reader.
const QUEUE: usize = 4;
/// Longest wait for the reader.
const PATIENCE: Duration = Duration::from_secs(10);
/// Events of a lane that one look goes through.
const SPAN: i64 = 200;
/// Unfinished deliveries that are followed.
const FOLLOWED: usize = 10_000;
/// Deliveries in one response.
const TOGETHER: usize = 100;
/// Pause between looks: short while something happens.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// The streams of this replica. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Tails(Arc<Semaphore>);

type Responses = mpsc::Sender<Result<TailDeliveriesResponse, Status>>;

impl Tails {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(MOST)))
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
        let permit = self.0.clone().try_acquire_owned().map_err(|_| error::too_many_tails(MOST))?;
        let read_to = match read_to {
            Some(read_to) => read_to,
            None => newest(&pool).await.map_err(error::store)?,
        };
        let (responses, stream) = mpsc::channel(QUEUE);
        let states = request.states.iter().filter_map(|state| i16::try_from(*state).ok()).collect();
        let tail = Tail {
            pool,
            filter,
            states,
            list,
            read_to,
            followed: BTreeMap::new(),
            responses,
            _permit: permit,
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

struct Tail {
    pool: PgPool,
    filter: Filter,
    states: Vec<i16>,
    /// What its tokens hold for.
    list: [String; 5],
    /// By lane: all events up to there are, or were, followed.
    read_to: Vec<i64>,
    /// Unfinished deliveries, with the state that they were told in; 0: none yet.
    followed: BTreeMap<(i16, i64), i16>,
    responses: Responses,
    _permit: OwnedSemaphorePermit,
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
            let has_more = self.read_on().await.map_err(error::store)?;
            let has_told = self.tell_changes().await?;
            pause = if has_more || has_told { PAUSES.0 } else { (pause * 2).min(PAUSES.1) };
            if !has_more {
                tokio::time::sleep(pause).await;
            }
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

    /// Tells what has changed; gives whether anything has.
    async fn tell_changes(&mut self) -> Result<bool, Status> {
        let places: Vec<Place> =
            self.followed.keys().map(|&(lane, sequence)| Place { lane, sequence }).collect();
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
        self.followed = states
            .into_iter()
            .filter(|(_, state)| !is_outcome(*state))
            .map(|(place, state)| ((place.lane, place.sequence), state))
            .collect();
        while self.followed.len() > FOLLOWED {
            self.let_go();
        }
        Ok(has_told)
    }

    /// Stops following the delivery that is furthest behind in its lane.
    fn let_go(&mut self) {
        let behind =
            |(lane, sequence): &(i16, i64)| self.read_to[usize::from(lane.unsigned_abs())] - sequence;
        if let Some(oldest) = self.followed.keys().copied().max_by_key(behind) {
            self.followed.remove(&oldest);
        }
    }

    async fn tell(&self, deliveries: Vec<chatfn_proto::ingest::v1::Delivery>) -> Result<(), Status> {
        let response = TailDeliveriesResponse { deliveries, resume_token: self.token() };
        match self.responses.send_timeout(Ok(response), PATIENCE).await {
            Ok(()) => Ok(()),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => Err(error::tail_too_slow().into()),
            // Nobody reads, which ends this future.
            Err(mpsc::error::SendTimeoutError::Closed(_)) => std::future::pending().await,
        }
    }

    /// Goes on before the first delivery of each lane that is still followed.
    fn token(&self) -> String {
        let mut read_to = self.read_to.clone();
        for (lane, sequence) in self.followed.keys() {
            let place = &mut read_to[usize::from(lane.unsigned_abs())];
            *place = (*place).min(sequence - 1);
        }
        page::numbers_token(&self.list.each_ref().map(String::as_str), &read_to)
    }
}

fn is_outcome(state: i16) -> bool {
    let state = DeliveryState::try_from(i32::from(state)).unwrap_or_default();
    !matches!(
        state,
        DeliveryState::Unspecified | DeliveryState::Pending | DeliveryState::Retrying | DeliveryState::Halted
    )
}
