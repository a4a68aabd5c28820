//! One call of a lambda: checks, hops, answer.

use std::{
    future::Future,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use chatfn_domain::event::call_idempotency_key;
use chatfn_engine::{FetchRequest, FetchResponse};
use chatfn_rpc::TraceParent;
use chatfn_telemetry::{Span, Work};
use http::{Method, StatusCode, header, response::Parts};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::{
    EgressError, RunEgress,
    exchange::Exchange,
    headers,
    redirect::{Hop, MAX_REDIRECTS},
    target::{self, Target},
};

impl RunEgress {
    /// Makes a call, and reads its whole answer. Header values hold one character per byte, in both directions; the
    /// memory of the answer's body counts towards the process' limit until it is dropped. Its place on the record, and
    /// its idempotency key when it is a write, are taken when this function is called, so they follow the order of the
    /// lambda's calls. Dropping the future ends the call.
    pub fn fetch(
        self: &Arc<Self>,
        request: FetchRequest,
    ) -> impl Future<Output = Result<FetchResponse, EgressError>> + Send + 'static {
        let run = Arc::clone(self);
        let record = run.records.start(&request.method, target::recorded(&request.url), run.scope.deadline);
        let mut span = run.scope.traces.begin(Work::Calls, || method_name(&request.method), run.scope.trace);
        let is_write = matches!(request.method.as_str(), "POST" | "PUT" | "PATCH" | "DELETE");
        let key = is_write.then(|| {
            let ordinal = run.writes.fetch_add(1, Ordering::Relaxed);
            call_idempotency_key(&run.scope.event_key, &run.scope.deployment.function, ordinal)
        });
        let sent = request.body.as_ref().map_or(0, |body| body.len());
        async move {
            let outcome =
                match timeout_at(run.scope.deadline, Box::pin(run.call(request, key, &mut span))).await {
                    Ok(outcome) => outcome,
                    Err(_) => Err(EgressError::Deadline(record.elapsed())),
                };
            match &outcome {
                Ok(response) => span.note("http.response.status_code", i64::from(response.status)),
                Err(error) => span.fail(error.reason()),
            }
            if let (Some(metrics), Ok(response)) = (&run.egress.metrics, &outcome) {
                metrics.carried(sent, response.body.len());
            }
            record.end(outcome.as_ref().map(|response| response.status).map_err(Clone::clone));
            outcome
        }
    }

    async fn call(
        &self,
        request: FetchRequest,
        key: Option<Uuid>,
        span: &mut Span,
    ) -> Result<FetchResponse, EgressError> {
        let (mode, mut hop) = (request.redirect, self.first_hop(request, key, span.trace())?);
        if span.is_recorded()
            && let Ok(allowed) = hop.target.check_allowed(&self.scope.deployment.settings.allowed_hosts)
        {
            // As the settings have it: a lambda may put a secret into the part that a wildcard stands for.
            span.note("server.address", allowed.to_string());
        }
        // Never closed, so this waits for other calls of the run and for nothing else.
        let _slot = self.slots.acquire().await.map_err(|_| EgressError::Aborted)?;
        for redirects in 0..=MAX_REDIRECTS {
            let (exchange, response) = self.send(&mut hop).await?;
            let (parts, body) = response.into_parts();
            if hop.redirect(mode, parts.status, &parts.headers)? {
                // The exchange ends here, and with it the connection.
                continue;
            }
            check_answer(&hop, &parts)?;
            if hop.method != Method::HEAD {
                self.egress.buffers.check_announced(&parts.headers)?;
            }
            let account = &self.scope.deployment.function.account;
            let body = exchange.read(account, body, &self.egress.buffers).await?;
            return Ok(response_of(&hop, parts, body, redirects > 0));
        }
        Err(EgressError::TooManyRedirects)
    }

    fn first_hop(
        &self,
        request: FetchRequest,
        key: Option<Uuid>,
        trace: TraceParent,
    ) -> Result<Hop, EgressError> {
        let target = Target::parse(&request.url)?;
        let method = Method::from_bytes(request.method.as_bytes())
            .ok()
            .filter(|method| !matches!(method.as_str(), "CONNECT" | "TRACE" | "TRACK"))
            .ok_or_else(|| EgressError::InvalidRequest("the method cannot be used".to_owned()))?;
        let body = request.body.unwrap_or_default();
        if !body.is_empty() && (method == Method::GET || method == Method::HEAD) {
            return Err(EgressError::InvalidRequest(format!("a {method} request has no body")));
        }
        let most = self.egress.max_request_bytes;
        if body.len() > most {
            return Err(EgressError::RequestTooLarge(format!("the body has more than {most} bytes")));
        }
        let mut headers = headers::authored(&request.headers)?;
        headers::add_platform(&mut headers, key.as_ref(), trace);
        Ok(Hop { target, method, headers, body })
    }

    /// Sends one hop, after the checks that every hop must pass.
    async fn send(
        &self,
        hop: &mut Hop,
    ) -> Result<(Exchange, http::Response<hyper::body::Incoming>), EgressError> {
        let deployment = &self.scope.deployment;
        hop.target.check_allowed(&deployment.settings.allowed_hosts)?;
        if !self.egress.rates.take(&deployment.function, Instant::now()) {
            return Err(EgressError::RateLimited(self.egress.rates.per_second()));
        }
        let account = &deployment.function.account;
        let place = self.egress.connections.take(account).map_err(|_| EgressError::Overloaded)?;
        let connection = self.egress.connector.connect(&hop.target).await?;
        let budget = self.scope.deadline.saturating_duration_since(Instant::now());
        headers::set_hop(&mut hop.headers, hop.target.authority(), budget)?;
        Exchange::start(connection, place, hop).await
    }
}

/// A method's name for its span: one of those that there are.
fn method_name(method: &str) -> &'static str {
    let known = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];
    known.into_iter().find(|known| *known == method).unwrap_or("HTTP")
}

fn check_answer(hop: &Hop, parts: &Parts) -> Result<(), EgressError> {
    if !(200..=599).contains(&parts.status.as_u16()) {
        return Err(EgressError::ExchangeFailed {
            host: hop.target.authority().to_owned(),
            problem: format!("the status {} is not one that ends a request", parts.status.as_u16()),
        });
    }
    let has_body = hop.method != Method::HEAD
        && !matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let encodings = parts.headers.get_all(header::CONTENT_ENCODING);
    match encodings.iter().find(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        Some(encoding) if has_body => {
            Err(EgressError::UnsupportedEncoding(headers::to_latin1(encoding).chars().take(32).collect()))
        }
        _ => Ok(()),
    }
}

fn response_of(hop: &Hop, parts: Parts, body: Bytes, redirected: bool) -> FetchResponse {
    let status_text = match parts.extensions.get::<hyper::ext::ReasonPhrase>() {
        Some(phrase) => String::from_utf8_lossy(phrase.as_bytes()).into_owned(),
        None => parts.status.canonical_reason().unwrap_or_default().to_owned(),
    };
    FetchResponse {
        status: parts.status.as_u16(),
        status_text,
        url: hop.target.response_url().to_owned(),
        redirected,
        headers: parts
            .headers
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), headers::to_latin1(value)))
            .collect(),
        body,
    }
}
