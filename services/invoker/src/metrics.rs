//! What the invoker counts.

use std::sync::Arc;

use chatfn_engine::{Engine, PrepareError, ResetPath, RunError, Timing};
use chatfn_proto::invoker::v1::{FailureKind, RunReport, run_report::Outcome};
use chatfn_rpc::Deadline;
use chatfn_telemetry::{
    Count, Counts, Histogram, Label, LabelValue as _, Metric, Metrics, buckets, declare, label_values,
};
use tokio::time::Instant;

use crate::{
    confine::InForce,
    egress::EgressError,
    error::InvokerError,
    functions::Functions,
    places::{NoPlace, Places},
};

label_values! {
    /// What a run came to.
    pub(crate) enum Ran: "outcome" {
        /// The lambda returned.
        Returned = "returned",
        /// It threw.
        Thrown = "thrown",
        /// It took too long.
        Timeout = "timeout",
        /// It wanted too much memory.
        OutOfMemory = "out_of_memory",
        /// Its promise would never have settled.
        NeverSettles = "never_settles",
        /// Its result was too large.
        ResultTooLarge = "result_too_large",
        /// Its result was no JSON.
        ResultNotJson = "result_not_json",
        /// The sandbox broke.
        Crashed = "crashed",
        /// It could not be prepared, so nothing ran.
        NotLoadable = "not_loadable",
        /// The engine could not run it, so nothing ran.
        Failed = "engine_failed",
    }
}

label_values! {
    /// Why nothing ran.
    pub(crate) enum Refused: "reason" {
        /// As many run as may.
        Overloaded = "overloaded",
        /// The account has its share.
        AccountBusy = "account_busy",
        /// The version could not be loaded in time.
        NotLoaded = "loading_too_slow",
        /// Too little time was left.
        BudgetTooSmall = "budget_too_small",
        /// Nothing is deployed.
        NotDeployed = "not_deployed",
        /// What is live is not known yet.
        NoSnapshot = "no_snapshot",
        /// Something else.
        Other = "other",
    }
}

label_values! {
    /// What a look for a prepared function found.
    pub(crate) enum Found: "result" {
        /// It was there.
        Kept = "kept",
        /// Somebody was preparing it.
        Joined = "joined",
        /// It had to be prepared.
        Missed = "missed",
    }
}

label_values! {
    /// What a preparation came to.
    pub(crate) enum Prepared: "outcome" {
        /// It can be run.
        Done = "prepared",
        /// Its author has to mend it.
        Authors = "source_wrong",
        /// The platform failed.
        Platforms = "platform_failed",
    }
}

label_values! {
    /// What an outbound request came to. Names are those of a run's record.
    pub(crate) enum Requested: "result" {
        /// An answer, whatever its status.
        Answered = "answered",
        InvalidUrl = "INVALID_URL",
        UnsupportedScheme = "UNSUPPORTED_SCHEME",
        InvalidRequest = "INVALID_REQUEST",
        RequestTooLarge = "REQUEST_TOO_LARGE",
        HostNotAllowed = "HOST_NOT_ALLOWED",
        AddressNotAllowed = "ADDRESS_NOT_ALLOWED",
        DnsFailed = "DNS_FAILED",
        ConnectFailed = "CONNECT_FAILED",
        TlsFailed = "TLS_FAILED",
        ExchangeFailed = "EXCHANGE_FAILED",
        TooManyRedirects = "TOO_MANY_REDIRECTS",
        RedirectRefused = "REDIRECT_REFUSED",
        ResponseTooLarge = "RESPONSE_TOO_LARGE",
        HeadersTooLarge = "HEADERS_TOO_LARGE",
        UnsupportedEncoding = "UNSUPPORTED_ENCODING",
        RateLimited = "RATE_LIMITED",
        Overloaded = "OVERLOADED",
        Deadline = "DEADLINE",
        Aborted = "ABORTED",
    }
}

const BY: Label = Label::among("by", &["landlock", "seccomp"]);

