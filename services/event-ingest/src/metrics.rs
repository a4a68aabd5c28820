//! What event-ingest counts.

mod lanes;

use std::{sync::Arc, time::Duration};

use chatfn_proto::{
    ingest::v1::DeliveryState,
    invoker::v1::{FailureKind, RunReport, run_report::Outcome},
};
use chatfn_rpc::ErrorReport;
use chatfn_telemetry::{
    Count, Counts, Gauge, Gauges, Histogram, LabelValue as _, Metric, Metrics, buckets, declare, label_values,
};
use tonic::Status;

pub(crate) use self::lanes::{LaneTold, LanesTold};

label_values! {
    /// What became of an event that was recorded, or was to be.
    pub(crate) enum Recorded: "result" {
        /// It is new.
        Accepted = "accepted",
        /// It was recorded before.
        Duplicate = "duplicate",
        /// Its id is another event's.
        Reused = "id_reused",
    }
}

label_values! {
    /// Why an event was refused.
    pub(crate) enum Refused: "reason" {
        /// The account publishes more than it may.
        Quota = "quota_exceeded",
        /// The account has its share of the calls.
        Busy = "account_busy",
        /// The queue is full.
        Overloaded = "overloaded",
        /// The event is not one that can be recorded.
        Invalid = "invalid",
        /// Its id was used for another event.
        Reused = "id_reused",
        /// The store failed.
        Store = "store_unavailable",
        /// Its caller's time was up.
        Late = "deadline_exceeded",
        /// This replica shuts down, or has just started.
        NotServing = "not_serving",
        /// Something else.
        Other = "other",
    }
}

label_values! {
    /// How an attempt ended.
    pub(crate) enum Attempted: "result" {
        /// The lambda returned.
        Returned = "returned",
        /// It threw, or did what counts as such.
        Thrown = "thrown",
        /// It took too long.
        Timeout = "timeout",
        /// Its sandbox broke, or it could not be loaded.
        Platform = "platform_failed",
        /// It may have run, and nobody can tell.
        Unknown = "unknown",
        /// No invoker took it: it does not count, and is made again.
        NotTaken = "not_taken",
        /// The time was up before it could be made.
        Late = "too_late",
    }
}

label_values! {
    /// What an event ended in.
    pub(crate) enum Ended: "state" {
        Succeeded = "SUCCEEDED",
        NoFunction = "NO_FUNCTION",
        Suppressed = "SUPPRESSED",
        Expired = "EXPIRED",
        DeadLettered = "DEAD_LETTERED",
    }
}

label_values! {
    /// What was asked of a lane, and is done.
    pub(crate) enum Intervened: "action" {
        /// A halted conversation goes on, with the same event.
        Resume = "resume",
        /// It goes on, without that event.
        Skip = "skip",
        /// An event that had its outcome runs again.
        Replay = "replay",
    }
}

label_values! {
    /// What an event is parked for.
    pub(crate) enum Parked: "for" {
        Retry = "retry",
        Operator = "operator",
        Reopened = "reopened",
    }
}

