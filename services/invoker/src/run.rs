//! One run of a version that is loaded: its sandbox, what it reaches, its report.

use std::sync::Arc;

use chatfn_deployments::Deployment;
use chatfn_engine::{Call, Engine, RunError};
use chatfn_proto::invoker::v1::RunReport;
use chatfn_rpc::{Deadline, TraceParent};

use crate::{
    egress::{Egress, RunScope},
    event::Event,
    functions::Loaded,
    host::RunHost,
    report,
};

/// What all runs of the process share.
pub(crate) struct Runner {
    pub(crate) engine: Engine,
    pub(crate) egress: Arc<Egress>,
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
    /// Runs a lambda in a fresh sandbox. Cancel safe: dropping the future ends the lambda and its outbound calls.
    ///
    /// # Errors
    /// The engine cannot run anything. A lambda that fails is a report.
    pub(crate) async fn run(&self, run: Run) -> Result<RunReport, RunError> {
        let Run { deployment, loaded, event, trace, deadline } = run;
        let egress = self.egress.run(RunScope {
            deployment: Arc::clone(&deployment),
            event_key: event.key,
            trace,
            deadline: deadline.instant(),
        });
        let host = Arc::new(RunHost(Arc::clone(&egress)));
        let call = Call {
            context_json: event.context_json(&deployment, deadline),
            env_json: loaded.env_json,
            memory_bytes: (deployment.settings.memory_mib as usize) << 20,
            ..Call::new(event.input_json(), deadline.instant().into_std(), host)
        };
        let ended = self.engine.run(&loaded.prepared, call).await?;
        let report = report::of_run(&deployment, ended, &egress, deadline);
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
