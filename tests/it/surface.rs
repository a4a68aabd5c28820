//! What every service offers besides its own methods: health and reflection.

use chatfn_rpc::Client;
use chatfn_tests::cluster::Cluster;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::{
    v1::{self, server_reflection_client::ServerReflectionClient},
    v1alpha,
};

/// The services of every server.
const COMMON: [&str; 3] = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

#[tokio::test]
async fn every_service_describes_itself_and_its_health() {
    let cluster = Cluster::start().await;
    for (client, services) in [
        (
            cluster.registry.client(),
            &[
                "chatfn.registry.v1.TemplateService",
                "chatfn.registry.v1.FunctionService",
                "chatfn.registry.v1.DeploymentWatchService",
                "chatfn.registry.v1.SecretService",
                "chatfn.registry.v1.SecretAccessService",
                "chatfn.registry.v1.AuditService",
            ][..],
        ),
        (cluster.invoker.client(), &["chatfn.invoker.v1.InvokerService"]),
        (
            cluster.event_ingest.client(),
            &[
                "chatfn.ingest.v1.EventIngestService",
                "chatfn.ingest.v1.DeliveryService",
                "chatfn.ingest.v1.ReplayService",
            ],
        ),
    ] {
        let listed = [list(client.clone()).await, list_alpha(client.clone()).await];
        // Its own services and what every server has; nothing that only another service answers.
        let mut expected = [services, &COMMON].concat();
        expected.sort_unstable();
        for mut listed in listed {
            listed.sort_unstable();
            assert_eq!(listed, expected);
        }
        for service in services.iter().copied().chain([""]) {
            let request = HealthCheckRequest { service: service.to_owned() };
            let answer = HealthClient::new(client.clone()).check(request).await.unwrap();
            assert_eq!(answer.get_ref().status(), ServingStatus::Serving, "{service:?}");
        }
    }
}

async fn list(client: Client) -> Vec<String> {
    use v1::{server_reflection_request::MessageRequest, server_reflection_response::MessageResponse};

    let request = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let stream = futures_util::stream::iter([request]);
    let mut answers =
        ServerReflectionClient::new(client).server_reflection_info(stream).await.unwrap().into_inner();
    match answers.message().await.unwrap().unwrap().message_response {
        Some(MessageResponse::ListServicesResponse(list)) => {
            list.service.into_iter().map(|it| it.name).collect()
        }
        other => panic!("{other:?}"),
    }
}

/// As [`list`], in the version that older tools (grpcurl 1.8 among them) speak.
async fn list_alpha(client: Client) -> Vec<String> {
    use v1alpha::{
        server_reflection_client::ServerReflectionClient, server_reflection_request::MessageRequest,
        server_reflection_response::MessageResponse,
    };

    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let stream = futures_util::stream::iter([request]);
    let mut answers =
        ServerReflectionClient::new(client).server_reflection_info(stream).await.unwrap().into_inner();
    match answers.message().await.unwrap().unwrap().message_response {
        Some(MessageResponse::ListServicesResponse(list)) => {
            list.service.into_iter().map(|it| it.name).collect()
        }
        other => panic!("{other:?}"),
    }
}
