//! What is live, as watched from the registry: stale when the registry is down, never gone.
//!
//! Invoker and event-ingest both hold a [`Deployments`]. It calls `WatchDeployments`, takes the snapshot
//! and then every change, confirms each to the registry once look-ups see it, and calls again when the
//! call breaks. Until the new snapshot is complete, look-ups answer from the old one.

use std::{collections::HashMap, sync::Arc};

use chatfn_domain::{
    name::{FunctionName, TemplateName, VersionNumber},
    settings::FunctionSettings,
};

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

/// What ingest needs to know of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Name of the template.
    pub name: TemplateName,
    /// JSON Schema of its payloads.
    pub payload_schema_json: String,
    /// Whether it fires once per conversation.
    pub fires_once: bool,
}

/// What is live at one moment.
#[derive(Debug, Default)]
struct State {
    functions: HashMap<FunctionName, Arc<Deployment>>,
    templates: HashMap<TemplateName, Arc<Template>>,
}
