//! One invocation, from request to report.

use std::{sync::Arc, time::Duration};

use chatfn_deployments::Deployments;
use chatfn_domain::name::FunctionName;
use chatfn_proto::{
    convert::parse,
    invoker::v1::{InvokeRequest, RunReport},
};
use chatfn_rpc::{CallContext, Deadline, budget::hop_margin};

use crate::{
    error::InvokerError,
    event::Event,
    functions::{Functions, is_authors},
    metrics::InvokerMetrics,
    places::Places,
    report,
    run::{Run, Runner},
};

/// A call's answer needs at least this long after the end of its run: the engine may be some milliseconds late, and the
/// report has to be written.
const MIN_MARGIN: Duration = Duration::from_millis(10);
/// A run shorter than this is not worth its sandbox.
const MIN_RUN: Duration = Duration::from_millis(5);

/// Runs what is live.
pub(crate) struct Invoker {
    pub(crate) deployments: Deployments,
    pub(crate) functions: Functions,
    pub(crate) runner: Arc<Runner>,
    /// Of all runs but those that another one waits for, by their memory.
    pub(crate) places: Arc<Places>,
    pub(crate) metrics: InvokerMetrics,
}

impl Invoker {
    /// Runs the live version of a function. Cancel safe: dropping the future ends the lambda and its outbound calls.
    pub(crate) async fn invoke(
        &self,
        request: InvokeRequest,
        context: &CallContext,
    ) -> Result<RunReport, InvokerError> {
        let invoked = self.try_invoke(request, context).await;
        invoked.inspect_err(|error| self.metrics.refused(error.into()))
    }

    async fn try_invoke(
        &self,
        request: InvokeRequest,
        context: &CallContext,
    ) -> Result<RunReport, InvokerError> {
        let name: FunctionName = parse("function", &request.function)?;
        let event = Event::read(&name, request.event.unwrap_or_default())?;
        run_deadline(context.deadline, Duration::MAX)?;
        let deployment = self.deployments.function(&name)?.ok_or_else(|| InvokerError::NotDeployed(name))?;
        // Held until the run is over: everything below is dropped before it.
        let _place = self.places.take_run(&deployment.function.account, deployment.settings.memory_mib)?;

        let load = self.functions.get(&deployment);
        let (loaded, deadline) = load_within(context.deadline, deployment.settings.timeout, load).await?;
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(error) if is_authors(&error) => {
                let report = report::not_loadable(&deployment, &error, deadline);
                self.metrics.ran(&report);
                return Ok(report);
            }
            Err(error) => return Err(InvokerError::Load(error)),
        };

        let run = Run { deployment, loaded, event, trace: context.trace, deadline };
        self.runner.run(run).await.map_err(InvokerError::Run)
    }
}

/// What `load` gives, if it does while a run is still worth its sandbox; and when that run, which may take `timeout`, has
/// to end. Loading is not the lambda's time: only the call's deadline counts it.
pub(crate) async fn load_within<T>(
    call: Option<Deadline>,
    timeout: Duration,
    load: impl Future<Output = T>,
) -> Result<(T, Deadline), InvokerError> {
    let loaded = match run_deadline(call, Duration::MAX)? {
        None => load.await,
        Some(deadline) => tokio::time::timeout_at(deadline.instant(), load)
            .await
            .map_err(|_| InvokerError::BudgetTooSmall { left: Duration::ZERO })?,
    };
    let deadline = run_deadline(call, timeout)?.unwrap_or_else(|| Deadline::after(timeout));
    Ok((loaded, deadline))
}

/// When a run that starts now and may take `timeout` has to end, so that its report arrives before the call's deadline.
/// `None` when nothing but `timeout` bounds it.
pub(crate) fn run_deadline(
    call: Option<Deadline>,
    timeout: Duration,
) -> Result<Option<Deadline>, InvokerError> {
    let Some(call) = call else { return Ok(None) };
    let left = call.remaining();
    let margin = hop_margin(left).max(MIN_MARGIN);
    if left < margin + MIN_RUN {
        return Err(InvokerError::BudgetTooSmall { left });
    }
    Ok(Some(call.shrink(margin).capped(timeout)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_run_ends_before_its_call() {
        let deadline = |call: u64, timeout: u64| {
            run_deadline(Some(Deadline::after(Duration::from_millis(call))), Duration::from_millis(timeout))
                .map(|deadline| deadline.unwrap().remaining().as_millis())
                .map_err(|error| error.to_string())
        };
        assert_eq!(deadline(10_000, 1_000), Ok(1_000), "the function's timeout is nearer");
        assert_eq!(deadline(1_000, 1_000), Ok(950), "the call's is, by 5 %");
        assert_eq!(deadline(100, 1_000), Ok(90), "but at least 10 ms");
        assert_eq!(deadline(15, 1_000), Ok(5));
        assert!(deadline(14, 1_000).unwrap_err().starts_with("14ms are left"));
        assert!(run_deadline(None, Duration::from_secs(1)).unwrap().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_loads_too_slowly_does_not_start() {
        let load = async |call: u64, takes: u64| {
            let load = tokio::time::sleep(Duration::from_millis(takes));
            let call = Deadline::after(Duration::from_millis(call));
            let loaded = load_within(Some(call), Duration::from_millis(50), load).await;
            loaded.map(|((), deadline)| deadline.remaining().as_millis()).map_err(|error| error.to_string())
        };
        assert_eq!(load(1000, 900).await, Ok(50), "the time of the lambda begins afterwards");
        assert_eq!(load(1000, 960).await.unwrap_err().split(' ').next(), Some("0ns"), "out of time");
        assert_eq!(load(100, 88).await.unwrap_err().split(' ').next(), Some("12ms"), "too little is left");
        let unbounded = load_within(None, Duration::from_millis(50), async {}).await.unwrap();
        assert_eq!(unbounded.1.remaining().as_millis(), 50);
    }
}
