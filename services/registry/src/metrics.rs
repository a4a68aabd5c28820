//! What the registry counts.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use chatfn_telemetry::{Counts, Histogram, LabelValue as _, Metric, Metrics, buckets, declare, label_values};

use crate::{error::RegistryError, hub::Hub};

label_values! {
    /// What became of a deploy.
    pub(crate) enum Deployed: "outcome" {
        /// The version is live.
        Live = "live",
        /// It was only to be tried.
        Dry = "dry_run",
        /// The source is wrong.
        BuildFailed = "build_failed",
        /// No invoker answered.
        NoInvoker = "no_invoker",
        /// The request was refused: an old etag, a missing function, what the caller may not.
        Refused = "refused",
        /// The database or the registry itself failed.
        Failed = "failed",
    }
}

label_values! {
    /// How a watch ended.
    pub(crate) enum WatchEnd: "reason" {
        /// The watcher left, or the registry drained.
        Left = "left",
        /// It fell behind.
        TooSlow = "too_slow",
        /// The database was replaced by an older one.
        WentBack = "went_back",
        /// It said what is no acknowledgement, or the database failed.
        Failed = "failed",
    }
}

label_values! {
    /// What an invoker that asked for a secret got.
    pub(crate) enum Accessed: "outcome" {
        /// Its value.
        Given = "given",
        /// There is none.
        NotFound = "not_found",
        /// Its key is missing, or it is damaged, or secrets are off.
        Unreadable = "unreadable",
        /// The database failed.
        Failed = "failed",
    }
}

declare! {
    /// The metrics of the registry.
    pub METRICS = {
        DEPLOYS: Metric::counter("chatfn_registry_deploys_total").by(&[Deployed::LABEL])
            .means("Deploys, by what became of them.")
            .when_off("no_invoker: no invoker can be reached (chatfn_rpc_client_calls_total, callee invoker). failed: see the pool and the log. build_failed is the authors' business."),
        PREPARE: Metric::histogram("chatfn_registry_prepare_seconds", buckets::SECONDS)
            .means("How long invokers took to say whether a source can be deployed, those that failed included.")
            .when_off("Seconds: the invokers have too much to prepare (`--max-prepares`), or no processor."),
        WATCHERS: Metric::gauge("chatfn_registry_watchers")
            .means("Watchers of deployments that are connected to this replica.")
            .when_off("Over all replicas, fewer than there are invokers (twice, with --snapshot-file) and event-ingests: some of them are stale; see their chatfn_deployments_age_seconds."),
        BEHIND: Metric::gauge("chatfn_registry_watcher_behind_changes")
            .means("Changes that the watcher furthest behind has not taken over.")
            .when_off("Does not fall to 0 within seconds of a deploy: a watcher is stuck; it is cut off at --watch-backlog or --watch-stall, and comes back."),
        WATCHES_ENDED: Metric::counter("chatfn_registry_watches_ended_total").by(&[WatchEnd::LABEL])
            .means("Watches that ended, by why.")
            .when_off("too_slow: watchers have too little processor, or the network stalls. went_back: the database was restored from a copy."),
        REVISION: Metric::gauge("chatfn_registry_revision")
            .means("Number of the last change of what is live that this replica has seen.")
            .when_off("Differs between replicas for longer than a second: one of them cannot read the database."),
        SECRETS: Metric::counter("chatfn_registry_secret_accesses_total").by(&[Accessed::LABEL])
            .means("Reads of secrets by invokers, by what they got.")
            .when_off("unreadable: a key is missing in --secret-keys-file; the log says which."),
    }
}

/// The registry's own counters. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct RegistryMetrics {
    deploys: Counts<Deployed>,
    prepare: Histogram,
    watches_ended: Counts<WatchEnd>,
    secrets: Counts<Accessed>,
}

impl RegistryMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            deploys: metrics.counts(&DEPLOYS),
            prepare: metrics.histogram(&PREPARE),
            watches_ended: metrics.counts(&WATCHES_ENDED),
            secrets: metrics.counts(&SECRETS),
        }
    }

    /// Tells of the hub while it is there.
    pub(crate) fn watch(metrics: &Metrics, hub: &Arc<Hub>) {
        let of = |read: fn(&Hub) -> f64| {
            let hub: Weak<Hub> = Arc::downgrade(hub);
            move || Some(read(&*hub.upgrade()?))
        };
        metrics.observe(&WATCHERS, of(|hub| hub.watchers.count() as f64));
        metrics.observe(&BEHIND, of(|hub| hub.watchers.behind(hub.seen()) as f64));
        metrics.observe(&REVISION, of(|hub| hub.seen() as f64));
    }

    /// A deploy has ended.
    pub(crate) fn deployed<T>(&self, result: &Result<T, RegistryError>, is_dry: bool) {
        let outcome = match result {
            Ok(_) if is_dry => Deployed::Dry,
            Ok(_) => Deployed::Live,
            Err(RegistryError::BuildFailed { .. }) => Deployed::BuildFailed,
            Err(
                RegistryError::InvokerUnavailable(_)
                | RegistryError::PreparationsBusy { .. }
                | RegistryError::PrepareTimedOut,
            ) => Deployed::NoInvoker,
            Err(error) if error.is_ours() => Deployed::Failed,
            Err(_) => Deployed::Refused,
        };
        self.deploys.of(outcome).inc();
    }

    /// An invoker has said whether a source can be deployed, or has not.
    pub(crate) fn prepared(&self, took: Duration) {
        self.prepare.took(took);
    }

    /// A watch has ended.
    pub(crate) fn watch_ended(&self, end: WatchEnd) {
        self.watches_ended.of(end).inc();
    }

    /// An invoker has asked for a secret.
    pub(crate) fn accessed<T>(&self, result: &Result<T, RegistryError>) {
        let outcome = match result {
            Ok(_) => Accessed::Given,
            Err(RegistryError::SecretNotFound(_)) => Accessed::NotFound,
            Err(
                RegistryError::SecretKeyMissing { .. }
                | RegistryError::SecretDamaged { .. }
                | RegistryError::SecretsDisabled,
            ) => Accessed::Unreadable,
            Err(_) => Accessed::Failed,
        };
        self.secrets.of(outcome).inc();
    }
}
