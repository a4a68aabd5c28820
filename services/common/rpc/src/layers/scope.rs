//! Lets a server put something around the handlers of a service: a limit of what they use, for instance.

use std::{
    fmt,
    future::Future,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::{Request, Response};
use tonic::body::Body;
use tower_service::Service;

use super::{Answer, BoxFuture, Layered, refuse};
use crate::{ApiError, Deadline, budget::hop_margin, reasons};

/// What is kept of a call's time to say that it is over. Less than what handlers keep for their own answers.
const LAST_WORD: Duration = Duration::from_millis(5);

/// A handler at work, until it has an answer. The messages of a stream come after that.
pub type Handling = BoxFuture<Response<Body>>;

/// The same, or why it was given up.
type Scoped = BoxFuture<Result<Response<Body>, ApiError>>;

/// What is around the handlers of some services, when their call has a deadline.
#[derive(Clone, Default)]
pub(crate) struct Scopes(Vec<(&'static str, Arc<Scope>)>);

type Scope = dyn Fn(Deadline, Handling) -> Scoped + Send + Sync;

impl Scopes {
    /// See [`ServerBuilder::handlers_within`](crate::server::ServerBuilder::handlers_within).
    pub(crate) fn set<F, E>(
        &mut self,
        service: &'static str,
        within: impl Fn(Instant, Instant, Handling) -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = Result<Response<Body>, E>> + Send + 'static,
        E: fmt::Display,
    {
        let scope = move |deadline: Deadline, handling| -> Scoped {
            let before = |margin| deadline.shrink(margin).instant().into_std();
            let work = within(before(hop_margin(deadline.remaining())), before(LAST_WORD), handling);
            Box::pin(async move {
                work.await.map_err(|error| {
                    ApiError::deadline_exceeded(reasons::DEADLINE_EXCEEDED, error.to_string())
                })
            })
        };
        self.0.push((service, Arc::new(scope)));
    }

    pub(crate) fn services(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(service, _)| *service)
    }

    fn get(&self, path: &str) -> Option<&Arc<Scope>> {
        let (service, _) = path.strip_prefix('/')?.split_once('/')?;
        self.0.iter().find(|(name, _)| *name == service).map(|(_, scope)| scope)
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.services()).finish()
    }
}

#[derive(Clone, Debug)]
pub(crate) struct ScopeService<S> {
    inner: S,
    scopes: Arc<Scopes>,
}

impl<S> ScopeService<S> {
    pub(crate) fn new(inner: S, scopes: Scopes) -> Self {
        Self { inner, scopes: Arc::new(scopes) }
    }
}

impl<S: Layered> Service<Request<Body>> for ScopeService<S> {
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<Answer>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let deadline = request.extensions().get().copied();
        let scope = self.scopes.get(request.uri().path());
        let handling = self.inner.call(request);
        let (Some(scope), Some(deadline)) = (scope, deadline) else {
            return Box::pin(handling);
        };
        let scoped = scope(
            deadline,
            Box::pin(async move {
                let Ok(response) = handling.await;
                response
            }),
        );
        Box::pin(async move { Ok(scoped.await.unwrap_or_else(refuse)) })
    }
}
