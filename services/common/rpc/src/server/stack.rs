//! The one layer stack.

use std::{convert::Infallible, sync::Arc};

use http::{Request, Response};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{body::Body, service::Routes};
use tower::util::BoxCloneSyncService;

use super::ServerConfig;
use crate::{
    Security,
    layers::{
        admission::{AdmissionService, Permits},
        authentication::AuthenticationService,
        catch_panic::CatchPanicService,
        deadline::{DeadlineRules, DeadlineService},
        scope::{ScopeService, Scopes},
        trace::TraceService,
    },
    method::Methods,
};

/// One in so many permits is kept for those who look into an overload, on top of all others.
const RESERVE: usize = 8;

pub(super) type Stack = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// Wraps the routes, innermost first; read it upwards for the order in which a call passes:
///
/// 1. trace, so that every answer is reported, refusals included;
/// 2. catch-panic, so that the layers below may panic, too;
/// 3. deadline, so that its clock starts before the call waits for anything;
/// 4. admission, so that a doomed call takes no permit;
/// 5. authentication, so that what it costs is bounded, too;
/// 6. what the service puts around its handlers.
pub(super) fn compose(
    routes: Routes,
    config: &ServerConfig,
    security: Security,
    methods: Methods,
    scopes: Scopes,
    draining: CancellationToken,
    cutting: CancellationToken,
) -> Stack {
    let methods = Arc::new(methods);
    let limit = config.max_calls.min(Semaphore::MAX_PERMITS);
    let set = |count| Arc::new(Semaphore::new(count));
    let permits =
        Permits { calls: set(limit), reserve: set(limit.div_ceil(RESERVE)), open_streams: set(limit) };
    let rules = Arc::new(DeadlineRules {
        default: config.default_timeout,
        max: config.max_timeout,
        floor: config.min_budget,
        methods: Arc::clone(&methods),
        draining,
        cutting,
    });
    let stack = AuthenticationService::new(
        ScopeService::new(routes.prepare(), scopes),
        security,
        Arc::clone(&methods),
    );
    let stack = AdmissionService::new(stack, permits, config.retry_after, methods);
    let stack = DeadlineService::new(stack, rules);
    let stack = CatchPanicService::new(stack);
    let stack = TraceService::new(stack);
    BoxCloneSyncService::new(stack)
}
