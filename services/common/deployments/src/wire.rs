//! Messages of the registry as what look-ups see, and back.

use std::sync::Arc;

use chatfn_domain::name::{FunctionName, TemplateResource, VersionNumber};
use chatfn_proto::{
    convert::{from_settings, to_settings},
    registry::v1::{self as wire, Firing, watch_deployments_response::Change},
};

use crate::state::{Deployment, State, Template};

/// Takes a change over, and gives what it has made live. A deployment that this release cannot read leaves a gap: what was
/// live of that function stays.
pub(crate) fn apply(state: &mut State, change: Change) -> Option<Arc<Deployment>> {
    match change {
        Change::Template(template) => {
            let template = read_template(template)?;
            state.templates.insert(template.name.clone(), Arc::new(template));
        }
        Change::Deployment(deployment) => {
            let function = deployment.function.clone();
            let Some(deployment) = read_deployment(deployment).map(Arc::new) else {
                tracing::error!(%function, "this release cannot read a deployment: upgrade it to the registry's");
                state.has_gaps = true;
                return None;
            };
            state.functions.insert(deployment.function.clone(), Arc::clone(&deployment));
            return Some(deployment);
        }
        Change::Removed(removed) => {
            state.functions.remove(&removed.function.parse::<FunctionName>().ok()?);
        }
        Change::Resumed(_) | Change::SnapshotComplete(_) => {}
    }
    None
}

/// All that there is, as a watch would tell it.
pub(crate) fn changes(state: &State) -> impl Iterator<Item = Change> {
    let templates = state.templates.values().map(|template| {
        Change::Template(wire::Template {
            name: format!("templates/{}", template.name),
            payload_schema_json: template.payload_schema_json.clone(),
            sample_payload_json: template.sample_payload_json.clone(),
            firing: match template.fires_once {
                true => Firing::OncePerConversation.into(),
                false => Firing::Repeated.into(),
            },
            ..wire::Template::default()
        })
    });
    let functions = state.functions.values().map(|deployment| {
        Change::Deployment(wire::Deployment {
            function: deployment.function.to_string(),
            version: deployment.version.get(),
            digest: deployment.digest.clone(),
            settings: Some(from_settings(&deployment.settings)),
            source: deployment.source.to_string(),
            deploy_time: None,
        })
    });
    templates.chain(functions)
}

fn read_deployment(wire: wire::Deployment) -> Option<Deployment> {
    Some(Deployment {
        function: wire.function.parse().ok()?,
        version: VersionNumber::new(wire.version)?,
        settings: to_settings("settings", wire.settings.as_ref()?).ok()?,
        digest: wire.digest,
        source: wire.source.into(),
    })
}

fn read_template(wire: wire::Template) -> Option<Template> {
    let TemplateResource { template } = wire.name.parse().ok()?;
    Some(Template {
        name: template,
        payload_schema_json: wire.payload_schema_json,
        sample_payload_json: wire.sample_payload_json,
        fires_once: wire.firing == i32::from(Firing::OncePerConversation),
    })
}
