//! `TemplateService`.

use chatfn_domain::name::TemplateResource;
use chatfn_proto::{
    convert::parse,
    registry::v1::{
        GetTemplateRequest, GetTemplateResponse, ListTemplatesRequest, ListTemplatesResponse,
        template_service_server::TemplateService,
    },
    validate::validated,
};
use tonic::{Request, Response, Status};

use crate::functions::Registry;

/// The catalogue, read only.
#[derive(Debug)]
pub(crate) struct TemplateHandler(pub(crate) Registry);

#[tonic::async_trait]
impl TemplateService for TemplateHandler {
    async fn list_templates(
        &self,
        request: Request<ListTemplatesRequest>,
    ) -> Result<Response<ListTemplatesResponse>, Status> {
        validated(request)?;
        Ok(Response::new(ListTemplatesResponse { templates: self.0.catalogue.all().to_vec() }))
    }

    async fn get_template(
        &self,
        request: Request<GetTemplateRequest>,
    ) -> Result<Response<GetTemplateResponse>, Status> {
        let request = validated(request)?;
        let TemplateResource { template } = parse("name", &request.name)?;
        let template = self.0.template(&template)?.clone();
        Ok(Response::new(GetTemplateResponse { template: Some(template) }))
    }
}
