//! `ReplayService`.

use std::time::Duration;

use chatfn_domain::name::{AccountName, ReplayName};
use chatfn_proto::{
    convert::parse,
    ingest::v1::{
        CancelReplayRequest, CancelReplayResponse, CreateReplayRequest, CreateReplayResponse, DeliveryState,
        GetReplayRequest, GetReplayResponse, ListReplaysRequest, ListReplaysResponse, Replay, ReplayFilter,
        replay_service_server::ReplayService,
    },
    validate::{Violations, validated},
};
use chatfn_rpc::{ApiError, Deadline, RequestExt as _};
use sqlx::PgPool;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{
    convert,
    delivery::{optional, page_of},
    ledger::time,
    page,
};
use crate::{
    error,
    store::{
        Time,
        deliveries::{self, Key},
        replays::{self, Filter, Look, NewReplay},
    },
};

/// Replays of one account that may run at once.
const MOST_RUNNING: i64 = 10;
/// Events a second, unless the caller says otherwise.
const DEFAULT_RATE: i32 = 50;
/// Events that a dry run shows.
const SAMPLE: usize = 10;
/// Looks of a dry run.
const LOOKS: usize = 200;
/// What a dry run leaves of its deadline.
const MARGIN: Duration = Duration::from_millis(500);

/// Runs events again.
pub(crate) struct ReplayHandler {
    pub(crate) pool: PgPool,
}

#[tonic::async_trait]
impl ReplayService for ReplayHandler {
    async fn create_replay(
        &self,
        request: Request<CreateReplayRequest>,
    ) -> Result<Response<CreateReplayResponse>, Status> {
        let (caller, deadline) = (request.caller(), request.deadline());
        let request = validated(request)?;
        let parent: AccountName = parse("parent", &request.parent)?;
        let asked = request.replay.unwrap_or_default();
        let filter = filter(parent, asked.filter.clone().unwrap_or_default())?;
        let rate = if asked.events_per_second == 0 { DEFAULT_RATE } else { asked.events_per_second };
        if request.dry_run {
            let wanted = Replay {
                filter: asked.filter,
                rerun: asked.rerun,
                events_per_second: rate,
                ..Replay::default()
            };
            return Ok(Response::new(self.dry_run(filter, wanted, deadline).await?));
        }
        let new = NewReplay {
            replay: Uuid::now_v7(),
            filter,
            events_per_second: rate,
            rerun: asked.rerun,
            actor: caller.subject().to_owned(),
            request_id: request.request_id.parse().ok(),
        };
        let replay = Some(self.create(new).await?);
        Ok(Response::new(CreateReplayResponse { replay, ..CreateReplayResponse::default() }))
    }

    async fn get_replay(
        &self,
        request: Request<GetReplayRequest>,
    ) -> Result<Response<GetReplayResponse>, Status> {
        let name: ReplayName = parse("name", &validated(request)?.name)?;
        Ok(Response::new(GetReplayResponse { replay: Some(self.read(&name).await?) }))
    }

    async fn list_replays(
        &self,
        request: Request<ListReplaysRequest>,
    ) -> Result<Response<ListReplaysResponse>, Status> {
        let request = validated(request)?;
        let parent: AccountName = parse("parent", &request.parent)?;
        let list = ["replays", &request.parent];
        let before = page::id(&list, &request.page_token)?.unwrap_or(Uuid::max());
        let size = page::size(request.page_size);
        // One more tells whether there is another page.
        let mut rows =
            replays::list(&self.pool, &parent.account, before, size + 1).await.map_err(error::store)?;
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let next = (rows.len() > size).then(|| rows[size - 1].replay);
        rows.truncate(size);
        let replays: Result<_, _> = rows.into_iter().map(convert::replay).collect();
        Ok(Response::new(ListReplaysResponse {
            replays: replays.map_err(ApiError::internal)?,
            next_page_token: next.map(|id| page::id_token(&list, id)).unwrap_or_default(),
        }))
    }

    async fn cancel_replay(
        &self,
        request: Request<CancelReplayRequest>,
    ) -> Result<Response<CancelReplayResponse>, Status> {
        let caller = request.caller();
        let name: ReplayName = parse("name", &validated(request)?.name)?;
        replays::cancel(&self.pool, &name.account, uuid(&name), caller.subject())
            .await
            .map_err(error::store)?;
        let replay = Some(self.read(&name).await?);
        tracing::info!(replay = %name, actor = caller.subject(), "{name} was canceled");
        Ok(Response::new(CancelReplayResponse { replay }))
    }
}

