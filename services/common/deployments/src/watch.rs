//! Keeps a [`Deployments`] up to date.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use chatfn_domain::name::FunctionName;
use chatfn_proto::registry::v1::{
    WatchAck, WatchDeploymentsRequest, WatchStart,
    deployment_watch_service_client::DeploymentWatchServiceClient, watch_deployments_request::Message,
    watch_deployments_response::Change,
};
use chatfn_rpc::{MAX_MESSAGE_BYTES, RequestExt as _, code_name};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};

use crate::{
    snapshot::Saved,
    state::{Contact, Deployments, NotReady, State, WatchConfig},
    wire::apply,
};

/// Pause before the second call; it doubles up to [`LONGEST_PAUSE`]. A snapshot makes it short again.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause between calls: how much longer than the registry itself a watcher may be stale.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Acknowledgements that may wait to be sent. A full queue slows the watch down, which the registry sees.
const ACK_QUEUE: usize = 64;
/// How long the registry has at the start before what a file holds is served: what was revoked since the file was written
/// should not run while the registry is there to say so.
const FIRST_CONTACT: Duration = Duration::from_secs(5);

/// A watch of the registry.
pub(crate) struct Watch {
    config: WatchConfig,
    deployments: Deployments,
    /// What the file holds, until something newer is known or it is served.
    saved: Mutex<Option<Saved>>,
}

impl Watch {
    pub(crate) fn new(config: WatchConfig, deployments: Deployments) -> Self {
        Self { config, deployments, saved: Mutex::default() }
    }

    /// Watches for ever: calls, and calls again when the call ends.
    pub(crate) async fn run(self) {
        if let Some(file) = &self.config.snapshot {
            *self.saved() = file.read(self.config.watcher, self.config.include_source).await;
        }
        let without_contact = async {
            tokio::time::sleep(FIRST_CONTACT).await;
            self.serve_saved();
        };
        tokio::join!(without_contact, self.watch_for_ever());
    }

    async fn watch_for_ever(&self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let mut is_complete = false;
            let end = self.watch(&mut is_complete).await;
            if is_complete {
                pause = FIRST_PAUSE;
                self.deployments.set_contact(Contact::Last(SystemTime::now()));
            }
            match &end {
                Err(status) if is_refusal(status) => self.forget_saved(),
                _ => self.serve_saved(),
            }
            match end {
                Ok(()) => tracing::info!("the registry ended the watch of deployments; calling again"),
                Err(status) => tracing::warn!(
                    code = code_name(status.code()),
                    error = status.message(),
                    deployments.age_s = age(self.deployments.contact()),
                    "the watch of deployments broke: what is live stays as it is; calling again in {pause:?}"
                ),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Serves what the file holds, if nothing newer is known.
    fn serve_saved(&self) {
        let Some(Saved { state, time }) = self.saved().take() else { return };
        let contact = Contact::File(time);
        tracing::warn!(
            deployments.age_s = age(contact),
            functions = state.functions.len(),
            templates = state.templates.len(),
            "the registry cannot be reached: serving what was live when the snapshot file was written"
        );
        self.deployments.set_contact(contact);
        self.deployments.replace(state);
    }

    /// A part of what a new call can go on from.
    fn known<T: Default>(&self, part: impl Fn(&State) -> T) -> T {
        let saved = self.saved();
        match (self.deployments.read(&part), &*saved) {
            (Ok(part), _) => part,
            (Err(NotReady), Some(saved)) => part(&saved.state),
            (Err(NotReady), None) => T::default(),
        }
    }

    /// Puts what is known of the function that a change deploys where the change goes: there it stays if this release
    /// cannot read the change.
    fn keep_known(&self, fresh: &mut State, change: &Change) {
        let Change::Deployment(deployment) = change else { return };
        let Ok(function) = deployment.function.parse::<FunctionName>() else { return };
        if let Some(known) = self.known(|it| it.functions.get(&function).cloned()) {
            fresh.functions.insert(function, known);
        }
    }

    /// Leaves the file aside for good: the registry is there, and has refused this service.
    fn forget_saved(&self) {
        if self.saved().take().is_some() {
            tracing::error!(
                "the registry refuses this service, so the snapshot file is not served: put its certificate right \
                 (--tls-cert, --tls-trust-domain) and start it again"
            );
        }
    }

    fn saved(&self) -> MutexGuard<'_, Option<Saved>> {
        self.saved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One call, from its beginning to its end.
    async fn watch(&self, is_complete: &mut bool) -> Result<(), Status> {
        let (requests, queue) = mpsc::channel(ACK_QUEUE);
        let say = async |message| {
            // An error means that the call is over, which its responses tell too.
            let _ = requests.send(WatchDeploymentsRequest { message: Some(message) }).await;
        };
        say(Message::Start(WatchStart {
            watcher: self.config.watcher.to_owned(),
            include_source: self.config.include_source,
            // What was left out would never come.
            resume_token: self.known(|it| if it.has_gaps { String::new() } else { it.resume_token.clone() }),
        }))
        .await;

        let mut client = DeploymentWatchServiceClient::new(self.config.registry.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let request = Request::new(ReceiverStream::new(queue)).without_deadline();
        let mut responses = client.watch_deployments(request).await?.into_inner();

        let mut fresh = State::default();
        let mut is_resumed = false;
        while let Some(response) = responses.message().await? {
            let (revision, resume_token) = (response.revision, response.resume_token);
            match response.change {
                Some(Change::Resumed(_)) if !*is_complete => {
                    is_resumed = true;
                    // Every template comes again.
                    fresh = State { functions: self.known(|it| it.functions.clone()), ..State::default() };
                }
                Some(Change::SnapshotComplete(_)) if !*is_complete => {
                    *is_complete = true;
                    let fresh = State { resume_token, ..std::mem::take(&mut fresh) };
                    tracing::info!(
                        revision,
                        is_resumed,
                        functions = fresh.functions.len(),
                        templates = fresh.templates.len(),
                        "watching deployments"
                    );
                    *self.saved() = None;
                    self.deployments.set_contact(Contact::Now);
                    self.deployments.replace(fresh);
                    say(Message::Ack(WatchAck { revision })).await;
                }
                Some(change) if *is_complete => {
                    self.deployments.change(|state| {
                        state.resume_token = resume_token;
                        apply(state, change)
                    });
                    say(Message::Ack(WatchAck { revision })).await;
                }
                Some(change) => {
                    self.keep_known(&mut fresh, &change);
                    apply(&mut fresh, change);
                }
                // A kind of change that a newer registry knows.
                None => {}
            }
        }
        Ok(())
    }
}

/// Whether the registry answers, and says that this service may not watch: then it does not get what is live in another way.
fn is_refusal(status: &Status) -> bool {
    matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated)
}

/// Seconds since what is live was what the registry said.
fn age(contact: Contact) -> Option<u64> {
    contact.age().map(|age| age.as_secs())
}
