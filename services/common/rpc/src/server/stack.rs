//! The one layer stack.

use std::{convert::Infallible, sync::Arc};

use chatfn_telemetry::Traces;
use http::{Request, Response};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{body::Body, service::Routes};
use tower::util::BoxCloneSyncService;

use super::ServerConfig;
use crate::{
    Security,
    layers::{
        account_share::AccountShareService,
        admission::{AdmissionService, Permits},
        authentication::AuthenticationService,
        catch_panic::CatchPanicService,
        deadline::{DeadlineRules, DeadlineService},
        scope::{ScopeService, Scopes},
        trace::TraceService,
        unknown_method::UnknownMethodService,
    },
    method::Methods,
    metrics::ServerMetrics,
};

/// One in so many permits is kept for those who look into an overload, on top of all others.
const RESERVE: usize = 8;

pub(super) type Stack = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// What the layers need besides the settings.
pub(super) struct Layers {
    pub(super) security: Security,
    pub(super) traces: Traces,
    pub(super) methods: Methods,
    /// What the routes are of.
    pub(super) services: Vec<&'static str>,
    pub(super) scopes: Scopes,
    pub(super) draining: CancellationToken,
    pub(super) cutting: CancellationToken,
    pub(super) metrics: ServerMetrics,
}

/// Wraps the routes, innermost first; read it upwards for the order in which a call passes:
///
/// 1. trace, so that every answer is reported, refusals included;
/// 2. catch-panic, so that the layers below may panic, too;
/// 3. deadline, so that its clock starts before the call waits for anything;
/// 4. admission, so that a doomed call takes no permit;
/// 5. authentication, so that what it costs is bounded, too;
/// 6. the account's share of the permits, now that it is known;
/// 7. what the service puts around its handlers;
/// 8. unknown methods, right around the routes.
///
/// Gives the permits, too: of calls, of the reserve and of open streams, with how many there are.
pub(super) fn compose(
    routes: Routes,
    config: &ServerConfig,
    layers: Layers,
) -> (Stack, [(Arc<Semaphore>, usize); 3]) {
    let Layers { security, traces, methods, services, scopes, draining, cutting, metrics } = layers;
    let methods = Arc::new(methods);
    let limit = config.max_calls.min(Semaphore::MAX_PERMITS);
    let set = |count| Arc::new(Semaphore::new(count));
    let permits = Permits {
        calls: set(limit),
        reserve: set(limit.div_ceil(RESERVE)),
        open_streams: set(limit),
        request_kib: set(config.max_request_kib as usize),
    };
    let watched = [
        (Arc::clone(&permits.calls), limit),
        (Arc::clone(&permits.reserve), limit.div_ceil(RESERVE)),
        (Arc::clone(&permits.open_streams), limit),
    ];
    let rules = Arc::new(DeadlineRules {
        default: config.default_timeout,
        max: config.max_timeout,
        floor: config.min_budget,
        methods: Arc::clone(&methods),
        draining,
        cutting,
    });
    let stack = UnknownMethodService::new(routes.prepare(), services.into());
    let stack = ScopeService::new(stack, scopes);
    let stack =
        AccountShareService::new(stack, limit, config.retry_after, Arc::clone(&methods), metrics.clone());
    let stack = AuthenticationService::new(stack, security, Arc::clone(&methods), metrics.clone());
    let stack = AdmissionService::new(stack, permits, config.retry_after, methods, metrics.clone());
    let stack = DeadlineService::new(stack, rules, metrics.clone());
    let stack = CatchPanicService::new(stack);
    let stack = TraceService::new(stack, traces, metrics);
    (BoxCloneSyncService::new(stack), watched)
}
