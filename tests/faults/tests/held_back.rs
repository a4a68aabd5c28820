//! A call that a partition holds back, while its caller gives up, does nothing when it arrives.

use std::time::Duration;

use chatfn_faults::proxy::{Proxy, Weather};
use chatfn_proto::invoker::v1::{
    InvokeRequest, InvokeResponse, PrepareRequest, PrepareResponse, TestInvokeRequest, TestInvokeResponse,
    invoker_service_client::InvokerServiceClient,
    invoker_service_server::{InvokerService, InvokerServiceServer},
};
use chatfn_rpc::{
    ClientConfig, RequestExt as _, SecurityConfig, Server, ServerConfig, Shutdown, bind, connect,
};
use tokio::sync::mpsc;
use tonic::{Code, Request, Response, Status};

/// Tells what it is asked to run.
#[derive(Clone)]
struct Tells(mpsc::Sender<String>);

#[tonic::async_trait]
impl InvokerService for Tells {
    async fn invoke(&self, request: Request<InvokeRequest>) -> Result<Response<InvokeResponse>, Status> {
        self.0.send(request.into_inner().function).await.expect("the test listens");
        Ok(Response::new(InvokeResponse::default()))
    }

    async fn prepare(&self, _: Request<PrepareRequest>) -> Result<Response<PrepareResponse>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn test_invoke(
        &self,
        _: Request<TestInvokeRequest>,
    ) -> Result<Response<TestInvokeResponse>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }
}

#[tokio::test]
async fn a_call_that_arrives_when_its_time_is_up_does_nothing() {
    let (tell, mut told) = mpsc::channel(100);
    let server =
        Server::builder(ServerConfig::default()).service(InvokerServiceServer::new(Tells(tell))).build();
    let listener = bind("127.0.0.1:0".parse().unwrap(), &SecurityConfig::default()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = Shutdown::new();
    tokio::spawn(server.await.unwrap().serve(listener, shutdown.soft()));

    let link = Proxy::start(address).await.unwrap();
    let uri = format!("http://{}", link.address()).parse().unwrap();
    let client = InvokerServiceClient::new(connect(ClientConfig::new(uri)).unwrap());
    let invoke = async |function: String, budget| {
        let request = InvokeRequest { function, event: None };
        let request = Request::new(request).with_timeout(Duration::from_millis(budget));
        client.clone().invoke(request).await
    };
    let minute = 60_000;
    invoke("before".to_owned(), minute).await.unwrap();
    link.set(Weather::Partition);
    for n in 0..5 {
        let failed = invoke(format!("held back, {n}"), 50).await.unwrap_err();
        assert_eq!(failed.code(), Code::DeadlineExceeded, "{failed}");
    }
    // How long the fault lasts: so much longer than their time that a slow machine does not hide it.
    tokio::time::sleep(Duration::from_secs(2)).await;
    link.set(Weather::Clear);
    invoke("after".to_owned(), minute).await.unwrap();
    let told: Vec<_> = std::iter::from_fn(|| told.try_recv().ok()).collect();
    assert_eq!(told, ["before", "after"]);
    shutdown.force();
}
