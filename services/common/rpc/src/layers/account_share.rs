//! Divides the calls in progress among accounts, from their first byte on: services count what they have read, and a call whose
//! message does not come would hold its permit until its deadline.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use chatfn_domain::{caller::Caller, name::AccountId, shares::Stock};
use http::{Request, Response};
use tonic::body::Body;
use tower_service::Service;

use super::{Answer, BoxFuture, Layered, refuse};
use crate::{
    ApiError,
    body::HoldingBody,
    method::{Admission, Methods},
    metrics::{RefusedCall, ServerMetrics},
    reasons,
};

/// Lets an account have as many calls in progress as are still free, so half of them at most. Who acts for all accounts, as services
/// do, is not bounded here, nor is who need not say who calls.
#[derive(Clone, Debug)]
pub(crate) struct AccountShareService<S> {
    inner: S,
    calls: Stock,
    retry_after: Duration,
    methods: Arc<Methods>,
    metrics: ServerMetrics,
}

impl<S> AccountShareService<S> {
    /// With at most `most` calls of all accounts together.
    pub(crate) fn new(
        inner: S,
        most: usize,
        retry_after: Duration,
        methods: Arc<Methods>,
        metrics: ServerMetrics,
    ) -> Self {
        Self { inner, calls: Stock::new(most), retry_after, methods, metrics }
    }

    /// The account whose share the call is to be taken from, if it is.
    fn account(&self, request: &Request<Body>) -> Option<AccountId> {
        match self.methods.get(request.uri().path()).admission {
            Admission::Calls | Admission::Reserve => request.extensions().get::<Caller>()?.account().cloned(),
            // Health and its like.
            Admission::OpenStreams | Admission::Free => None,
        }
    }

    fn busy(&self, account: &AccountId) -> ApiError {
        ApiError::resource_exhausted(
            reasons::ACCOUNT_BUSY,
            format!(
                "accounts/{account} has as many calls in progress as it may while others may want some; nothing was done"
            ),
            self.retry_after,
        )
        .metadata("account", account.to_string())
    }
}

impl<S: Layered> Service<Request<Body>> for AccountShareService<S> {
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<Answer>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Some(account) = self.account(&request) else {
            return Box::pin(self.inner.call(request));
        };
        let Some(share) = self.calls.take(account.clone(), 1) else {
            self.metrics.refused(RefusedCall::AccountBusy);
            let busy = self.busy(&account);
            return Box::pin(async move { Ok(refuse(busy)) });
        };
        let response = self.inner.call(request);
        Box::pin(async move {
            let Ok(response) = response.await;
            Ok(response.map(|body| Body::new(HoldingBody::new(body, share))))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Pending, pending};

    use chatfn_domain::caller::{Role, Scope, Service as Of};
    use futures_util::FutureExt as _;
    use tonic::Status;

    use super::*;
    use crate::{ErrorReport, MethodPolicy};

    /// Waits for a message that never comes.
    #[derive(Clone)]
    struct Waiting;

    impl Service<Request<Body>> for Waiting {
        type Response = Response<Body>;
        type Error = std::convert::Infallible;
        type Future = Pending<Answer>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            pending()
        }
    }

    /// With four calls.
    fn layer() -> AccountShareService<Waiting> {
        let mut methods = Methods::default();
        methods.set("a.v1.Service/Watch", MethodPolicy::long_lived().admitted_apart());
        let metrics = ServerMetrics::new(&chatfn_telemetry::Metrics::new(), &[], &[]);
        AccountShareService::new(Waiting, 4, Duration::from_secs(1), Arc::new(methods), metrics)
    }

    fn of(scope: Scope) -> Caller {
        Caller::user("jane", scope, [Role::Invocation])
    }

    fn account(name: &str) -> Caller {
        of(Scope::Account(name.parse().unwrap()))
    }

    /// A call in progress, or `None` if it is refused.
    fn call(
        layer: &mut AccountShareService<Waiting>,
        caller: Caller,
        method: &str,
    ) -> Option<BoxFuture<Answer>> {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = format!("/a.v1.Service/{method}").parse().unwrap();
        request.extensions_mut().insert(caller);
        let mut call = layer.call(request);
        let Some(Ok(answer)) = (&mut call).now_or_never() else { return Some(call) };
        let report = ErrorReport::from_status(&Status::from_header_map(answer.headers()).expect("a status"));
        assert_eq!(report.reason.as_deref(), Some(reasons::ACCOUNT_BUSY.name()));
        None
    }

    #[tokio::test]
    async fn an_account_whose_messages_do_not_come_leaves_room_to_others() {
        let mut layer = layer();
        let first = call(&mut layer, account("a"), "Do").expect("room");
        let _second = call(&mut layer, account("a"), "Do").expect("room");
        assert!(call(&mut layer, account("a"), "Do").is_none());
        let _other = call(&mut layer, account("b"), "Do").expect("room");
        drop(first);
        assert!(call(&mut layer, account("a"), "Do").is_some(), "what is over is given back");
    }

    #[tokio::test]
    async fn whoever_acts_for_all_accounts_is_not_bounded() {
        let mut layer = layer();
        for caller in [of(Scope::AllAccounts), Caller::service("s", Of::EventIngest), Caller::anonymous()] {
            let calls: Vec<_> = (0..5).map(|_| call(&mut layer, caller.clone(), "Do")).collect();
            assert!(calls.iter().all(Option::is_some), "{caller:?}");
        }
        let streams: Vec<_> = (0..5).map(|_| call(&mut layer, account("a"), "Watch")).collect();
        assert!(streams.iter().all(Option::is_some), "nor are calls that take no permit of these");
    }
}
