//! Tests: a draft, or a lambda that the request gives, runs as what is live would, and is no delivery.

use std::{sync::Arc, time::Duration};

use chatfn_deployments::{Deployment, SchemaProblem, Schemas, Template};
use chatfn_domain::{
    caller::Role,
    event::parse_payload,
    host::HostPattern,
    name::{FunctionName, VersionNumber},
    settings::FunctionSettings,
};
use chatfn_proto::{
    convert::{from_test_settings, parse},
    invoker::v1::{
        InvocationEvent, PayloadProblem, TestInvokeRequest, TestInvokeResponse, TestLambda, TestedSource,
        test_invoke_response::Outcome,
    },
    validate::Violations,
};
use chatfn_rpc::CallContext;
use uuid::Uuid;

use crate::{
    drafts::{Draft, Drafts},
    error::InvokerError,
    event::Event,
    functions::Loaded,
    invoke::{Invoker, load_within, run_deadline},
    places::Places,
    prepare::{Preparer, to_warnings},
    run::Run,
};

/// Tests at once. Few: what each prepares is its own, up to 32 MiB, and counts towards no cache.
pub(crate) const MAX_TESTS: usize = 16;

/// Runs what is not deployed. Shares the runs of the [`Invoker`] and the preparations of the [`Preparer`], so that tests
/// come under the same limits; what it prepares is dropped after the run and takes no live version's place.
pub(crate) struct Tester {
    /// Tests that may begin now. They wait for the registry and for a preparation before they take a run.
    pub(crate) tests: Arc<Places>,
    pub(crate) drafts: Drafts,
    pub(crate) schemas: Schemas,
    pub(crate) invoker: Arc<Invoker>,
    pub(crate) preparer: Arc<Preparer>,
}

impl Tester {
    /// Runs a test. Cancel safe: dropping the future ends the lambda and its outbound calls.
    pub(crate) async fn test(
        &self,
        request: TestInvokeRequest,
        context: &CallContext,
    ) -> Result<TestInvokeResponse, InvokerError> {
        let tested = self.try_test(request, context).await;
        tested.inspect_err(|error| self.invoker.metrics.refused(error.into()))
    }

    async fn try_test(
        &self,
        mut request: TestInvokeRequest,
        context: &CallContext,
    ) -> Result<TestInvokeResponse, InvokerError> {
        let name: FunctionName = parse("function", &request.function)?;
        let template = self.invoker.deployments.template(&name.template)?;
        let template = template.ok_or_else(|| InvokerError::TemplateNotFound(name.template.clone()))?;
        let lambda = request.lambda.take().map(given).transpose()?;
        if let Some(draft) = &lambda {
            self.check_hosts(&name, &draft.settings, context)?;
        }
        let event = event(request, &template);
        let payload_problems = self.payload_problems(&template, &event)?;
        run_deadline(context.deadline, Duration::MAX)?;
        let _test = self.tests.take(&name.account)?;

        let (source, draft) = match lambda {
            Some(draft) => (TestedSource::Given, draft),
            None => (TestedSource::Draft, self.drafts.get(&name, context).await?),
        };
        let FunctionSettings { language, memory_mib, timeout, .. } = draft.settings;
        let build = self.preparer.build(&name.account, &draft.source, language, memory_mib);
        let (built, deadline) = load_within(context.deadline, timeout, build).await?;
        let mut warnings = Vec::new();
        let outcome = match built? {
            Err(build_error) => Outcome::BuildError(build_error),
            Ok(prepared) => {
                warnings = to_warnings(&prepared);
                // Held until the run is over, as for what is live.
                let _place = self.invoker.places.take_run(&name.account, memory_mib)?;
                let loaded = Loaded::new(prepared, &draft.settings);
                let trace = context.trace;
                let event = Event::read(&name, event.clone())?;
                let deployment = Arc::new(undeployed(name, draft));
                let run = Run { deployment, loaded, event, trace, deadline };
                Outcome::Report(self.invoker.runner.run(run).await.map_err(InvokerError::Run)?)
            }
        };
        Ok(TestInvokeResponse {
            source: source.into(),
            outcome: Some(outcome),
            event: Some(event),
            payload_problems,
            warnings,
        })
    }

    /// Refuses hosts that the live version may not call, unless the caller may allow them: the policy is an admin's.
    fn check_hosts(
        &self,
        name: &FunctionName,
        settings: &FunctionSettings,
        context: &CallContext,
    ) -> Result<(), InvokerError> {
        if context.caller.as_ref().is_some_and(|caller| caller.has_role(Role::Admin)) {
            return Ok(());
        }
        let live = self.invoker.deployments.function(name)?;
        let is_allowed = |host: &&HostPattern| {
            live.as_ref().is_some_and(|live| live.settings.allowed_hosts.contains(host))
        };
        match settings.allowed_hosts.iter().find(|host| !is_allowed(host)) {
            None => Ok(()),
            Some(host) => Err(InvokerError::HostForbidden(host.to_string())),
        }
    }

    /// Where the payload is none of the template's.
    fn payload_problems(
        &self,
        template: &Arc<Template>,
        event: &InvocationEvent,
    ) -> Result<Vec<PayloadProblem>, InvokerError> {
        let payload = parse_payload(&event.payload_json)
            .map_err(|error| Violations::one("payload_json", error.to_string()))?;
        let problems = self.schemas.check(template, &payload).map_err(InvokerError::Schema)?;
        let to_wire =
            |SchemaProblem { field, description }: SchemaProblem| PayloadProblem { field, description };
        Ok(problems.into_iter().map(to_wire).collect())
    }
}

/// A draft as what is live.
fn undeployed(function: FunctionName, draft: Draft) -> Deployment {
    Deployment {
        function,
        version: VersionNumber::NONE,
        digest: String::new(),
        settings: draft.settings,
        source: draft.source.into(),
    }
}

fn given(lambda: TestLambda) -> Result<Draft, Violations> {
    let settings = from_test_settings("lambda.settings", lambda.settings.unwrap_or_default())?;
    Ok(Draft { source: lambda.source, settings })
}

/// The event of a request: what that leaves open comes from the template, or is as random as it would be in a delivery.
fn event(request: TestInvokeRequest, template: &Template) -> InvocationEvent {
    let or = |given: String, default: &dyn Fn() -> String| if given.is_empty() { default() } else { given };
    let event_id = or(request.event_id, &|| format!("test-{}", Uuid::new_v4().simple()));
    InvocationEvent {
        conversation_id: or(request.conversation_id, &|| event_id.clone()),
        event_id,
        attempt: request.attempt.max(1),
        payload_json: or(request.payload_json, &|| template.sample_payload_json.clone()),
        headers: request.headers,
        idempotency_key: or(request.idempotency_key, &|| Uuid::new_v4().to_string()),
    }
}
