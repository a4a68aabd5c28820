//! One run of a version that is loaded: its sandbox, what it reaches, its report.

use std::sync::Arc;

use chatfn_deployments::Deployment;
use chatfn_engine::{Call, Engine, LogLimits, RunError};
use chatfn_proto::invoker::v1::RunReport;
use chatfn_rpc::{Deadline, TraceParent};
use chatfn_telemetry::Traces;

use crate::{
    children::{Children, Family},
    egress::{Egress, RunScope},
    event::Event,
    functions::Loaded,
    host::RunHost,
    metrics::InvokerMetrics,
    report,
    secrets::{ReportLimits, Secrets},
    service_url::ServiceUrl,
};

/// The longest result in bytes of JSON.
const MAX_RESULT_BYTES: usize = 1 << 20;

/// What all runs of the process share.
pub(crate) struct Runner {
    pub(crate) engine: Engine,
    pub(crate) egress: Arc<Egress>,
    pub(crate) secrets: Secrets,
    pub(crate) children: Children,
    /// Where outbound calls are recorded.
    pub(crate) traces: Traces,
    /// Where the chat platform's services are, if the operator has said so.
    pub(crate) services: Option<ServiceUrl>,
    pub(crate) metrics: InvokerMetrics,
}

/// A run that may start.
pub(crate) struct Run {
    /// The version: its function's account and rate, its settings.
    pub(crate) deployment: Arc<Deployment>,
    /// The same version, ready to run.
    pub(crate) loaded: Loaded,
    pub(crate) event: Event,
    /// Trace that the run's calls belong to.
    pub(crate) trace: Option<TraceParent>,
    /// When the run is ended, whatever it does.
    pub(crate) deadline: Deadline,
}

impl Runner {
    /// Runs a lambda in a fresh sandbox; the secrets that it read are not in its report. Cancel safe: dropping the
    /// future ends the lambda, its outbound calls and the functions that it invoked.
    ///
    /// # Errors
    /// The engine cannot run anything. A lambda that fails is a report.
    pub(crate) async fn run(self: &Arc<Self>, run: Run) -> Result<RunReport, RunError> {
        let family = Family::default();
        let account = run.deployment.function.account.clone();
        let report = self.run_in(&family, run).await?;
        let limits = ReportLimits { result_bytes: MAX_RESULT_BYTES, logs: LogLimits::default() };
        Ok(self.secrets.redact(&account, &family.secrets, report, limits).await)
    }

    /// The same for a run that may belong to another one. The report holds the secrets that were read: it is for the
    /// function that invoked it, whose own report is without them.
    pub(crate) async fn run_in(self: &Arc<Self>, family: &Family, run: Run) -> Result<RunReport, RunError> {
        let Run { deployment, loaded, event, trace, deadline } = run;
        let egress = self.egress.run(RunScope {
            deployment: Arc::clone(&deployment),
            event_key: event.key,
            traces: self.traces.clone(),
            trace,
            deadline: deadline.instant(),
        });
        let event = Arc::new(event);
        let host = Arc::new(RunHost {
            runner: Arc::clone(self),
            egress: Arc::clone(&egress),
            family: family.clone(),
            function: deployment.function.clone(),
            event: Arc::clone(&event),
            trace,
            deadline,
        });
        let call = Call {
            context_json: event.context_json(&deployment, deadline),
            env_json: loaded.env_json,
            memory_bytes: (deployment.settings.memory_mib as usize) << 20,
            result_bytes: MAX_RESULT_BYTES,
            ..Call::new(event.input_json(), deadline.instant().into_std(), host)
        };
        let ended = self.engine.run(&loaded.prepared, call).await;
        let ended = ended.inspect_err(|_| self.metrics.engine_failed())?;
        self.metrics.timed(&ended.timing, deadline);
        let report = report::of_run(&deployment, ended, &egress, deadline);
        self.metrics.ran(&report);
        tracing::debug!(
            function = %deployment.function,
            version = %deployment.version,
            event.id = event.fields.event_id,
            outcome = report::outcome_name(&report),
            "ran {} version {}", deployment.function, deployment.version,
        );
        Ok(report)
    }
}
