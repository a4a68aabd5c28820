//! A real OpenTelemetry collector's front: takes spans over gRPC, and keeps them.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use chatfn_rpc::{Server, ServerConfig, Shutdown};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::Span,
};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

use crate::eventually;

/// The collector. It ends when it is dropped.
pub struct Collector {
    /// Where it listens.
    pub address: SocketAddr,
    spans: Spans,
    shutdown: Shutdown,
}

type Spans = Arc<Mutex<Vec<Recorded>>>;

/// A span, and the service that recorded it.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// `service.name`.
    pub service: String,
    /// As it came.
    pub span: Span,
}

impl Recorded {
    /// A text that was noted, or a number as text.
    pub fn noted(&self, key: &str) -> Option<String> {
        text(&self.span.attributes, key)
    }
}

impl Collector {
    /// Starts a collector on a free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let (spans, shutdown) = (Spans::default(), Shutdown::new());
        let service = TraceServiceServer::new(Front(Arc::clone(&spans)));
        let server = Server::builder(ServerConfig::default()).service(service).build().await;
        let server = server.expect("a server");
        let soft = shutdown.soft();
        tokio::spawn(async move { server.serve(listener, soft).await });
        Self { address, spans, shutdown }
    }

    /// All that has come.
    pub fn spans(&self) -> Vec<Recorded> {
        self.spans.lock().unwrap().clone()
    }

    /// The one span of a name in a trace, once it has come.
    pub async fn span(&self, trace_id: &str, name: &str) -> Recorded {
        let is_it = |it: &Recorded| it.span.name == name && hex(&it.span.trace_id) == trace_id;
        eventually(&format!("the span {name} is recorded"), async || {
            let found: Vec<_> = self.spans().into_iter().filter(is_it).collect();
            assert!(found.len() <= 1, "{name}: {found:?}");
            found.into_iter().next()
        })
        .await
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.shutdown.force();
    }
}

struct Front(Spans);

#[tonic::async_trait]
impl TraceService for Front {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for of_service in request.into_inner().resource_spans {
            let resource = of_service.resource.unwrap_or_default();
            let service = text(&resource.attributes, "service.name").unwrap_or_default();
            let spans = of_service.scope_spans.into_iter().flat_map(|scope| scope.spans);
            let recorded = spans.map(|span| Recorded { service: service.clone(), span });
            self.0.lock().unwrap().extend(recorded);
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        _ => None,
    }
}

/// An id as a `traceparent` has it.
pub fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}
