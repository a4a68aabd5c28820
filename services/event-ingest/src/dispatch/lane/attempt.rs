//! One attempt, from its durable start to the invoker's answer.

use std::{sync::Arc, time::Duration};

use chatfn_deployments::Deployment;
use chatfn_rpc::Deadline;
use tokio::{sync::oneshot, time::Instant};

use super::{
    super::{
        decide::{AttemptEnd, TimeLimit},
        gate::{Permit, Verdict},
        invoke::{CallEnd, Invoker, encode},
        journal::AttemptRecord,
    },
    event::{LaneEvent, passed},
};
use crate::{failpoint, lanes::Lease, metrics::IngestMetrics};

/// An attempt that is to be made.
pub(super) struct Attempt {
    pub(super) event: LaneEvent,
    pub(super) deployment: Arc<Deployment>,
    /// From 1.
    pub(super) number: u32,
    /// What the run may take in all.
    pub(super) budget: Duration,
    pub(super) limit: Option<(Instant, TimeLimit)>,
}

/// An attempt that is over.
pub(super) struct Done {
    pub(super) event: LaneEvent,
    pub(super) deployment: Arc<Deployment>,
    pub(super) number: u32,
    pub(super) end: End,
}

/// How an attempt is over.
pub(super) enum End {
    /// It was made.
    Called(CallEnd),
    /// The time was up before the call.
    Late(TimeLimit),
}

impl Attempt {
    /// Makes it once `durable` tells that its start is.
    pub(super) async fn run(
        self,
        invoker: Invoker,
        lease: Lease,
        durable: oneshot::Receiver<()>,
        permit: Permit,
        metrics: IngestMetrics,
    ) -> Done {
        let Self { event, deployment, number, budget, limit } = self;
        if durable.await.is_err() {
            // Not recorded: the lease is lost, which ends this future, wherever the lane is in its turn when it is told.
            lease.lost().await;
            return std::future::pending().await;
        }
        if let Some(limit) = passed(limit) {
            return Done { event, deployment, number, end: End::Late(limit) };
        }
        let mut deadline = Deadline::after(budget).min(Deadline::at(lease.until()));
        if let Some(at) = event.deliver_at {
            deadline = deadline.min(Deadline::at(at));
        }
        failpoint::edge("attempt.counted");
        let _running = metrics.running();
        if let Some(accepted) = event.accepted.filter(|_| number == 1) {
            metrics.started(accepted.elapsed());
        }
        permit.begins();
        let end = invoker.invoke(&event.event, &deployment, number, deadline).await;
        failpoint::edge("attempt.made");
        match &end {
            CallEnd::Refused { verdict: Some(verdict), .. } => permit.leave(*verdict),
            CallEnd::Ended(AttemptEnd::Reported(_)) => permit.leave(Verdict::Took),
            // Whether the invoker is up shows at the next run.
            CallEnd::Refused { verdict: None, .. } | CallEnd::Ended(AttemptEnd::Unknown { .. }) => {
                drop(permit)
            }
        }
        Done { event, deployment, number, end: End::Called(end) }
    }
}

/// The end of an attempt, as it is recorded.
pub(super) fn record(number: u32, end: AttemptEnd) -> AttemptRecord {
    match end {
        AttemptEnd::Reported(report) => AttemptRecord {
            number,
            report: Some(encode(report)),
            platform_error: None,
            platform_error_message: String::new(),
        },
        AttemptEnd::Unknown { reason, message } => AttemptRecord {
            number,
            report: None,
            platform_error: Some(reason),
            platform_error_message: message,
        },
    }
}