declare! {
    /// The metrics of event-ingest.
    pub METRICS = {
        EVENTS: Metric::counter("chatfn_ingest_events_total").by(&[Recorded::LABEL])
            .means("Events that were published and durably recorded before they were acknowledged; `duplicate`: once more, and not again; `id_reused`: refused. Those that their template suppresses are accepted, too, and end in SUPPRESSED at once.")
            .when_off("Many duplicates: a publisher does not get, or not read, its acknowledgements. id_reused: a publisher makes up ids twice."),
        REFUSED: Metric::counter("chatfn_ingest_events_refused_total").by(&[Refused::LABEL])
            .means("Events whose publishers were told that they are not recorded, or that it is not known.")
            .when_off("overloaded and store_unavailable: Postgres is slow or away; see commit durations and the pools. quota_exceeded: raise the account's quota, or find out what it does. invalid: a publisher has a mistake."),
        BATCH: Metric::histogram("chatfn_ingest_commit_events", buckets::COUNT)
            .means("Publications that one transaction recorded.")
            .when_off("Always at the upper end: more comes than is recorded; see chatfn_ingest_queue_events."),
        COMMIT: Metric::histogram("chatfn_ingest_commit_seconds", buckets::SECONDS)
            .means("How long such a transaction took, failed ones included.")
            .when_off("Above some ten milliseconds: the database's disk or locks."),
        QUEUE: Metric::gauge("chatfn_ingest_queue_events")
            .means("Events that wait to be recorded, or are being recorded.")
            .when_off("Near chatfn_ingest_queue_max_events: events will be refused; the database is the limit."),
        QUEUE_MAX: Metric::gauge("chatfn_ingest_queue_max_events").means("Most such events (`--queue`)."),
        QUEUE_BYTES: Metric::gauge("chatfn_ingest_queue_bytes").means("Memory that they take, roughly, in whole KiB each."),
        ACK: Metric::histogram("chatfn_ingest_ack_seconds", buckets::SECONDS)
            .means("From an event's place in the queue to its acknowledgement.")
            .when_off("Above 50 ms at the median: see commit durations; if those are short, the queue is long."),
        LANES: Metric::gauge("chatfn_ingest_lanes_owned")
            .means("Lanes that this replica runs; 64 over all replicas.")
            .when_off("Over all replicas, less than 64 for longer than --lease-ttl: events of the others wait; see the log for why leases cannot be had."),
        LANES_TAKEN: Metric::counter("chatfn_ingest_lanes_taken_total")
            .means("Lanes that this replica took over.")
            .when_off("Grows without roll-outs: lanes move about; see lanes lost."),
        LANES_LOST: Metric::counter("chatfn_ingest_lanes_lost_total")
            .means("Lanes that this replica lost: its lease ended, or another replica has it. Given up ones are none.")
            .when_off("Grows: the process or the database stalls for longer than --lease-ttl."),
        OLDEST: Metric::gauge("chatfn_ingest_oldest_unstarted_seconds")
            .means("Age of the oldest event whose turn it is and that has not been started, over the lanes of this replica; 0 if there is none. One that no invoker took counts. Events that wait for another attempt, for an operator, or behind such an event do not: more invokers would not help them. The signal to scale invokers by.")
            .when_off("Grows: invokers cannot keep up (add some), cannot be reached (attempts not_taken), or the journal is slow."),
        UNFINISHED: Metric::gauge("chatfn_ingest_conversations_unfinished")
            .means("Conversations with unfinished events, in the lanes of this replica, as far as they have been read."),
        RUNNING: Metric::gauge("chatfn_ingest_runs_in_progress").means("Attempts in progress.")
            .when_off("At --max-runs, or at three quarters of it with runs of one account, while chatfn_ingest_oldest_unstarted_seconds grows: raise it, if the invokers have room."),
        WAITING: Metric::gauge("chatfn_ingest_conversations_waiting")
            .means("Conversations that wait for another attempt, in the lanes of this replica.")
            .when_off("Grows: what lambdas call is down, or the invokers are; see attempts."),
        HALTED: Metric::gauge("chatfn_ingest_conversations_halted")
            .means("Conversations that are halted, in the lanes of this replica, until an operator resumes them or skips an event.")
            .when_off("Above 0: list deliveries that are HALTED, and resume or skip them."),
        ATTEMPTS: Metric::counter("chatfn_ingest_attempts_total").by(&[Attempted::LABEL])
            .means("Attempts that ended, by how.")
            .when_off("not_taken: invokers are down or overloaded; unknown: they die, or are cut off. The others: see the functions' logs."),
        START: Metric::histogram("chatfn_ingest_ack_to_start_seconds", buckets::LONG_SECONDS)
            .means("From an event's acceptance, by the database's clock, to the start of its first attempt; waiting behind events of its conversation included.")
            .when_off("Above some 25 ms at the median under usual load: see chatfn_ingest_oldest_unstarted_seconds."),
        OUTCOMES: Metric::counter("chatfn_ingest_outcomes_total").by(&[Ended::LABEL])
            .means("Outcomes that were durably recorded. Over all replicas, accepted events and reopened ones (interventions by replay) are these and the unfinished ones.")
            .when_off("DEAD_LETTERED: list dead letters, mend, replay. EXPIRED: events come too late, or wait too long. NO_FUNCTION: nothing is deployed for what is published."),
        HALTS: Metric::counter("chatfn_ingest_halts_total").means("Times that a conversation was halted after the last attempt of an event.")
            .when_off("See chatfn_ingest_conversations_halted."),
        RETRIES: Metric::counter("chatfn_ingest_retries_total").means("Further attempts that were planned."),
        DENIED: Metric::counter("chatfn_ingest_retries_denied_total")
            .means("Times that an event had to wait since its function's retry budget was spent (RETRY_BUDGET_SPENT).")
            .when_off("Grows: a dependency of that function is down for most of its events; they go on once retries succeed."),
        JOURNAL: Metric::histogram("chatfn_ingest_journal_seconds", buckets::SECONDS)
            .means("How long transactions took that record starts and outcomes, failed ones included.")
            .when_off("Above some ten milliseconds: the database's disk or locks; each attempt waits for two of them."),
        INTERVENTIONS: Metric::counter("chatfn_ingest_interventions_total").by(&[Intervened::LABEL])
            .means("What operators and replays asked of lanes, done and durable."),
        DAYS_AHEAD: Metric::gauge("chatfn_ingest_partition_days_ahead")
            .means("Days after today for which partitions exist already.")
            .when_off("Below 1: the next day cannot begin in partitions of its own, and events go on into today's; the log says why they cannot be made."),
        DAYS_DROPPED: Metric::counter("chatfn_ingest_partitions_dropped_total").means("Days that this replica dropped."),
        DAYS_KEPT: Metric::gauge("chatfn_ingest_partition_days_overdue")
            .means("Days that are old enough to be dropped and are kept.")
            .when_off("Above 0 for hours: unfinished events keep them, halted ones mostly; the log names the days."),
        CHECKED: Metric::counter("chatfn_ingest_ledger_checked_events_total")
            .means("Events that the ledger has looked at once their lane's cursor had passed them. Only the replica that owns a lane looks at it.")
            .when_off("Stands still while outcomes grow: the check cannot read the database; the log says so."),
        UNREACHABLE: Metric::gauge("chatfn_ingest_ledger_unreachable_events")
            .means("Unfinished events that lie before their lane's cursor and that no parked one covers, so that nothing would ever run them; at most 100 of each lane are counted. Must be 0.")
            .when_off("Above 0: a mistake of ours; report it. The log names the first one, and Reconcile tells of which account they are; a replica that takes the lane over does not run them."),
        PARKED_ROWS: Metric::gauge("chatfn_ingest_ledger_parked_events").by(&[Parked::LABEL])
            .means("Events that are parked in the lanes of this replica, as the database has it: for another attempt, for an operator, or to run again.")
            .when_off("operator: see chatfn_ingest_conversations_halted."),
    }
}