declare! {
    /// The metrics of the invoker.
    pub METRICS = {
        RUNS: Metric::counter("chatfn_invoker_runs_total").by(&[Ran::LABEL])
            .means("Runs that ended, tests and functions that others invoked included, by what they came to.")
            .when_off("crashed or engine_failed: report it, with the log. timeout and out_of_memory of many accounts at once: this machine is overloaded. The others are their authors' business."),
        REFUSED: Metric::counter("chatfn_invoker_runs_refused_total").by(&[Refused::LABEL])
            .means("Runs that were refused before anything ran, tests and functions that others invoked included. Who asks may ask again.")
            .when_off("overloaded: add replicas, or raise --max-runs (--max-children for functions that others invoke) with the memory for it. account_busy: one account sends more than its share. loading_too_slow: the processors are busy, or a version's top-level code is slow; the log names it."),
        RUN: Metric::histogram("chatfn_invoker_run_seconds", buckets::SECONDS)
            .means("How long runs took, their waits for answers from outside included, waiting for a sandbox not.")
            .when_off("Longer than usual: what lambdas call is slow (chatfn_invoker_egress_requests_total), or the processors are the limit."),
        WAIT: Metric::histogram("chatfn_invoker_sandbox_wait_seconds", buckets::SECONDS)
            .means("How long runs waited for a sandbox.")
            .when_off("Above a millisecond: there are as many runs as sandboxes; see chatfn_invoker_sandboxes_free."),
        OVERSHOOT: Metric::histogram("chatfn_invoker_overshoot_seconds", buckets::SECONDS)
            .means("For runs that ended after their deadline: by how much.")
            .when_off("Above 0.05: more runs than processors, so that what must end is not looked at; lower --max-runs, or give more processor."),
        IN_PROGRESS: Metric::gauge("chatfn_invoker_runs_in_progress")
            .means("Runs in progress, by their memory (one with up to 128 MiB counts as two), without those that other runs wait for.")
            .when_off("At chatfn_invoker_runs_max: more are refused."),
        MAX: Metric::gauge("chatfn_invoker_runs_max").means("Most such runs at once (`--max-runs`)."),
        SANDBOXES_FREE: Metric::gauge("chatfn_invoker_sandboxes_free")
            .means("Sandboxes that a run could have now.")
            .when_off("0: runs wait for one."),
        LOOKUPS: Metric::counter("chatfn_invoker_prepared_lookups_total").by(&[Found::LABEL])
            .means("Looks for the prepared function of a run, by what was found.")
            .when_off("missed grows without deploys: more functions are in use than fit; see evicted."),
        PREPARES: Metric::counter("chatfn_invoker_prepares_total").by(&[Prepared::LABEL])
            .means("Preparations of functions that are live, by what they came to.")
            .when_off("platform_failed: no sandbox was free, or the engine failed; see the log. source_wrong: a deployed version cannot be loaded by this engine's release; the log names it."),
        PREPARE: Metric::histogram("chatfn_invoker_prepare_seconds", buckets::SECONDS)
            .means("How long such preparations took, waiting for their turn included.")
            .when_off("Seconds: too many at once (`--max-prepares`); the first runs after a deploy wait for it."),
        KEPT: Metric::gauge("chatfn_invoker_prepared_functions").means("Functions that are kept ready, failures included."),
        KEPT_BYTES: Metric::gauge("chatfn_invoker_prepared_bytes").means("Memory of what is kept ready.")
            .when_off("At chatfn_invoker_prepared_max_bytes: functions are dropped, and prepared again when needed; raise --prepared-bytes."),
        KEPT_MAX_BYTES: Metric::gauge("chatfn_invoker_prepared_max_bytes").means("Most such memory (`--prepared-bytes`)."),
        EVICTED: Metric::counter("chatfn_invoker_prepared_evicted_total")
            .means("Functions that were dropped to make room.")
            .when_off("Grows steadily: raise --prepared-bytes."),
        REBUILT: Metric::counter("chatfn_invoker_prepared_rebuilt_total")
            .means("Preparations of functions that had been dropped to make room.")
            .when_off("Grows steadily: each costs a run some milliseconds; raise --prepared-bytes."),
        REQUESTS: Metric::counter("chatfn_invoker_egress_requests_total").by(&[Requested::LABEL])
            .means("Outbound requests of lambdas, by what they came to; docs/SECURITY.md explains the refusals.")
            .when_off("HOST_NOT_ALLOWED, ADDRESS_NOT_ALLOWED: somebody tries, or settings lack a host. DNS_FAILED, CONNECT_FAILED, TLS_FAILED of many: the network or the name servers. OVERLOADED: raise --egress-buffer-bytes."),
        SENT: Metric::counter("chatfn_invoker_egress_sent_bytes_total").means("Bodies that lambdas sent, first hops only."),
        RECEIVED: Metric::counter("chatfn_invoker_egress_received_bytes_total").means("Bodies of answers that lambdas got."),
        PAGEMAP_SCAN: Metric::gauge("chatfn_invoker_pagemap_scan")
            .means("1 if the kernel tells which pages a run has written (PAGEMAP_SCAN, Linux 6.7), so that resets are fast; 0 if all kept pages are restored.")
            .when_off("0: runs cost more; use a newer kernel, or allow the call in the container's seccomp profile."),
        CONFINEMENT: Metric::gauge("chatfn_invoker_confinement").by(&[BY])
            .means("1 for what confines this process.")
            .when_off("0 in production: a lambda that breaks out has what this user has; see --confinement and the log of the start."),
    }
}