impl ReplayHandler {
    /// Starts a replay, or finds the one that this very request has started.
    async fn create(&self, new: NewReplay) -> Result<Replay, Status> {
        let account = &new.filter.account;
        let created = replays::create(&self.pool, &new, MOST_RUNNING).await.map_err(error::store)?;
        if created {
            let name = ReplayName { account: account.clone(), replay: new.replay.into() };
            tracing::info!(replay = %name, actor = new.actor, "{name} was started");
            return self.read(&name).await;
        }
        let earlier = match new.request_id {
            Some(request_id) => {
                replays::of_request(&self.pool, account, request_id).await.map_err(error::store)?
            }
            None => None,
        };
        match earlier {
            Some(row) if new.is(&row) => Ok(convert::replay(row).map_err(ApiError::internal)?),
            Some(_) => Err(error::request_id_reused().into()),
            None => Err(error::too_many_replays(MOST_RUNNING).into()),
        }
    }

    async fn read(&self, name: &ReplayName) -> Result<Replay, Status> {
        let row = replays::get(&self.pool, &name.account, uuid(name)).await.map_err(error::store)?;
        let row = row.ok_or_else(|| error::replay_not_found(name))?;
        Ok(convert::replay(row).map_err(ApiError::internal)?)
    }

    /// Looks at events as the replay would, until its end or the call's.
    async fn dry_run(
        &self,
        filter: Filter,
        wanted: Replay,
        deadline: Option<Deadline>,
    ) -> Result<CreateReplayResponse, Status> {
        let mut connection = self.pool.acquire().await.map_err(error::store)?;
        let (mut count, mut sample, mut next) = (0, Vec::new(), Some(filter.start()));
        for _ in 0..LOOKS {
            let Some(after) = next else { break };
            if deadline.is_some_and(|deadline| deadline.remaining() < MARGIN) {
                break;
            }
            let look = replays::look(&mut connection, &filter, after, None, i64::MAX);
            let Look { places, next: further } = look.await.map_err(error::store)?;
            count += i64::try_from(places.len()).unwrap_or(i64::MAX);
            let missing = SAMPLE.saturating_sub(sample.len());
            sample.extend(places.into_iter().take(missing));
            next = further;
        }
        drop(connection);
        let rows = deliveries::in_places(&self.pool, &sample).await.map_err(error::store)?;
        let covered_to_time = next.map(|Key { accept_time, .. }| accept_time.to_wire());
        Ok(CreateReplayResponse {
            replay: Some(Replay { covered_to_time, ..wanted }),
            matched_count: count,
            matched_count_complete: next.is_none(),
            sample: page_of(&self.pool, rows, false).await?.0,
        })
    }
}

/// The id of a replay's name, which is one.
fn uuid(name: &ReplayName) -> Uuid {
    name.replay.as_str().parse().unwrap_or_default()
}

fn filter(parent: AccountName, wire: ReplayFilter) -> Result<Filter, Violations> {
    let mut states = Vec::with_capacity(wire.states.len());
    for (index, state) in wire.states().enumerate() {
        let may_run_again = matches!(
            state,
            DeliveryState::Succeeded
                | DeliveryState::NoFunction
                | DeliveryState::Expired
                | DeliveryState::DeadLettered
        );
        if !may_run_again {
            return Err(Violations::one(
                format!("replay.filter.states[{index}]"),
                "must be SUCCEEDED, NO_FUNCTION, EXPIRED or DEAD_LETTERED; what is HALTED is resumed or skipped, \
                 and what is SUPPRESSED never runs",
            ));
        }
        states.push(state as i16);
    }
    states.sort_unstable();
    states.dedup();
    let start_time = time("replay.filter.start_time", wire.start_time.as_ref())?.unwrap_or(Time::MIN);
    let end_time = time("replay.filter.end_time", wire.end_time.as_ref())?.unwrap_or(Time::MAX);
    if end_time <= start_time {
        return Err(Violations::one(
            "replay.filter.end_time",
            "must be after start_time: no event could match",
        ));
    }
    Ok(Filter {
        account: parent.account,
        states,
        template: optional("replay.filter.template", &wire.template)?,
        conversation_id: optional("replay.filter.conversation_id", &wire.conversation_id)?,
        start_time,
        end_time,
    })
}
