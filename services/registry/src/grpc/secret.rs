//! `SecretService` and `SecretAccessService`.

use chatfn_domain::name::{AccountName, SecretName};
use chatfn_proto::{
    convert::parse,
    registry::v1::{
        AccessSecretRequest, AccessSecretResponse, DeleteSecretRequest, DeleteSecretResponse,
        GetSecretRequest, GetSecretResponse, ListSecretsRequest, ListSecretsResponse, SetSecretRequest,
        SetSecretResponse, secret_access_service_server::SecretAccessService,
        secret_service_server::SecretService,
    },
    validate::validated,
};
use chatfn_rpc::RequestExt as _;
use tonic::{Request, Response, Status};

use super::wire as to_wire;
use crate::{metrics::RegistryMetrics, mutation::Mutation, secrets::Secrets};

/// Secrets for admins, without their values.
#[derive(Debug)]
pub(crate) struct SecretHandler(pub(crate) Secrets);

#[tonic::async_trait]
impl SecretService for SecretHandler {
    async fn set_secret(
        &self,
        request: Request<SetSecretRequest>,
    ) -> Result<Response<SetSecretResponse>, Status> {
        let caller = request.caller();
        let mut request = validated(request)?;
        let mutation = self.0.mutation(&caller, &mut request)?;
        let SetSecretRequest { parent, key, value, etag, request_id: _ } = request;
        let value = value.into();
        let AccountName { account } = parse("parent", &parent)?;
        let name = SecretName { account, key: parse("key", &key)? };
        Ok(Response::new(self.0.set(name, value, &etag, mutation).await?))
    }

    async fn get_secret(
        &self,
        request: Request<GetSecretRequest>,
    ) -> Result<Response<GetSecretResponse>, Status> {
        let request = validated(request)?;
        let secret = self.0.get(parse("name", &request.name)?).await?;
        Ok(Response::new(GetSecretResponse { secret: Some(to_wire::secret(secret)) }))
    }

    async fn list_secrets(
        &self,
        request: Request<ListSecretsRequest>,
    ) -> Result<Response<ListSecretsResponse>, Status> {
        let request = validated(request)?;
        let AccountName { account } = parse("parent", &request.parent)?;
        let page = self.0.list(&account, request.page_size, &request.page_token).await?;
        Ok(Response::new(ListSecretsResponse { secrets: page.items, next_page_token: page.next_token }))
    }

    async fn delete_secret(
        &self,
        request: Request<DeleteSecretRequest>,
    ) -> Result<Response<DeleteSecretResponse>, Status> {
        let caller = request.caller();
        let mut request = validated(request)?;
        let mutation = Mutation::of(&caller, &mut request);
        Ok(Response::new(self.0.delete(parse("name", &request.name)?, &request.etag, mutation).await?))
    }
}

/// Values of secrets, for invokers.
#[derive(Debug)]
pub(crate) struct SecretAccessHandler {
    pub(crate) secrets: Secrets,
    pub(crate) metrics: RegistryMetrics,
}

#[tonic::async_trait]
impl SecretAccessService for SecretAccessHandler {
    async fn access_secret(
        &self,
        request: Request<AccessSecretRequest>,
    ) -> Result<Response<AccessSecretResponse>, Status> {
        let request = validated(request)?;
        let accessed = self.secrets.access(parse("name", &request.name)?).await;
        self.metrics.accessed(&accessed);
        let (value, revision) = accessed?;
        Ok(Response::new(AccessSecretResponse { value, revision }))
    }
}