impl From<&NoPlace> for Refused {
    fn from(error: &NoPlace) -> Self {
        match error {
            NoPlace::Full { .. } => Self::Overloaded,
            NoPlace::Busy { .. } => Self::AccountBusy,
        }
    }
}

impl From<&InvokerError> for Refused {
    fn from(error: &InvokerError) -> Self {
        match error {
            InvokerError::NoPlace(no_place) => no_place.into(),
            InvokerError::Run(RunError::NoCapacity) => Self::Overloaded,
            InvokerError::Load(error) if matches!(**error, PrepareError::NoCapacity) => Self::NotLoaded,
            InvokerError::BudgetTooSmall { .. } => Self::BudgetTooSmall,
            InvokerError::NotDeployed(_) => Self::NotDeployed,
            InvokerError::NoSnapshot(_) => Self::NoSnapshot,
            _ => Self::Other,
        }
    }
}

/// The invoker's own counters. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct InvokerMetrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    runs: Counts<Ran>,
    refused: Counts<Refused>,
    run: Histogram,
    wait: Histogram,
    overshoot: Histogram,
    lookups: Counts<Found>,
    prepares: Counts<Prepared>,
    prepare: Histogram,
    evicted: Count,
    rebuilt: Count,
    requests: Counts<Requested>,
    sent: Count,
    received: Count,
}

