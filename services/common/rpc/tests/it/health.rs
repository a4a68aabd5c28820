//! Health and reflection.

use std::time::Duration;

use chatfn_rpc::{
    ClientConfig, MethodPolicy, RequestExt, SecurityConfig, ServeError, Server, ServerConfig, bind, connect,
};
use futures_util::{StreamExt, stream};
use prost::Message;
use prost_types::{FileDescriptorProto, FileDescriptorSet, ServiceDescriptorProto};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::{v1, v1alpha};

use crate::support::{Probe, start, start_with, within};

fn about(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

#[tokio::test]
async fn not_serving_until_ready() {
    let server = start(Probe::new()).await;
    let mut client = HealthClient::new(server.client());
    for service in ["", "chatfn.test.v1.Probe"] {
        let status = client.check(about(service)).await.expect("an answer").into_inner().status();
        assert_eq!(status, ServingStatus::NotServing, "{service:?}");
    }
    server.health.set_ready().await;
    for service in ["", "chatfn.test.v1.Probe"] {
        let status = client.check(about(service)).await.expect("an answer").into_inner().status();
        assert_eq!(status, ServingStatus::Serving, "{service:?}");
    }
    let unknown = client.check(about("nobody")).await.expect_err("no such service");
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test]
async fn a_drain_says_so_first_and_ends_the_watches() {
    let server = start(Probe::new()).await;
    server.health.set_ready().await;
    let mut client = HealthClient::new(server.client());
    let mut watch = client.watch(about("")).await.expect("a stream").into_inner();
    let first = within(watch.message()).await.expect("no error").expect("a message").status();
    assert_eq!(first, ServingStatus::Serving);

    server.shutdown.cancel();
    let second = within(watch.message()).await.expect("no error").expect("a message").status();
    assert_eq!(second, ServingStatus::NotServing);
    assert_eq!(within(watch.message()).await.expect_err("ended").code(), Code::Unavailable);
    assert_eq!(within(server.served).await.expect("no panic").cut, 0, "a watch holds up no drain");
}

#[tokio::test]
async fn calls_are_answered_during_the_delay_of_a_drain() {
    let config = ServerConfig { drain_delay: Duration::from_secs(3600), ..ServerConfig::default() };
    let server = start_with(Probe::new(), config).await;
    server.health.set_ready().await;
    let mut client = HealthClient::new(server.client());
    let mut watch = client.watch(about("")).await.expect("a stream").into_inner();
    assert!(within(watch.message()).await.expect("no error").is_some());
    server.shutdown.cancel();
    let status = within(watch.message()).await.expect("no error").expect("a message").status();
    assert_eq!(status, ServingStatus::NotServing);

    // A new connection, as a load balancer that has not noticed yet would make.
    let mut late = HealthClient::new(server.client());
    let status = late.check(about("")).await.expect("still served").into_inner().status();
    assert_eq!(status, ServingStatus::NotServing);
}

#[tokio::test]
async fn both_reflections_list_the_service() {
    let file = FileDescriptorProto {
        name: Some("probe.proto".to_owned()),
        package: Some("chatfn.test.v1".to_owned()),
        service: ["Probe", "ServedElsewhere"]
            .map(|name| ServiceDescriptorProto { name: Some(name.to_owned()), ..Default::default() })
            .into(),
        ..Default::default()
    };
    let set = FileDescriptorSet { file: vec![file] }.encode_to_vec().leak();
    let server = Server::builder(ServerConfig::default()).service(Probe::new()).descriptors(set);
    let server = server.build().await.expect("a valid server");
    let listener = bind("127.0.0.1:0".parse().expect("an address"), &SecurityConfig::default())
        .await
        .expect("a free port");
    let uri = format!("http://{}", listener.local_addr().expect("bound")).parse().expect("a URI");
    let shutdown = CancellationToken::new();
    let served = tokio::spawn(server.serve(listener, shutdown.clone()));
    let client = connect(ClientConfig::new(uri)).expect("a valid configuration");

    let request = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1::server_reflection_request::MessageRequest::ListServices(String::new())),
    };
    let mut reflection = v1::server_reflection_client::ServerReflectionClient::new(client.clone());
    let open = Request::new(stream::iter([request]).chain(stream::pending())).without_deadline();
    let mut answers = reflection.server_reflection_info(open).await.expect("a stream").into_inner();
    let answer = within(answers.message()).await.expect("no error").expect("a message");
    let Some(v1::server_reflection_response::MessageResponse::ListServicesResponse(list)) =
        answer.message_response
    else {
        panic!("not a list: {answer:?}")
    };
    let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    names.sort();
    assert_eq!(
        names,
        [
            "chatfn.test.v1.Probe",
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection"
        ]
    );

    // Details of errors, too, so that grpcurl can show them.
    let symbols = ["chatfn.test.v1.Probe", "google.rpc.ErrorInfo", "google.rpc.BadRequest"];
    let requests = symbols.map(|symbol| v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(
            symbol.to_owned(),
        )),
    });
    let mut reflection = v1alpha::server_reflection_client::ServerReflectionClient::new(client);
    let mut alpha =
        reflection.server_reflection_info(stream::iter(requests)).await.expect("a stream").into_inner();
    for symbol in symbols {
        let answer = within(alpha.message()).await.expect("no error").expect("a message");
        assert!(
            matches!(
                answer.message_response,
                Some(v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(_))
            ),
            "{symbol}: {answer:?}"
        );
    }

    // The first reflection stream is still open, and nobody looks at it, as an editor may leave it.
    shutdown.cancel();
    let drained = within(served).await.expect("no panic").expect("loopback");
    assert_eq!(drained.cut, 0);
}

#[tokio::test]
async fn a_policy_for_an_unknown_service_is_refused() {
    let builder = Server::builder(ServerConfig::default()).service(Probe::new());
    let error = builder.policy("chatfn.test.v1.Prob/Watch", MethodPolicy::long_lived()).build().await;
    assert!(matches!(error, Err(ServeError::UnknownService { .. })), "{error:?}");
}
