//! A registry that knows the draft of the tests' function, and nothing else.

use chatfn_domain::settings::FunctionSettings;
use chatfn_proto::{
    convert::from_settings,
    registry::v1::{
        CreateFunctionRequest, CreateFunctionResponse, DeleteFunctionRequest, DeleteFunctionResponse,
        DeployFunctionRequest, DeployFunctionResponse, Function, GetFunctionRequest, GetFunctionResponse,
        GetVersionRequest, GetVersionResponse, ListFunctionsRequest, ListFunctionsResponse,
        ListVersionsRequest, ListVersionsResponse, UndeployFunctionRequest, UndeployFunctionResponse,
        UpdateFunctionRequest, UpdateFunctionResponse,
        function_service_server::{FunctionService, FunctionServiceServer},
    },
};
use chatfn_rpc::{ApiError, Server, ServerConfig, Shutdown, reasons};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

use crate::FUNCTION;

struct Draft(Function);

/// Serves the draft until the test ends, and says where.
pub(crate) async fn serve(source: &str, settings: &FunctionSettings) -> String {
    let function = Function {
        name: FUNCTION.into(),
        source: source.into(),
        settings: Some(from_settings(settings)),
        ..Function::default()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    let server = Server::builder(ServerConfig::default())
        .service(FunctionServiceServer::new(Draft(function)))
        .build()
        .await
        .unwrap();
    tokio::spawn(server.serve(listener, Shutdown::new().soft()));
    uri
}

type Answer<T> = Result<Response<T>, Status>;

fn none<T>() -> Answer<T> {
    Err(Status::unimplemented("the invoker has no business here"))
}

#[tonic::async_trait]
impl FunctionService for Draft {
    async fn get_function(&self, request: Request<GetFunctionRequest>) -> Answer<GetFunctionResponse> {
        let name = request.into_inner().name;
        if name != self.0.name {
            return Err(ApiError::not_found(reasons::FUNCTION_NOT_FOUND, "function", &name).into());
        }
        Ok(Response::new(GetFunctionResponse { function: Some(self.0.clone()) }))
    }

    async fn create_function(&self, _: Request<CreateFunctionRequest>) -> Answer<CreateFunctionResponse> {
        none()
    }

    async fn list_functions(&self, _: Request<ListFunctionsRequest>) -> Answer<ListFunctionsResponse> {
        none()
    }

    async fn update_function(&self, _: Request<UpdateFunctionRequest>) -> Answer<UpdateFunctionResponse> {
        none()
    }

    async fn delete_function(&self, _: Request<DeleteFunctionRequest>) -> Answer<DeleteFunctionResponse> {
        none()
    }

    async fn deploy_function(&self, _: Request<DeployFunctionRequest>) -> Answer<DeployFunctionResponse> {
        none()
    }

    async fn undeploy_function(
        &self,
        _: Request<UndeployFunctionRequest>,
    ) -> Answer<UndeployFunctionResponse> {
        none()
    }

    async fn list_versions(&self, _: Request<ListVersionsRequest>) -> Answer<ListVersionsResponse> {
        none()
    }

    async fn get_version(&self, _: Request<GetVersionRequest>) -> Answer<GetVersionResponse> {
        none()
    }
}
