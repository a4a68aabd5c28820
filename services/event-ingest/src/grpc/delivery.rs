//! `DeliveryService`.

use chatfn_domain::name::{AccountName, ConversationName, DeliveryName, TemplateName};
use chatfn_proto::{
    convert::parse,
    ingest::v1::{
        Delivery, GetConversationRequest, GetConversationResponse, GetDeliveryRequest, GetDeliveryResponse,
        ListDeliveriesRequest, ListDeliveriesResponse, delivery_service_server::DeliveryService,
    },
    validate::validated,
};
use chatfn_rpc::{ApiError, MAX_MESSAGE_BYTES};
use prost::Message as _;
use sqlx::PgPool;
use tonic::{Request, Response, Status};

use super::{convert, page};
use crate::{
    error,
    store::{
        Time,
        deliveries::{self, DeliveryRow, Filter, Key},
    },
};

/// Most bytes of a page's deliveries, unless the first alone has more.
const MAX_PAGE_BYTES: usize = MAX_MESSAGE_BYTES / 2;

/// Accounts for every event.
pub(crate) struct DeliveryHandler {
    pub(crate) pool: PgPool,
}

#[tonic::async_trait]
impl DeliveryService for DeliveryHandler {
    async fn get_delivery(
        &self,
        request: Request<GetDeliveryRequest>,
    ) -> Result<Response<GetDeliveryResponse>, Status> {
        let request = validated(request)?;
        let name: DeliveryName = parse("name", &request.name)?;
        let row = deliveries::get(&self.pool, &name.account, &name.event_id).await.map_err(error::store)?;
        let row = row.ok_or_else(|| error::delivery_not_found(&name))?;
        let delivery = self.with_attempts(vec![row], true).await?.pop();
        Ok(Response::new(GetDeliveryResponse { delivery }))
    }

    async fn list_deliveries(
        &self,
        request: Request<ListDeliveriesRequest>,
    ) -> Result<Response<ListDeliveriesResponse>, Status> {
        let request = validated(request)?;
        let parent: AccountName = parse("parent", &request.parent)?;
        let template: Option<TemplateName> = match request.template.as_str() {
            "" => None,
            template => Some(parse("template", template)?),
        };
        let state = i16::try_from(request.state).ok().filter(|state| *state != 0);
        let list = ["list", &request.parent, &request.state.to_string(), &request.template];
        let after = page::position(&list, &request.page_token)?.unwrap_or(Key::START);
        let filter = Filter { account: parent.account, state, template };
        let (rows, next) = deliveries::list(&self.pool, &filter, after, page::size(request.page_size))
            .await
            .map_err(error::store)?;
        let keys: Vec<Key> = rows.iter().map(DeliveryRow::key).collect();
        let (deliveries, cut) = fitting(self.with_attempts(rows, false).await?);
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
        let after = page::position(&list, &request.page_token)?.map_or(0, |key| key.sequence);
        let size = page::size(request.page_size);
        // One more tells whether there is another page.
        let mut rows =
            deliveries::conversation(&self.pool, &name.account, &name.conversation_id, after, size + 1)
                .await
                .map_err(error::store)?;
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let mut next = (rows.len() > size).then(|| rows[size - 1].sequence);
        rows.truncate(size);
        let (deliveries, cut) = fitting(self.with_attempts(rows, false).await?);
        if cut.is_some() {
            next = deliveries.last().map(|delivery| delivery.sequence);
        }
        let key = |sequence| Key { accept_time: Time::from_micros(0), lane: 0, sequence };
        let next_page_token = next.map(|sequence| page::token(&list, key(sequence))).unwrap_or_default();
        Ok(Response::new(GetConversationResponse { deliveries, next_page_token }))
    }
}

impl DeliveryHandler {
    async fn with_attempts(&self, rows: Vec<DeliveryRow>, in_full: bool) -> Result<Vec<Delivery>, Status> {
        let attempts = deliveries::attempts(&self.pool, &rows).await.map_err(error::store)?;
        Ok(convert::deliveries(rows, attempts, in_full).map_err(ApiError::internal)?)
    }
}

/// As many deliveries as fit into a page, and the index of the last one if others do not fit.
fn fitting(mut deliveries: Vec<Delivery>) -> (Vec<Delivery>, Option<usize>) {
    let mut bytes = 0;
    let fit = deliveries
        .iter()
        .take_while(|delivery| {
            bytes += delivery.encoded_len();
            bytes <= MAX_PAGE_BYTES
        })
        .count()
        .max(1);
    let cut = (fit < deliveries.len()).then_some(fit - 1);
    deliveries.truncate(fit);
    (deliveries, cut)
}
