//! What is live, for look-ups.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::SystemTime,
};

use chatfn_domain::{
    name::{FunctionName, TemplateName, VersionNumber},
    settings::FunctionSettings,
};
use chatfn_rpc::Client;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use crate::{SnapshotFile, keep::keep, watch::Watch};

/// The version of a function that is live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    /// Name of the function.
    pub function: FunctionName,
    /// The live version.
    pub version: VersionNumber,
    /// SHA-256 of source and settings, in hexadecimal.
    pub digest: String,
    /// Settings of the version.
    pub settings: FunctionSettings,
    /// Source of the version; empty when the watch was started without sources.
    pub source: Arc<str>,
}

/// What services need to know of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Name of the template.
    pub name: TemplateName,
    /// JSON Schema of its payloads.
    pub payload_schema_json: String,
    /// A payload that satisfies the schema.
    pub sample_payload_json: String,
    /// Whether it fires once per conversation.
    pub fires_once: bool,
}

/// What is live is not known yet: no snapshot was ever complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what is live is not known yet: the registry has not been reached since the start")]
pub struct NotReady;

/// How to watch the registry.
#[derive(Debug, Clone)]
pub struct WatchConfig {
    /// The registry.
    pub registry: Client,
    /// Who watches: for the registry's logs, and for a snapshot file to tell whose it is.
    pub watcher: &'static str,
    /// Whether deployments carry their sources.
    pub include_source: bool,
    /// What to begin with when the registry cannot be reached.
    pub snapshot: Option<SnapshotFile>,
}

/// What look-ups see since a moment ago.
#[derive(Debug, Clone)]
pub enum Fresh {
    /// This version.
    One(Arc<Deployment>),
    /// Whatever there is: all of it may be new.
    All,
}

/// Versions that a receiver of [`Deployments::fresh`] may be behind.
const FRESH_BACKLOG: usize = 256;

/// What is live. Cheap to clone; all clones see the same.
#[derive(Debug, Clone)]
pub struct Deployments {
    state: Arc<RwLock<Option<State>>>,
    contact: Arc<RwLock<Contact>>,
    /// Changes seen so far, snapshots included; 0 until the first snapshot is complete.
    changes: Arc<watch::Sender<u64>>,
    fresh: broadcast::Sender<Fresh>,
}

/// What is live at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) functions: HashMap<FunctionName, Arc<Deployment>>,
    pub(crate) templates: HashMap<TemplateName, Arc<Template>>,
    /// Where the registry can go on from; empty when it cannot.
    pub(crate) resume_token: String,
    /// Whether something was left out that this release cannot read. A later release must not go on from there.
    pub(crate) has_gaps: bool,
}

/// Whether what is live is what the registry says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Contact {
    /// Nothing is known.
    #[default]
    Never,
    /// A watch is under way.
    Now,
    /// It was so then.
    Last(SystemTime),
    /// It was so then, according to the snapshot file, which it came from.
    File(SystemTime),
}

impl Deployments {
    /// Watches the registry from tasks of their own until `shutdown`.
    ///
    /// With a snapshot file, what that holds is served when the registry cannot be reached at the start; the file is
    /// kept up to date from then on, unless it is only to be read.
    pub fn spawn(config: WatchConfig, shutdown: CancellationToken) -> Self {
        let deployments = Self::empty();
        if let Some(file) = config.snapshot.clone().filter(|file| file.keep) {
            let keeping = keep(file, config.watcher, config.include_source, deployments.clone());
            let stop = shutdown.clone();
            tokio::spawn(async move { stop.run_until_cancelled(keeping).await });
        }
        let watch = Watch::new(config, deployments.clone());
        tokio::spawn(async move { shutdown.run_until_cancelled(watch.run()).await });
        deployments
    }

    /// What is live, given and never changing, for tests that need no registry.
    pub fn fixed(
        functions: impl IntoIterator<Item = Deployment>,
        templates: impl IntoIterator<Item = Template>,
    ) -> Self {
        let deployments = Self::empty();
        deployments.replace(State {
            functions: functions.into_iter().map(|it| (it.function.clone(), Arc::new(it))).collect(),
            templates: templates.into_iter().map(|it| (it.name.clone(), Arc::new(it))).collect(),
            ..State::default()
        });
        deployments
    }

    /// The live version of a function, if any.
    ///
    /// # Errors
    /// [`NotReady`] before the first snapshot.
    pub fn function(&self, name: &FunctionName) -> Result<Option<Arc<Deployment>>, NotReady> {
        self.read(|state| state.functions.get(name).cloned())
    }

    /// A template, if there is one of that name.
    ///
    /// # Errors
    /// [`NotReady`] before the first snapshot.
    pub fn template(&self, name: &TemplateName) -> Result<Option<Arc<Template>>, NotReady> {
        self.read(|state| state.templates.get(name).cloned())
    }

    /// Every function that is live, in no order.
    ///
    /// # Errors
    /// [`NotReady`] before the first snapshot.
    pub fn functions(&self) -> Result<Vec<Arc<Deployment>>, NotReady> {
        self.read(|state| state.functions.values().cloned().collect())
    }

    /// Waits for the first complete snapshot. Cancel safe.
    pub async fn ready(&self) {
        // The sender lives as long as `self`.
        let _ = self.changed().wait_for(|changes| *changes > 0).await;
    }

    /// A receiver that is notified after every change that look-ups see.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// What becomes live from now on, one by one. A receiver that is told that it has fallen behind has to look at
    /// everything, as for [`Fresh::All`].
    pub fn fresh(&self) -> broadcast::Receiver<Fresh> {
        self.fresh.subscribe()
    }

    pub(crate) fn empty() -> Self {
        Self {
            state: Arc::default(),
            contact: Arc::default(),
            changes: Arc::new(watch::Sender::new(0)),
            fresh: broadcast::Sender::new(FRESH_BACKLOG),
        }
    }

    /// All that look-ups see; `None` before the first snapshot. Costs what copying two maps of pointers costs.
    pub(crate) fn state(&self) -> Option<State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn contact(&self) -> Contact {
        *self.contact.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_contact(&self, contact: Contact) {
        *self.contact.write().unwrap_or_else(PoisonError::into_inner) = contact;
    }

    pub(crate) fn read<T>(&self, look_up: impl FnOnce(&State) -> T) -> Result<T, NotReady> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.as_ref().map(look_up).ok_or(NotReady)
    }

    pub(crate) fn replace(&self, state: State) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = Some(state);
        self.tell(Fresh::All);
    }

    /// Applies a change, which says what it has made live.
    pub(crate) fn change(&self, apply: impl FnOnce(&mut State) -> Option<Arc<Deployment>>) {
        let fresh = apply(self.state.write().unwrap_or_else(PoisonError::into_inner).get_or_insert_default());
        match fresh {
            Some(deployment) => self.tell(Fresh::One(deployment)),
            None => self.changes.send_modify(|changes| *changes += 1),
        }
    }

    fn tell(&self, fresh: Fresh) {
        self.changes.send_modify(|changes| *changes += 1);
        // An error means that nobody wants to know.
        let _ = self.fresh.send(fresh);
    }
}
