//! `DeliveryService`.

use std::str::FromStr;

use chatfn_domain::name::{AccountName, ConversationName, DeliveryName, EventId, NameError, TemplateName};
use chatfn_proto::{
    convert::parse,
    ingest::v1::{
        Delivery, DeliveryState, GetConversationRequest, GetConversationResponse, GetDeliveryRequest,
        GetDeliveryResponse, ListDeliveriesRequest, ListDeliveriesResponse, ReconcileRequest,
        ReconcileResponse, ResumeConversationRequest, ResumeConversationResponse, SkipEventRequest,
        SkipEventResponse, TailDeliveriesRequest, TailDeliveriesResponse,
        delivery_service_server::DeliveryService,
    },
    validate::{Violations, validated},
};
use chatfn_rpc::{ApiError, MAX_MESSAGE_BYTES, RequestExt as _};
use prost::Message;
use sqlx::PgPool;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{convert, ledger, page, tail::Tails};
use crate::{
    dispatch::Interventions,
    error,
    store::{
        Time,
        deliveries::{self, DeliveryRow, Filter, Key},
        interventions::{self, Action, Asking},
    },
};

/// Most bytes of a page's deliveries, unless the first alone has more.
const MAX_PAGE_BYTES: usize = MAX_MESSAGE_BYTES / 2;

/// Accounts for every event.
pub(crate) struct DeliveryHandler {
    pub(crate) pool: PgPool,
    pub(crate) interventions: Interventions,
    pub(crate) tails: Tails,
}

#[tonic::async_trait]
impl DeliveryService for DeliveryHandler {
    type TailDeliveriesStream = ReceiverStream<Result<TailDeliveriesResponse, Status>>;

    async fn get_delivery(
        &self,
        request: Request<GetDeliveryRequest>,
    ) -> Result<Response<GetDeliveryResponse>, Status> {
        let request = validated(request)?;
        let name: DeliveryName = parse("name", &request.name)?;
        let row = deliveries::get(&self.pool, &name.account, &name.event_id).await.map_err(error::store)?;
        let row = row.ok_or_else(|| error::delivery_not_found(&name))?;
        let delivery = with_attempts(&self.pool, vec![row], true).await?.pop();
        Ok(Response::new(GetDeliveryResponse { delivery }))
    }

    async fn list_deliveries(
        &self,
        request: Request<ListDeliveriesRequest>,
    ) -> Result<Response<ListDeliveriesResponse>, Status> {
        let request = validated(request)?;
        let parent: AccountName = parse("parent", &request.parent)?;
        let template: Option<TemplateName> = optional("template", &request.template)?;
        let state = i16::try_from(request.state).ok().filter(|state| *state != 0);
        let list = ["list", &request.parent, &request.state.to_string(), &request.template];
        let after = page::position(&list, &request.page_token)?.unwrap_or(Key::START);
        let filter = Filter { account: parent.account, state, template };
        let (rows, next) = deliveries::list(&self.pool, &filter, after, page::size(request.page_size))
            .await
            .map_err(error::store)?;
        let keys: Vec<Key> = rows.iter().map(DeliveryRow::key).collect();
        let (deliveries, cut) = page_of(&self.pool, rows, request.include_logs).await?;
        let next = cut.map(|at| keys[at]).or(next);
        let next_page_token = next.map(|key| page::token(&list, key)).unwrap_or_default();
        Ok(Response::new(ListDeliveriesResponse { deliveries, next_page_token }))
    }

    async fn get_conversation(
        &self,
        request: Request<GetConversationRequest>,
    ) -> Result<Response<GetConversationResponse>, Status> {
        let request = validated(request)?;
        let name: ConversationName = parse("name", &request.name)?;
        let list = ["conversation", &request.name];
        let after = page::position(&list, &request.page_token)?.unwrap_or(Key::at(Time::MIN));
        let size = page::size(request.page_size);
        // One more tells whether there is another page.
        let mut rows =
            deliveries::conversation(&self.pool, &name.account, &name.conversation_id, after, size + 1)
                .await
                .map_err(error::store)?;
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let more = (rows.len() > size).then(|| size - 1);
        rows.truncate(size);
        let keys: Vec<Key> = rows.iter().map(DeliveryRow::key).collect();
        let (deliveries, cut) = page_of(&self.pool, rows, request.include_logs).await?;
        let next_page_token = cut.or(more).map(|at| page::token(&list, keys[at])).unwrap_or_default();
        Ok(Response::new(GetConversationResponse { deliveries, next_page_token }))
    }

    async fn resume_conversation(
        &self,
        request: Request<ResumeConversationRequest>,
    ) -> Result<Response<ResumeConversationResponse>, Status> {
        let actor = request.caller().subject().to_owned();
        let request = validated(request)?;
        let name: ConversationName = parse("name", &request.name)?;
        let event_id: Option<EventId> = optional("event_id", &request.event_id)?;
        let halted = deliveries::halted(&self.pool, &name.account, &name.conversation_id)
            .await
            .map_err(error::store)?
            .ok_or_else(|| error::not_halted(&request.name, None))?;
        let at = delivery_name(&halted)?;
        if let Some(event_id) = event_id.filter(|event_id| *event_id != at.event_id) {
            let subject = DeliveryName { event_id, ..at.clone() }.to_string();
            return Err(error::not_halted(&subject, Some(&at)).into());
        }
        let delivery = Some(self.ask(halted, &at, Action::Resume, &actor).await?);
        Ok(Response::new(ResumeConversationResponse { delivery }))
    }

