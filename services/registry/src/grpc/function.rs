//! `FunctionService`.

use chatfn_domain::name::{AccountName, FunctionName, TemplateName, VersionName, VersionNumber};
use chatfn_proto::{
    convert::parse,
    registry::v1::{
        self as wire, CreateFunctionRequest, CreateFunctionResponse, DeleteFunctionRequest,
        DeleteFunctionResponse, DeployFunctionRequest, DeployFunctionResponse, GetFunctionRequest,
        GetFunctionResponse, GetVersionRequest, GetVersionResponse, ListFunctionsRequest,
        ListFunctionsResponse, ListVersionsRequest, ListVersionsResponse, UndeployFunctionRequest,
        UndeployFunctionResponse, UpdateFunctionRequest, UpdateFunctionResponse,
        function_service_server::FunctionService,
    },
    validate::{Violations, validated},
};
use chatfn_rpc::RequestExt as _;
use tonic::{Request, Response, Status};

use super::wire as to_wire;
use crate::{deploy::Deploy, draft::check_text, functions::Registry};

/// The life of a function.
#[derive(Debug)]
pub(crate) struct FunctionHandler(pub(crate) Registry);

#[tonic::async_trait]
impl FunctionService for FunctionHandler {
    async fn create_function(
        &self,
        request: Request<CreateFunctionRequest>,
    ) -> Result<Response<CreateFunctionResponse>, Status> {
        let request = validated(request)?;
        let AccountName { account } = parse("parent", &request.parent)?;
        let template: TemplateName = parse("template", &request.template)?;
        let name = FunctionName { account, template };
        let function = self.0.create(name, request.function.unwrap_or_default()).await?;
        Ok(Response::new(CreateFunctionResponse { function: Some(to_wire::function(function)) }))
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
        let page = self.0.list(&account, request.state(), request.page_size, &request.page_token).await?;
        Ok(Response::new(ListFunctionsResponse { functions: page.items, next_page_token: page.next_token }))
    }

    async fn update_function(
        &self,
        request: Request<UpdateFunctionRequest>,
    ) -> Result<Response<UpdateFunctionResponse>, Status> {
        let request = validated(request)?;
        let function = request.function.ok_or_else(|| Violations::one("function", "is required"))?;
        let name = parse("function.name", &function.name)?;
        let function = self.0.update(&name, function, request.update_mask).await?;
        Ok(Response::new(UpdateFunctionResponse { function: Some(to_wire::function(function)) }))
    }

    async fn delete_function(
        &self,
        request: Request<DeleteFunctionRequest>,
    ) -> Result<Response<DeleteFunctionResponse>, Status> {
        let request = validated(request)?;
        self.0.delete(&parse("name", &request.name)?, &request.etag).await?;
        Ok(Response::new(DeleteFunctionResponse {}))
    }

    async fn deploy_function(
        &self,
        request: Request<DeployFunctionRequest>,
    ) -> Result<Response<DeployFunctionResponse>, Status> {
        let context = request.context();
        let request = validated(request)?;
        check_text("message", &request.message)?;
        let name: FunctionName = parse("name", &request.name)?;
        let deploy = Deploy {
            name: name.clone(),
            version: VersionNumber::new(request.version),
            etag: request.etag,
            message: request.message,
        };
        let (function, version, propagation) = self.0.deploy(deploy, &context).await?;
        let version = wire::Version { source: String::new(), ..to_wire::version(&name, version) };
        Ok(Response::new(DeployFunctionResponse {
            function: Some(to_wire::function(function)),
            version: Some(version),
            propagation: Some(propagation),
        }))
    }

    async fn undeploy_function(
        &self,
        request: Request<UndeployFunctionRequest>,
    ) -> Result<Response<UndeployFunctionResponse>, Status> {
        let context = request.context();
        let request = validated(request)?;
        let name = parse("name", &request.name)?;
        let (function, propagation) = self.0.undeploy(&name, &request.etag, &context).await?;
        Ok(Response::new(UndeployFunctionResponse {
            function: Some(to_wire::function(function)),
            propagation: Some(propagation),
        }))
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
