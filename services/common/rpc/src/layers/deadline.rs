//! Gives every call its deadline and its cancellation token, and enforces both.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, Request, Response};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, body::Body};
use tower_service::Service;

use super::{Answer, BoxFuture, Layered, refuse};
use crate::{
    ApiError, Deadline,
    body::{Cut, GuardedBody},
    budget,
    method::{Methods, TimeLimit},
    metrics::{RefusedCall, ServerMetrics},
    reasons,
    server::call_task,
    transit::{Arrivals, SENT},
};

/// How long after the deadline a response may still be on its way before the stream is reset. The reader
/// of a response decides how fast it takes it, and while it takes nothing the body, with all that hangs on
/// it, would never be polled again.
const RESPONSE_GRACE: Duration = Duration::from_millis(500);

/// The rules of one server.
#[derive(Debug)]
pub(crate) struct DeadlineRules {
    pub(crate) default: Duration,
    pub(crate) max: Duration,
    pub(crate) floor: Duration,
    pub(crate) methods: Arc<Methods>,
    /// Fires when the drain begins: ends the streams that need not be waited for.
    pub(crate) draining: CancellationToken,
    /// Fires at the drain's limit: ends every call.
    pub(crate) cutting: CancellationToken,
}

#[derive(Clone, Debug)]
pub(crate) struct DeadlineService<S> {
    inner: S,
    rules: Arc<DeadlineRules>,
    metrics: ServerMetrics,
}

impl<S> DeadlineService<S> {
    pub(crate) fn new(inner: S, rules: Arc<DeadlineRules>, metrics: ServerMetrics) -> Self {
        Self { inner, rules, metrics }
    }
}

impl DeadlineRules {
    /// The deadline of a call whose headers arrived at `arrived`, `delay` later than they should have.
    fn deadline(
        &self,
        arrived: Instant,
        delay: Duration,
        limit: TimeLimit,
        headers: &HeaderMap,
    ) -> Result<Option<Deadline>, ApiError> {
        let left = match asked_budget(headers)? {
            Some(asked) if budget::is_doomed(asked, self.floor) => {
                return Err(budget_too_small(asked, self.floor));
            }
            Some(asked) => {
                let left = asked.saturating_sub(delay);
                if budget::is_doomed(left, self.floor) {
                    return Err(too_late(asked, delay));
                }
                Some(left)
            }
            None => None,
        };
        let budget = match limit {
            TimeLimit::Server => Some(left.unwrap_or(self.default).min(self.max)),
            TimeLimit::Own { default, max } => Some(left.unwrap_or(default).min(max)),
            TimeLimit::Caller => left,
        };
        Ok(budget.map(|budget| Deadline::from_start(arrived, budget)))
    }
}

fn asked_budget(headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let mut values = headers.get_all(budget::GRPC_TIMEOUT).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(malformed("it is given more than once"));
    }
    budget::parse_timeout(value.as_bytes()).map(Some).map_err(malformed)
}

fn malformed(why: impl std::fmt::Display) -> ApiError {
    ApiError::invalid_argument(
        reasons::GRPC_TIMEOUT_MALFORMED,
        format!("the grpc-timeout header is malformed: {why}; write 1 to 8 digits and a unit, such as 250m"),
    )
}

pub(crate) fn budget_too_small(budget: Duration, floor: Duration) -> ApiError {
    ApiError::deadline_exceeded(
        reasons::BUDGET_TOO_SMALL,
        format!(
            "a budget of {budget:?} is too small to start the call (at least {floor:?}); nothing was done"
        ),
    )
}

fn too_late(budget: Duration, delay: Duration) -> ApiError {
    ApiError::deadline_exceeded(
        reasons::BUDGET_TOO_SMALL,
        format!(
            "the call, with a budget of {budget:?}, was {delay:?} late when it got here; nothing was done"
        ),
    )
}

pub(crate) fn expired() -> ApiError {
    ApiError::deadline_exceeded(reasons::DEADLINE_EXCEEDED, "the deadline passed before the call was over")
}

pub(crate) fn draining() -> ApiError {
    ApiError::unavailable(reasons::SERVER_DRAINING, "the server is shutting down; call again")
}

impl<S: Layered> Service<Request<Body>> for DeadlineService<S> {
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<Answer>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let arrived = Instant::now();
        let policy = self.rules.methods.get(request.uri().path());
        let arrivals = request.extensions().get::<Arrivals>();
        let delay = arrivals.map_or(Duration::ZERO, |arrivals| arrivals.delay(arrived, request.headers()));
        let deadline = match self.rules.deadline(arrived, delay, policy.limit, request.headers()) {
            Ok(deadline) => deadline,
            Err(refused) => {
                let is_malformed = refused.code() == Code::InvalidArgument;
                let why = if is_malformed { RefusedCall::Malformed } else { RefusedCall::BudgetTooSmall };
                self.metrics.refused(why);
                return Box::pin(async move { Ok(refuse(refused)) });
            }
        };
        let stop =
            if policy.ends_on_drain { self.rules.draining.clone() } else { self.rules.cutting.clone() };

        // Nothing behind this layer may start a second timer from the relative value.
        request.headers_mut().remove(budget::GRPC_TIMEOUT);
        request.headers_mut().remove(SENT);
        let over = CancellationToken::new();
        request.extensions_mut().insert(over.clone());
        if let Some(deadline) = deadline {
            request.extensions_mut().insert(deadline);
        }
        // Ends with the call, too: a task that reads on would keep the stream, and a drain, open.
        let request = request
            .map(|body| Body::new(GuardedBody::new(body, Cut::Error, deadline).stopped_by(over.clone())));
        // From here on the guard fires when the call is dropped: hyper drops it when the caller is gone.
        let over = over.drop_guard();
        let response = self.inner.call(request);

        Box::pin(async move {
            if let Some(deadline) = deadline {
                call_task::cut_off_at(deadline.instant() + RESPONSE_GRACE);
            }
            let response = tokio::select! {
                biased;
                Ok(response) = response => response,
                () = wait_for(deadline) => return Ok(refuse(expired())),
                () = stop.cancelled() => return Ok(refuse(draining())),
            };
            Ok(response.map(|body| {
                let body = GuardedBody::new(body, Cut::Trailers, deadline).stopped_by(stop).with_guard(over);
                Body::new(body)
            }))
        })
    }
}

async fn wait_for(deadline: Option<Deadline>) {
    match deadline {
        Some(deadline) => deadline.expired().await,
        None => std::future::pending().await,
    }
}
