//! `AuditService`.

use chatfn_domain::name::AccountName;
use chatfn_proto::{
    convert::parse,
    registry::v1::{ListAuditEntriesRequest, ListAuditEntriesResponse, audit_service_server::AuditService},
    validate::validated,
};
use sqlx::PgPool;
use tonic::{Request, Response, Status};

use crate::audit::{self, Filter};

/// Who changed what.
#[derive(Debug)]
pub(crate) struct AuditHandler(pub(crate) PgPool);

#[tonic::async_trait]
impl AuditService for AuditHandler {
    async fn list_audit_entries(
        &self,
        request: Request<ListAuditEntriesRequest>,
    ) -> Result<Response<ListAuditEntriesResponse>, Status> {
        let ListAuditEntriesRequest { parent, page_size, page_token, resource, start_time, end_time } =
            validated(request)?;
        let AccountName { account } = parse("parent", &parent)?;
        let filter = Filter { resource, start_time, end_time };
        let page = audit::list(&self.0, &account, filter, page_size, &page_token).await?;
        Ok(Response::new(ListAuditEntriesResponse { entries: page.items, next_page_token: page.next_token }))
    }
}