/// The counters of event-ingest. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct IngestMetrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    events: Counts<Recorded>,
    refused: Counts<Refused>,
    batch: Histogram,
    commit: Histogram,
    ack: Histogram,
    lanes_taken: Count,
    lanes_lost: Count,
    running: Gauge,
    attempts: Counts<Attempted>,
    start: Histogram,
    outcomes: Counts<Ended>,
    halts: Count,
    retries: Count,
    denied: Count,
    journal: Histogram,
    interventions: Counts<Intervened>,
    days_ahead: Gauge,
    days_dropped: Count,
    days_kept: Gauge,
    checked: Count,
    unreachable: Gauge,
    parked: Gauges<Parked>,
    lanes: LanesTold,
}

impl IngestMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self(Arc::new(Inner {
            events: metrics.counts(&EVENTS),
            refused: metrics.counts(&REFUSED),
            batch: metrics.histogram(&BATCH),
            commit: metrics.histogram(&COMMIT),
            ack: metrics.histogram(&ACK),
            lanes_taken: metrics.count(&LANES_TAKEN),
            lanes_lost: metrics.count(&LANES_LOST),
            running: metrics.gauge(&RUNNING),
            attempts: metrics.counts(&ATTEMPTS),
            start: metrics.histogram(&START),
            outcomes: metrics.counts(&OUTCOMES),
            halts: metrics.count(&HALTS),
            retries: metrics.count(&RETRIES),
            denied: metrics.count(&DENIED),
            journal: metrics.histogram(&JOURNAL),
            interventions: metrics.counts(&INTERVENTIONS),
            days_ahead: metrics.gauge(&DAYS_AHEAD),
            days_dropped: metrics.count(&DAYS_DROPPED),
            days_kept: metrics.gauge(&DAYS_KEPT),
            checked: metrics.count(&CHECKED),
            unreachable: metrics.gauge(&UNREACHABLE),
            parked: metrics.gauges(&PARKED_ROWS),
            lanes: LanesTold::new(metrics),
        }))
    }

    /// Tells how full the queue of the committers is: events, and KiB.
    pub(crate) fn observe_queue(
        metrics: &Metrics,
        max: usize,
        held: impl Fn() -> (usize, usize) + Clone + Send + Sync + 'static,
    ) {
        let also_held = held.clone();
        metrics.observe(&QUEUE, move || Some(held().0 as f64));
        metrics.observe(&QUEUE_BYTES, move || Some(also_held().1 as f64 * 1024.0));
        metrics.observe(&QUEUE_MAX, move || Some(max as f64));
    }

    /// What the lanes of this replica tell.
    pub(crate) fn lanes(&self) -> &LanesTold {
        &self.0.lanes
    }

    /// An event was looked for, and recorded if it was new.
    pub(crate) fn recorded(&self, what: Recorded, waited: Duration) {
        self.0.events.of(what).inc();
        self.0.ack.took(waited);
    }

    /// So many of the accepted events ended in SUPPRESSED at once.
    pub(crate) fn suppressed(&self, count: u64) {
        self.0.outcomes.of(Ended::Suppressed).inc_by(count);
    }

    /// A transaction of so many publications has ended.
    pub(crate) fn committed(&self, publications: usize, took: Duration) {
        self.0.batch.observe(publications as f64);
        self.0.commit.took(took);
    }

    /// The publisher of an event was told that it is not recorded.
    pub(crate) fn refused(&self, status: &Status) {
        let reason = ErrorReport::from_status(status).reason;
        let why = match reason.as_deref().unwrap_or_default() {
            "QUOTA_EXCEEDED" => Refused::Quota,
            "ACCOUNT_BUSY" | "CALLER_BUSY" => Refused::Busy,
            "OVERLOADED" => Refused::Overloaded,
            "EVENT_ID_REUSED" => Refused::Reused,
            "STORE_UNAVAILABLE" => Refused::Store,
            "DRAINING" | "NO_SNAPSHOT" => Refused::NotServing,
            _ => match status.code() {
                tonic::Code::InvalidArgument
                | tonic::Code::OutOfRange
                | tonic::Code::NotFound
                | tonic::Code::PermissionDenied => Refused::Invalid,
                tonic::Code::DeadlineExceeded => Refused::Late,
                _ => Refused::Other,
            },
        };
        self.0.refused.of(why).inc();
    }

    /// This replica runs so many lanes more.
    pub(crate) fn lanes_taken(&self, count: usize) {
        self.0.lanes_taken.inc_by(u64::try_from(count).unwrap_or(u64::MAX));
    }

    /// A lane was lost.
    pub(crate) fn lane_lost(&self) {
        self.0.lanes_lost.inc();
    }

    /// An attempt is in progress until what is given is dropped.
    pub(crate) fn running(&self) -> chatfn_telemetry::InProgress {
        chatfn_telemetry::InProgress::new(&self.0.running)
    }

    /// The first attempt of an event starts, which was accepted so long ago.
    pub(crate) fn started(&self, age: Duration) {
        self.0.start.took(age);
    }

    /// An attempt has ended.
    pub(crate) fn attempted(&self, how: Attempted) {
        self.0.attempts.of(how).inc();
    }

    /// Further attempts are planned, or have to wait for their function's budget.
    pub(crate) fn retry(&self, is_denied: bool) {
        if is_denied { &self.0.denied } else { &self.0.retries }.inc();
    }

    /// What an event ended in is durable.
    pub(crate) fn ended(&self, state: i16) {
        let state = match DeliveryState::try_from(i32::from(state)) {
            Ok(DeliveryState::Succeeded) => Ended::Succeeded,
            Ok(DeliveryState::NoFunction) => Ended::NoFunction,
            Ok(DeliveryState::Suppressed) => Ended::Suppressed,
            Ok(DeliveryState::Expired) => Ended::Expired,
            _ => Ended::DeadLettered,
        };
        self.0.outcomes.of(state).inc();
    }

    /// That a conversation is halted is durable.
    pub(crate) fn halted(&self) {
        self.0.halts.inc();
    }

    /// A transaction of the journal has ended.
    pub(crate) fn journaled(&self, took: Duration) {
        self.0.journal.took(took);
    }

    /// What was asked for is done.
    pub(crate) fn intervened(&self, action: Intervened) {
        self.0.interventions.of(action).inc();
        if action == Intervened::Skip {
            self.0.outcomes.of(Ended::DeadLettered).inc();
        }
    }

    /// How the partitions are.
    pub(crate) fn days(&self, ahead: i64, overdue: usize) {
        self.0.days_ahead.set(ahead);
        self.0.days_kept.set(i64::try_from(overdue).unwrap_or(i64::MAX));
    }

    /// A day was dropped.
    pub(crate) fn day_dropped(&self) {
        self.0.days_dropped.inc();
    }

    /// What the ledger found: events that it has looked at since the last time, those that nothing would run, and parked
    /// ones.
    pub(crate) fn audited(&self, checked: u64, unreachable: i64, parked: [i64; 3]) {
        self.0.checked.inc_by(checked);
        self.0.unreachable.set(unreachable);
        for (kind, count) in [Parked::Retry, Parked::Operator, Parked::Reopened].into_iter().zip(parked) {
            self.0.parked.of(kind).set(count);
        }
    }
}

/// How a reported attempt ended.
pub(crate) fn reported(report: &RunReport) -> Attempted {
    match &report.outcome {
        Some(Outcome::Failure(failure)) => match failure.kind() {
            FailureKind::Timeout => Attempted::Timeout,
            FailureKind::Crashed | FailureKind::NotLoadable | FailureKind::Unspecified => Attempted::Platform,
            _ => Attempted::Thrown,
        },
        _ => Attempted::Returned,
    }
}
