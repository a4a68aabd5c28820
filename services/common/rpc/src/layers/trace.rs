//! One span per call, and one event when it is over; and all calls, counted.
//!
//! Stable fields: `rpc.service`, `rpc.method`, `trace.id` on the span; `rpc.code`, `rpc.duration_ms` on the
//! event. Calls that fail on our side are logged at `info`, as long as they are not too many; all others at `debug`.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use chatfn_telemetry::{Line, LogQuota, Traces, Work};
use http::{HeaderMap, Request, Response};
use http_body::{Frame, SizeHint};
use tonic::{Code, Status, body::Body};
use tower_service::Service;
use tracing::{Instrument, Span};

use super::{Answer, BoxFuture, Layered};
use crate::{
    TraceParent, code_name,
    metrics::{ServedCall, ServerMetrics},
    security::access::{HEALTH, REFLECTION},
};

/// Longest name of a recorded call.
const MAX_NAME: usize = 128;
/// Lines in a second at `info`.
const LINES: u32 = 100;

#[derive(Clone, Debug)]
pub(crate) struct TraceService<S> {
    inner: S,
    traces: Traces,
    metrics: ServerMetrics,
    lines: LogQuota,
}

impl<S> TraceService<S> {
    pub(crate) fn new(inner: S, traces: Traces, metrics: ServerMetrics) -> Self {
        Self { inner, traces, metrics, lines: LogQuota::new(LINES, Instant::now()) }
    }
}

impl<S: Layered> Service<Request<Body>> for TraceService<S> {
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<Answer>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let arrived = Instant::now();
        let path = request.uri().path().trim_start_matches('/');
        let (service, method) = path.split_once('/').unwrap_or_default();
        // A path that is none of ours may be of any length, and nobody has said yet who calls.
        let (service, method) = (cut(service), cut(method));
        let recorded = begin(&self.traces, service, path, TraceParent::from_headers(request.headers()));
        let trace = recorded.trace();
        let span = tracing::info_span!(
            "rpc",
            rpc.service = service,
            rpc.method = method,
            trace.id = trace.trace_id()
        );
        request.extensions_mut().insert(trace);

        let call = self.metrics.begin(request.uri().path());
        let lines = self.lines.clone();
        let mut ended = CallEnd { span: span.clone(), recorded, call, arrived, lines, code: None };
        let response = span.in_scope(|| self.inner.call(request));
        let traced = async move {
            let Ok(response) = response.await;
            ended.code = status_code(response.headers());
            Ok(response.map(|body| Body::new(TracedBody { inner: body, ended })))
        };
        Box::pin(traced.instrument(span))
    }
}

/// Begins to record a call, unless it is one of those that come every second and say nothing.
fn begin(traces: &Traces, service: &str, path: &str, parent: Option<TraceParent>) -> chatfn_telemetry::Span {
    if service == HEALTH || REFLECTION.contains(&service) {
        return Traces::off().begin(Work::Serves, String::new, parent);
    }
    let name = || cut(path).to_owned();
    let mut recorded = traces.begin(Work::Serves, name, parent);
    recorded.note("rpc.system", "grpc");
    recorded
}

fn cut(name: &str) -> &str {
    &name[..name.floor_char_boundary(MAX_NAME)]
}

fn status_code(headers: &HeaderMap) -> Option<Code> {
    headers.get(Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()))
}

/// Reports the call when dropped, so that an abandoned one is reported, too.
struct CallEnd {
    span: Span,
    call: ServedCall,
    recorded: chatfn_telemetry::Span,
    arrived: Instant,
    lines: LogQuota,
    code: Option<Code>,
}

impl Drop for CallEnd {
    fn drop(&mut self) {
        // No status was sent: the caller left first.
        let code = self.code.unwrap_or(Code::Cancelled);
        let duration = self.arrived.elapsed();
        self.call.end(code, duration);
        let duration_ms = duration.as_secs_f64() * 1000.0;
        let _entered = self.span.enter();
        let name = code_name(code);
        self.recorded.note("rpc.grpc.status_code", i64::from(i32::from(code)));
        let is_ours = is_ours(code);
        if is_ours {
            self.recorded.fail(name);
        }
        match is_ours.then(|| self.lines.line(self.arrived + duration)) {
            Some(Line::Write { withheld }) => {
                if withheld > 0 {
                    tracing::info!(
                        withheld,
                        "more calls failed than are logged one by one: chatfn_rpc_server_calls_total counts all"
                    );
                }
                tracing::info!(rpc.code = name, rpc.duration_ms = duration_ms, "call ended: {name}");
            }
            Some(Line::Withhold) | None => {
                tracing::debug!(rpc.code = name, rpc.duration_ms = duration_ms, "call ended: {name}");
            }
        }
    }
}

/// Whether a call failed on our side.
fn is_ours(code: Code) -> bool {
    matches!(
        code,
        Code::Internal
            | Code::Unknown
            | Code::DataLoss
            | Code::Unavailable
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
    )
}

struct TracedBody {
    inner: Body,
    ended: CallEnd,
}

impl http_body::Body for TracedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let _entered = this.ended.span.enter();
        let frame = std::task::ready!(Pin::new(&mut this.inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    this.ended.code = status_code(trailers);
                }
            }
            Some(Err(status)) => this.ended.code = Some(status.code()),
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
