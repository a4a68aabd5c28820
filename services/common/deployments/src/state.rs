//! What is live, for look-ups.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use chatfn_domain::{
    name::{FunctionName, TemplateName, VersionNumber},
    settings::FunctionSettings,
};
use chatfn_rpc::Client;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

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

/// What is live. Cheap to clone; all clones see the same.
#[derive(Debug, Clone)]
pub struct Deployments {
    state: Arc<RwLock<Option<State>>>,
    /// Changes seen so far, snapshots included; 0 until the first snapshot is complete.
    changes: Arc<watch::Sender<u64>>,
}

/// What is live at one moment.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) functions: HashMap<FunctionName, Arc<Deployment>>,
    pub(crate) templates: HashMap<TemplateName, Arc<Template>>,
}

impl Deployments {
    /// Watches the registry from a task of its own until `shutdown`.
    ///
    /// `watcher` is a name for the registry's logs. With `include_source`, deployments carry their sources.
    pub fn spawn(registry: Client, watcher: &str, include_source: bool, shutdown: CancellationToken) -> Self {
        let deployments = Self::empty();
        let watch = crate::watch::Watch {
            registry,
            watcher: watcher.to_owned(),
            include_source,
            deployments: deployments.clone(),
        };
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

    fn empty() -> Self {
        Self { state: Arc::new(RwLock::new(None)), changes: Arc::new(watch::Sender::new(0)) }
    }

    fn read<T>(&self, look_up: impl FnOnce(&State) -> T) -> Result<T, NotReady> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.as_ref().map(look_up).ok_or(NotReady)
    }

    pub(crate) fn replace(&self, fresh: State) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = Some(fresh);
        self.changes.send_modify(|changes| *changes += 1);
    }

    pub(crate) fn change(&self, apply: impl FnOnce(&mut State)) {
        apply(self.state.write().unwrap_or_else(PoisonError::into_inner).get_or_insert_default());
        self.changes.send_modify(|changes| *changes += 1);
    }
}