impl InvokerMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self(Arc::new(Inner {
            runs: metrics.counts(&RUNS),
            refused: metrics.counts(&REFUSED),
            run: metrics.histogram(&RUN),
            wait: metrics.histogram(&WAIT),
            overshoot: metrics.histogram(&OVERSHOOT),
            lookups: metrics.counts(&LOOKUPS),
            prepares: metrics.counts(&PREPARES),
            prepare: metrics.histogram(&PREPARE),
            evicted: metrics.count(&EVICTED),
            rebuilt: metrics.count(&REBUILT),
            requests: metrics.counts(&REQUESTS),
            sent: metrics.count(&SENT),
            received: metrics.count(&RECEIVED),
        }))
    }

    /// Tells of the engine and of what confines it.
    pub(crate) fn observe_engine(metrics: &Metrics, engine: &Engine, in_force: InForce) {
        let is_fast = engine.reset_path() == ResetPath::PagemapScan;
        metrics.gauge(&PAGEMAP_SCAN).set(is_fast.into());
        let confined = [in_force.landlock, in_force.seccomp];
        metrics.observe_each(&CONFINEMENT, move || {
            BY.values.iter().zip(confined).map(|(by, is)| (vec![*by], f64::from(u8::from(is)))).collect()
        });
        let engine = engine.clone();
        metrics.observe(&SANDBOXES_FREE, move || Some(engine.free_slots() as f64));
    }

    /// Tells of the runs in progress.
    pub(crate) fn observe_places(metrics: &Metrics, places: &Arc<Places>) {
        let max = places.max() as f64;
        let places = Arc::clone(places);
        metrics.observe(&IN_PROGRESS, move || Some(places.in_use() as f64));
        metrics.observe(&MAX, move || Some(max));
    }

    /// Tells of what is kept ready.
    pub(crate) fn observe_functions(metrics: &Metrics, functions: &Functions) {
        let of = |read: fn(&Functions) -> usize| {
            let functions = functions.clone();
            move || Some(read(&functions) as f64)
        };
        metrics.observe(&KEPT, of(|functions| functions.kept().0));
        metrics.observe(&KEPT_BYTES, of(|functions| functions.kept().1));
        metrics.observe(&KEPT_MAX_BYTES, of(Functions::max_bytes));
    }

    /// A run has ended.
    pub(crate) fn ran(&self, report: &RunReport) {
        let outcome = match &report.outcome {
            Some(Outcome::Failure(failure)) => match failure.kind() {
                FailureKind::Thrown | FailureKind::Unspecified => Ran::Thrown,
                FailureKind::Timeout => Ran::Timeout,
                FailureKind::OutOfMemory => Ran::OutOfMemory,
                FailureKind::NeverSettles => Ran::NeverSettles,
                FailureKind::ResultTooLarge => Ran::ResultTooLarge,
                FailureKind::ResultNotJson => Ran::ResultNotJson,
                FailureKind::Crashed => Ran::Crashed,
                FailureKind::NotLoadable => Ran::NotLoadable,
            },
            _ => Ran::Returned,
        };
        self.0.runs.of(outcome).inc();
    }

    /// The engine could not run something.
    pub(crate) fn engine_failed(&self) {
        self.0.runs.of(Ran::Failed).inc();
    }

    /// How long a run, which has ended now, took.
    pub(crate) fn timed(&self, timing: &Timing, deadline: Deadline) {
        self.0.run.took(timing.total.saturating_sub(timing.slot));
        self.0.wait.took(timing.slot);
        let late = Instant::now().saturating_duration_since(deadline.instant());
        if !late.is_zero() {
            self.0.overshoot.took(late);
        }
    }

    /// Nothing ran.
    pub(crate) fn refused(&self, reason: Refused) {
        self.0.refused.of(reason).inc();
    }

    /// A prepared function was looked for.
    pub(crate) fn looked_up(&self, found: Found) {
        self.0.lookups.of(found).inc();
    }

    /// A preparation has ended.
    pub(crate) fn prepared(&self, outcome: Prepared, took: std::time::Duration) {
        self.0.prepares.of(outcome).inc();
        self.0.prepare.took(took);
    }

    /// Functions were dropped to make room.
    pub(crate) fn evicted(&self, count: u64) {
        self.0.evicted.inc_by(count);
    }

    /// A function is prepared that had been dropped.
    pub(crate) fn rebuilt(&self) {
        self.0.rebuilt.inc();
    }

    /// An outbound request has ended.
    pub(crate) fn requested(&self, error: Option<&EgressError>) {
        let result = match error {
            None => Requested::Answered,
            Some(EgressError::InvalidUrl(_)) => Requested::InvalidUrl,
            Some(EgressError::UnsupportedScheme(_)) => Requested::UnsupportedScheme,
            Some(EgressError::InvalidRequest(_)) => Requested::InvalidRequest,
            Some(EgressError::RequestTooLarge(_)) => Requested::RequestTooLarge,
            Some(EgressError::HostNotAllowed(_)) => Requested::HostNotAllowed,
            Some(EgressError::AddressNotAllowed { .. }) => Requested::AddressNotAllowed,
            Some(EgressError::DnsFailed { .. }) => Requested::DnsFailed,
            Some(EgressError::ConnectFailed { .. }) => Requested::ConnectFailed,
            Some(EgressError::TlsFailed { .. }) => Requested::TlsFailed,
            Some(EgressError::ExchangeFailed { .. }) => Requested::ExchangeFailed,
            Some(EgressError::TooManyRedirects) => Requested::TooManyRedirects,
            Some(EgressError::RedirectRefused(_)) => Requested::RedirectRefused,
            Some(EgressError::ResponseTooLarge(_)) => Requested::ResponseTooLarge,
            Some(EgressError::HeadersTooLarge { .. }) => Requested::HeadersTooLarge,
            Some(EgressError::UnsupportedEncoding(_)) => Requested::UnsupportedEncoding,
            Some(EgressError::RateLimited(_)) => Requested::RateLimited,
            Some(EgressError::Overloaded) => Requested::Overloaded,
            Some(EgressError::Deadline(_)) => Requested::Deadline,
            // Functions are no requests, and are not counted here.
            Some(EgressError::Aborted | EgressError::FunctionFailed { .. }) => Requested::Aborted,
        };
        self.0.requests.of(result).inc();
    }

    /// An outbound request took so many bytes there, and back.
    pub(crate) fn carried(&self, sent: usize, received: usize) {
        let count = |bytes| u64::try_from(bytes).unwrap_or(u64::MAX);
        self.0.sent.inc_by(count(sent));
        self.0.received.inc_by(count(received));
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;

    #[test]
    fn want_of_capacity_counts_as_overload_however_it_shows() {
        let account = || "acme".parse().unwrap();
        for (error, reason) in [
            (InvokerError::NoPlace(NoPlace::Full { what: "runs", limit: 1 }), Refused::Overloaded),
            (
                InvokerError::NoPlace(NoPlace::Busy { what: "runs", account: account(), held: 1 }),
                Refused::AccountBusy,
            ),
            (InvokerError::Run(RunError::NoCapacity), Refused::Overloaded),
            (InvokerError::Load(Arc::new(PrepareError::NoCapacity)), Refused::NotLoaded),
            (InvokerError::Run(RunError::InvalidCall("")), Refused::Other),
            (InvokerError::BudgetTooSmall { left: Duration::ZERO }, Refused::BudgetTooSmall),
        ] {
            assert_eq!(Refused::from(&error).index(), reason.index(), "{error}");
        }
    }
}
