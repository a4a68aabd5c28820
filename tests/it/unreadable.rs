//! Requests that are no messages of their method.

use chatfn_proto::{ingest::v1::StreamEventsRequest, registry::v1::GetFunctionRequest};
use chatfn_rpc::{Client, ErrorReport};
use chatfn_tests::{
    api::{Api, event},
    cluster::Cluster,
};
use prost::Message;
use tonic::{Code, Request, Status};

/// Calls a method with messages of any kind; gives how it ends.
async fn end<M: Message + 'static>(client: Client, method: &str, messages: Vec<M>) -> Status {
    let mut grpc = tonic::client::Grpc::new(client);
    let codec = tonic_prost::ProstCodec::<M, ()>::default();
    let path = format!("/chatfn.{method}").parse().expect("a path");
    let request = Request::new(futures_util::stream::iter(messages));
    let mut answers = match grpc.streaming(request, path, codec).await {
        Ok(answers) => answers.into_inner(),
        Err(status) => return status,
    };
    loop {
        match answers.message().await {
            Ok(answer) => assert!(answer.is_some(), "{method} ends well"),
            Err(status) => return status,
        }
    }
}

#[track_caller]
fn is_unreadable(status: &Status, method: &str) {
    let report = ErrorReport::from_status(status);
    let told = (report.code, report.reason.as_deref());
    assert_eq!(told, (Code::InvalidArgument, Some("MESSAGE_UNREADABLE")), "{method}: {status:?}");
}

#[tokio::test]
async fn what_is_no_message_of_a_method_is_told_so() {
    let cluster = Cluster::start().await;
    // Their first field is text or a message, and no number.
    for (client, method) in [
        (cluster.registry.client(), "registry.v1.FunctionService/GetFunction"),
        (cluster.invoker.client(), "invoker.v1.InvokerService/Invoke"),
        (cluster.event_ingest.client(), "ingest.v1.EventIngestService/PublishEvent"),
        (cluster.event_ingest.client(), "ingest.v1.EventIngestService/PublishEvents"),
        (cluster.event_ingest.client(), "ingest.v1.DeliveryService/TailDeliveries"),
    ] {
        let number = StreamEventsRequest { client_sequence: 7, event: None };
        is_unreadable(&end(client, method, vec![number]).await, method);
    }
    // And that of a stream's request is a number, and no text.
    let method = "ingest.v1.EventIngestService/StreamEvents";
    let text = GetFunctionRequest { name: "accounts/acme/functions/chat.end".into() };
    is_unreadable(&end(cluster.event_ingest.client(), method, vec![text]).await, method);
    // The connection is as good as before.
    let mut api = Api::of(&cluster);
    assert!(!api.publish(event("chat.end", "e-1", "c-1")).await.unwrap().duplicate);
}
