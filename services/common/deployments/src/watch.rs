//! Keeps a [`Deployments`] up to date.

use std::{sync::Arc, time::Duration};

use chatfn_domain::name::{FunctionName, TemplateResource, VersionNumber};
use chatfn_proto::{
    convert::to_settings,
    registry::v1::{
        self as wire, Firing, WatchAck, WatchDeploymentsRequest, WatchStart,
        deployment_watch_service_client::DeploymentWatchServiceClient, watch_deployments_request::Message,
        watch_deployments_response::Change,
    },
};
use chatfn_rpc::{Client, MAX_MESSAGE_BYTES, RequestExt as _, code_name};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};

use crate::state::{Deployment, Deployments, State, Template};

/// Pause before the second call; it doubles up to [`LONGEST_PAUSE`]. A snapshot makes it short again.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause between calls: how much longer than the registry itself a watcher may be stale.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Acknowledgements that may wait to be sent. A full queue slows the watch down, which the registry sees.
const ACK_QUEUE: usize = 64;

/// A watch of the registry.
pub(crate) struct Watch {
    pub(crate) registry: Client,
    pub(crate) watcher: String,
    pub(crate) include_source: bool,
    pub(crate) deployments: Deployments,
}

impl Watch {
    /// Watches for ever: calls, and calls again when the call ends.
    pub(crate) async fn run(self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let mut had_snapshot = false;
            let end = self.watch(&mut had_snapshot).await;
            if had_snapshot {
                pause = FIRST_PAUSE;
            }
            match end {
                Ok(()) => tracing::info!("the registry ended the watch of deployments; calling again"),
                Err(status) => tracing::warn!(
                    code = code_name(status.code()),
                    error = status.message(),
                    "the watch of deployments broke: what is live stays as it is; calling again in {pause:?}"
                ),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One call, from its snapshot to its end.
    async fn watch(&self, had_snapshot: &mut bool) -> Result<(), Status> {
        let (requests, queue) = mpsc::channel(ACK_QUEUE);
        let say = async |message| {
            // An error means that the call is over, which its responses tell too.
            let _ = requests.send(WatchDeploymentsRequest { message: Some(message) }).await;
        };
        let start = WatchStart { watcher: self.watcher.clone(), include_source: self.include_source };
        say(Message::Start(start)).await;

        let mut client = DeploymentWatchServiceClient::new(self.registry.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let request = Request::new(ReceiverStream::new(queue)).without_deadline();
        let mut responses = client.watch_deployments(request).await?.into_inner();

        let mut snapshot = State::default();
        while let Some(response) = responses.message().await? {
            let revision = response.revision;
            match response.change {
                Some(Change::SnapshotComplete(_)) if !*had_snapshot => {
                    *had_snapshot = true;
                    let fresh = std::mem::take(&mut snapshot);
                    tracing::info!(
                        revision,
                        functions = fresh.functions.len(),
                        templates = fresh.templates.len(),
                        "watching deployments"
                    );
                    self.deployments.replace(fresh);
                    say(Message::Ack(WatchAck { revision })).await;
                }
                Some(change) if *had_snapshot => {
                    self.deployments.change(|state| apply(state, change));
                    say(Message::Ack(WatchAck { revision })).await;
                }
                Some(change) => apply(&mut snapshot, change),
                // A kind of change that a newer registry knows.
                None => {}
            }
        }
        Ok(())
    }
}

fn apply(state: &mut State, change: Change) {
    match change {
        Change::Template(template) => {
            if let Some(template) = read_template(template) {
                state.templates.insert(template.name.clone(), Arc::new(template));
            }
        }
        Change::Deployment(deployment) => {
            if let Some(deployment) = read_deployment(deployment) {
                state.functions.insert(deployment.function.clone(), Arc::new(deployment));
            }
        }
        Change::Removed(removed) => {
            if let Ok(function) = removed.function.parse::<FunctionName>() {
                state.functions.remove(&function);
            }
        }
        Change::SnapshotComplete(_) => {}
    }
}

/// A deployment that this release cannot read is left out, and what is live of that function stays.
fn read_deployment(wire: wire::Deployment) -> Option<Deployment> {
    let read = || {
        Some(Deployment {
            function: wire.function.parse().ok()?,
            version: VersionNumber::new(wire.version)?,
            settings: to_settings("settings", wire.settings.as_ref()?).ok()?,
            digest: wire.digest,
            source: wire.source.into(),
        })
    };
    let function = wire.function.clone();
    let deployment = read();
    if deployment.is_none() {
        tracing::error!(%function, "this release cannot read a deployment: upgrade it to the registry's");
    }
    deployment
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