    async fn skip_event(
        &self,
        request: Request<SkipEventRequest>,
    ) -> Result<Response<SkipEventResponse>, Status> {
        let actor = request.caller().subject().to_owned();
        let request = validated(request)?;
        let name: DeliveryName = parse("name", &request.name)?;
        let row = deliveries::get(&self.pool, &name.account, &name.event_id).await.map_err(error::store)?;
        let row = row.ok_or_else(|| error::delivery_not_found(&name))?;
        if row.state != DeliveryState::Halted as i16 {
            let conversation = row.conversation_id.parse().map_err(ApiError::internal)?;
            let halted =
                deliveries::halted(&self.pool, &name.account, &conversation).await.map_err(error::store)?;
            let at = halted.as_ref().map(delivery_name).transpose()?;
            return Err(error::not_halted(&request.name, at.as_ref()).into());
        }
        let delivery = Some(self.ask(row, &name, Action::Skip, &actor).await?);
        Ok(Response::new(SkipEventResponse { delivery }))
    }

    async fn tail_deliveries(
        &self,
        request: Request<TailDeliveriesRequest>,
    ) -> Result<Response<Self::TailDeliveriesStream>, Status> {
        let stream = self.tails.start(validated(request)?).await?;
        Ok(Response::new(stream))
    }

    async fn reconcile(
        &self,
        request: Request<ReconcileRequest>,
    ) -> Result<Response<ReconcileResponse>, Status> {
        Ok(Response::new(ledger::reconcile(&self.pool, validated(request)?).await?))
    }
}

impl DeliveryHandler {
    /// Asks the owner of a halted delivery's lane for an action.
    async fn ask(
        &self,
        halted: DeliveryRow,
        name: &DeliveryName,
        action: Action,
        actor: &str,
    ) -> Result<Delivery, Status> {
        let (lane, sequence) = (halted.lane, halted.sequence);
        let delivery = with_attempts(&self.pool, vec![halted], true).await?.pop().unwrap_or_default();
        match interventions::ask(&self.pool, lane, sequence, action, actor).await.map_err(error::store)? {
            Asking::Recorded => self.interventions.ring(lane),
            Asking::OtherPending => return Err(error::intervention_pending(name).into()),
            Asking::NotHalted => return Err(error::not_halted(&name.to_string(), None).into()),
        }
        Ok(delivery)
    }
}

fn delivery_name(row: &DeliveryRow) -> Result<DeliveryName, ApiError> {
    let parse = || {
        Ok::<_, NameError>(DeliveryName { account: row.account.parse()?, event_id: row.event_id.parse()? })
    };
    parse().map_err(ApiError::internal)
}

/// Parses the text of a field, unless it is empty.
pub(super) fn optional<T: FromStr<Err = NameError>>(
    field: &str,
    text: &str,
) -> Result<Option<T>, Violations> {
    if text.is_empty() { Ok(None) } else { parse(field, text).map(Some) }
}

/// Deliveries with their attempts and history.
pub(super) async fn with_attempts(
    pool: &PgPool,
    rows: Vec<DeliveryRow>,
    in_full: bool,
) -> Result<Vec<Delivery>, Status> {
    let attempts = deliveries::attempts(pool, &rows).await.map_err(error::store)?;
    let past = deliveries::past(pool, &rows).await.map_err(error::store)?;
    Ok(convert::deliveries(rows, attempts, past, in_full).map_err(ApiError::internal)?)
}

/// As many of these deliveries as fit into a message, at least one, with their attempts and history; and the index of the
/// last one if others do not fit.
pub(super) async fn page_of(
    pool: &PgPool,
    mut rows: Vec<DeliveryRow>,
    in_full: bool,
) -> Result<(Vec<Delivery>, Option<usize>), Status> {
    // Before they are read, by the weight of their attempts; and after, by what they weigh then.
    let weights = deliveries::weights(pool, &rows).await.map_err(error::store)?;
    let count = rows.len();
    rows.truncate(fitting(weights));
    let mut deliveries = with_attempts(pool, rows, in_full).await?;
    deliveries.truncate(fitting(deliveries.iter().map(Message::encoded_len)));
    let cut = (deliveries.len() < count).then(|| deliveries.len().saturating_sub(1));
    Ok((deliveries, cut))
}

/// How many of these fit together into a page, at least one.
fn fitting(weights: impl IntoIterator<Item = usize>) -> usize {
    let mut bytes = 0;
    let fits = |weight: &usize| {
        bytes += weight;
        bytes <= MAX_PAGE_BYTES
    };
    weights.into_iter().take_while(fits).count().max(1)
}
