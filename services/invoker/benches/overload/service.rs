//! The invoker whose callers are too many.

use std::time::Duration;

use chatfn_deployments::{Deployment, Deployments};
use chatfn_domain::{function::version_digest, name::FunctionName, settings::FunctionSettings};
use chatfn_proto::invoker::v1::{
    InvocationEvent, InvokeRequest, invoker_service_client::InvokerServiceClient, run_report::Outcome,
};
use chatfn_rpc::{Client, ClientConfig, ErrorReport, RequestExt as _, Shutdown, connect};
use clap::Parser as _;
use tokio::{net::TcpListener, runtime::Handle};
use tonic::{Code, Request};

use crate::crm::Crm;

const FUNCTION: &str = "accounts/bench/functions/chat.in_queue";
/// How long callers wait.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections of the callers; one carries 256 calls at once.
const CONNECTIONS: usize = 4;

const SOURCE: &str = "
async function lambda(_, { eventId }) {
  switch (eventId) {
    case 'wait': return (await fetch(`${process.env.CRM}/wait`)).status;
    case 'hang': return (await fetch(`${process.env.CRM}/hang`)).status;
    case 'loop': await fetch(`${process.env.CRM}/`); for (;;);
    case 'compute': {
      let hash = 0;
      for (let i = 0; i < 200000; i++) hash = (hash * 31 + i) | 0;
      return hash;
    }
  }
  return 'nothing';
}";

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// With the report of a lambda that returned.
    Returned,
    /// It was refused, and told when to come back.
    Refused,
}

/// A running invoker, and connections to it.
pub(crate) struct Service {
    clients: Vec<Client>,
    shutdown: Shutdown,
}

impl Service {
    /// On a runtime of its own, with this many runs at once.
    pub(crate) async fn start(on: &Handle, crm: &Crm, runs: usize) -> Self {
        let host = crm.address.to_string();
        let settings = FunctionSettings {
            timeout: PATIENCE,
            allowed_hosts: vec![host.parse().expect("a host")],
            environment: [("CRM".to_owned(), format!("http://{host}"))].into(),
            ..FunctionSettings::default()
        };
        let deployment = Deployment {
            function: FUNCTION.parse::<FunctionName>().expect("a name"),
            version: "1".parse().expect("a number"),
            digest: version_digest(SOURCE, &settings),
            settings,
            source: SOURCE.into(),
        };
        let config = chatfn_invoker::Config::parse_from([
            "chatfn-invoker",
            "--telemetry-listen=off",
            "--egress-allow-cidr=127.0.0.1/32",
            "--egress-rate=100000",
            &format!("--max-runs={runs}"),
        ]);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let uri = format!("http://{}", listener.local_addr().expect("an address"));
        let listener = listener.into_std().expect("a socket");
        let shutdown = Shutdown::new();
        let stop = shutdown.clone();
        on.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a socket");
            let live = Deployments::fixed([deployment], []);
            chatfn_invoker::run_with(config, live, listener, stop).await.expect("the invoker serves");
        });
        let client = || connect(ClientConfig::new(uri.parse().expect("a URI"))).expect("a client");
        let service = Self { clients: (0..CONNECTIONS).map(|_| client()).collect(), shutdown };
        while service.try_call(0, "nothing").await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        service
    }

    /// One call. Which of the connections it takes, `number` decides.
    pub(crate) fn call(&self, number: usize, what: &str) -> impl Future<Output = End> + Send + 'static {
        let call = self.try_call(number, what);
        async move { call.await.unwrap_or_else(|error| panic!("neither a report nor a refusal: {error:?}")) }
    }

    fn try_call(
        &self,
        number: usize,
        what: &str,
    ) -> impl Future<Output = Result<End, ErrorReport>> + Send + 'static {
        let mut client = InvokerServiceClient::new(self.clients[number % CONNECTIONS].clone());
        let event = InvocationEvent {
            event_id: what.to_owned(),
            conversation_id: "c-1".into(),
            attempt: 1,
            payload_json: "{}".into(),
            ..InvocationEvent::default()
        };
        let request = InvokeRequest { function: FUNCTION.into(), event: Some(event) };
        async move {
            let answer = client.invoke(Request::new(request).with_timeout(PATIENCE)).await;
            match answer.map(|answer| answer.into_inner().report.and_then(|report| report.outcome)) {
                Ok(Some(Outcome::ResultJson(_))) => Ok(End::Returned),
                Ok(other) => panic!("the lambda should return: {other:?}"),
                Err(status) => {
                    let error = ErrorReport::from_status(&status);
                    let refused = error.code == Code::ResourceExhausted && error.retry_after.is_some();
                    if refused { Ok(End::Refused) } else { Err(error) }
                }
            }
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.shutdown.begin();
    }
}
