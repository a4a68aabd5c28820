//! `FunctionService`.

use chatfn_domain::name::{AccountName, FunctionName, TemplateName, VersionName, VersionNumber};
use chatfn_proto::{
    convert::parse,
    registry::v1::{
        CreateFunctionRequest, CreateFunctionResponse, DeleteFunctionRequest, DeleteFunctionResponse,
        DeployFunctionRequest, DeployFunctionResponse, GetFunctionRequest, GetFunctionResponse,
        GetVersionRequest, GetVersionResponse, ListFunctionsRequest, ListFunctionsResponse,
        ListVersionsRequest, ListVersionsResponse, UndeployFunctionRequest, UndeployFunctionResponse,
        UpdateFunctionRequest, UpdateFunctionResponse, function_service_server::FunctionService,
    },
    validate::{Violations, validated},
};
use chatfn_rpc::RequestExt as _;
use tonic::{Request, Response, Status};

use super::wire as to_wire;
use crate::{
    deploy::Deploy,
    draft::check_text,
    functions::{FunctionFilter, Registry},
    mutation::Mutation,
};

/// The life of a function.
#[derive(Debug)]
pub(crate) struct FunctionHandler(pub(crate) Registry);

#[tonic::async_trait]
impl FunctionService for FunctionHandler {
    async fn create_function(
        &self,
        request: Request<CreateFunctionRequest>,
    ) -> Result<Response<CreateFunctionResponse>, Status> {
        let caller = request.caller();
        let mut request = validated(request)?;
        let mutation = Mutation::of(&caller, &mut request);
        let AccountName { account } = parse("parent", &request.parent)?;
        let template: TemplateName = parse("template", &request.template)?;
        let name = FunctionName { account, template };
        let function = request.function.unwrap_or_default();
        Ok(Response::new(self.0.create(name, function, mutation).await?))
    }

    async fn get_function(
        &self,
        request: Request<GetFunctionRequest>,
    ) -> Result<Response<GetFunctionResponse>, Status> {
        let request = validated(request)?;
        let function = self.0.get(&parse("name", &request.name)?).await?;
        Ok(Response::new(GetFunctionResponse { function: Some(to_wire::function(function)) }))
    }

    async fn list_functions(
        &self,
        request: Request<ListFunctionsRequest>,
    ) -> Result<Response<ListFunctionsResponse>, Status> {
        let request = validated(request)?;
        let AccountName { account } = parse("parent", &request.parent)?;
        let state = request.state();
        let filter = FunctionFilter { state, template: template_filter(request.template)? };
        let page = self.0.list(&account, filter, request.page_size, &request.page_token).await?;
        Ok(Response::new(ListFunctionsResponse { functions: page.items, next_page_token: page.next_token }))
    }

    async fn update_function(
        &self,
        request: Request<UpdateFunctionRequest>,
    ) -> Result<Response<UpdateFunctionResponse>, Status> {
        let caller = request.caller();
        let mut request = validated(request)?;
        let mutation = Mutation::of(&caller, &mut request);
        let function = request.function.ok_or_else(|| Violations::one("function", "is required"))?;
        let name = parse("function.name", &function.name)?;
        Ok(Response::new(self.0.update(&name, function, request.update_mask, mutation).await?))
    }

    async fn delete_function(
        &self,
        request: Request<DeleteFunctionRequest>,
    ) -> Result<Response<DeleteFunctionResponse>, Status> {
        let caller = request.caller();
        let mut request = validated(request)?;
        let mutation = Mutation::of(&caller, &mut request);
        Ok(Response::new(self.0.delete(&parse("name", &request.name)?, &request.etag, mutation).await?))
    }

    async fn deploy_function(
        &self,
        request: Request<DeployFunctionRequest>,
    ) -> Result<Response<DeployFunctionResponse>, Status> {
        let (caller, context) = (request.caller(), request.context());
        let mut request = validated(request)?;
        let mutation = Mutation::of(&caller, &mut request);
        check_text("message", &request.message)?;
        let deploy = Deploy {
            name: parse("name", &request.name)?,
            version: VersionNumber::new(request.version),
            etag: request.etag,
            message: request.message,
        };
        Ok(Response::new(self.0.deploy(deploy, mutation, &context).await?))
    }

    async fn undeploy_function(
        &self,
        request: Request<UndeployFunctionRequest>,
    ) -> Result<Response<UndeployFunctionResponse>, Status> {
        let (caller, context) = (request.caller(), request.context());
        let mut request = validated(request)?;
        let mutation = Mutation::of(&caller, &mut request);
        let name = parse("name", &request.name)?;
        Ok(Response::new(self.0.undeploy(&name, &request.etag, mutation, &context).await?))
    }

    async fn get_version(
        &self,
        request: Request<GetVersionRequest>,
    ) -> Result<Response<GetVersionResponse>, Status> {
        let request = validated(request)?;
        let name: VersionName = parse("name", &request.name)?;
        let version = self.0.version(&name).await?;
        Ok(Response::new(GetVersionResponse { version: Some(to_wire::version(&name.function(), version)) }))
    }

    async fn list_versions(
        &self,
        request: Request<ListVersionsRequest>,
    ) -> Result<Response<ListVersionsResponse>, Status> {
        let request = validated(request)?;
        let function = parse("parent", &request.parent)?;
        let page = self.0.list_versions(&function, request.page_size, &request.page_token).await?;
        Ok(Response::new(ListVersionsResponse { versions: page.items, next_page_token: page.next_token }))
    }
}

/// The text of a filter by template, which lets the template itself through or, with a final `.*`, all that begin so.
fn template_filter(text: String) -> Result<String, Violations> {
    let example = text.strip_suffix(".*").map_or_else(|| text.clone(), |start| format!("{start}.x"));
    if !text.is_empty() && example.parse::<TemplateName>().is_err() {
        return Err(Violations::one(
            "template",
            "must be a template such as chat.in_queue, or chat.* for all of chat",
        ));
    }
    Ok(text)
}
