//! The outbound calls of a run, for its report.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::EgressError;
use crate::metrics::InvokerMetrics;

/// Calls that are listed per run. The proto promises this number.
const MAX_RECORDS: usize = 100;

/// A call that a lambda made, or tried to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboundCall {
    /// HTTP method, upper case; `INVOKE` for another function, whose name stands in place of the URL.
    pub method: String,
    /// URL without user information, query and fragment.
    pub url: String,
    /// HTTP status of the answer, redirects followed; `None` when there was none.
    pub status: Option<u16>,
    /// From the call to the end of the answer's body.
    pub duration: Duration,
    /// Why there was no answer.
    pub error: Option<EgressError>,
}

/// The calls of one run in the order of their start, bounded in number.
#[derive(Debug, Default)]
pub(super) struct Records {
    listed: Mutex<Listed>,
    metrics: Option<InvokerMetrics>,
}

#[derive(Debug, Default)]
struct Listed {
    calls: Vec<OutboundCall>,
    truncated: bool,
}

impl Records {
    pub(super) fn new(metrics: Option<InvokerMetrics>) -> Self {
        Self { listed: Mutex::default(), metrics }
    }

    /// As [`Records::start`], for another function that is invoked.
    pub(super) fn start_function(self: &Arc<Self>, name: String, deadline: Instant) -> Record {
        let mut record = self.start("INVOKE", name, deadline);
        record.is_request = false;
        record
    }

    /// Lists a call that starts now. It is listed as given up until the returned guard learns better, so that a call
    /// that is dropped half-way is accounted for.
    pub(super) fn start(self: &Arc<Self>, method: &str, url: String, deadline: Instant) -> Record {
        let mut listed = self.lock();
        let index = listed.calls.len();
        let index = if index < MAX_RECORDS {
            listed.calls.push(OutboundCall {
                method: method.chars().take(16).collect(),
                url,
                status: None,
                duration: Duration::ZERO,
                error: Some(EgressError::Aborted),
            });
            Some(index)
        } else {
            listed.truncated = true;
            None
        };
        Record {
            records: Arc::clone(self),
            index,
            started: Instant::now(),
            deadline,
            ended: false,
            is_request: true,
        }
    }

    /// The calls so far, and whether there were more than are listed.
    pub(super) fn list(&self) -> (Vec<OutboundCall>, bool) {
        let listed = self.lock();
        (listed.calls.clone(), listed.truncated)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Listed> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The entry of a call under way.
#[derive(Debug)]
pub(crate) struct Record {
    records: Arc<Records>,
    index: Option<usize>,
    started: Instant,
    deadline: Instant,
    ended: bool,
    /// And no function.
    is_request: bool,
}

impl Record {
    /// The call was answered with a status, or failed.
    pub(super) fn end(mut self, outcome: Result<u16, EgressError>) {
        match outcome {
            Ok(status) => self.write(Some(status), None),
            Err(error) => self.write(None, Some(error)),
        }
    }

    /// Another function was invoked: the status that stands for what it came to, and why it did not return.
    pub(crate) fn end_of_function(mut self, status: u16, failure: Option<EgressError>) {
        self.write(Some(status), failure);
    }

    /// Time since the call started.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn write(&mut self, status: Option<u16>, error: Option<EgressError>) {
        self.ended = true;
        if let Some(metrics) = self.records.metrics.as_ref().filter(|_| self.is_request) {
            metrics.requested(error.as_ref());
        }
        let Some(index) = self.index else { return };
        let duration = self.started.elapsed();
        let call = &mut self.records.lock().calls[index];
        call.duration = duration;
        (call.status, call.error) = (status, error);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.ended {
            let late = Instant::now() >= self.deadline;
            let error = if late { EgressError::Deadline(self.elapsed()) } else { EgressError::Aborted };
            self.write(None, Some(error));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn calls_are_accounted_for_however_they_end() {
        let records = Arc::new(Records::default());
        let deadline = Instant::now() + Duration::from_secs(1);
        let start = |url: &str| records.start("GET", url.to_owned(), deadline);
        let (answered, aborted, late, running) = (start("a"), start("b"), start("c"), start("d"));
        answered.end(Ok(204));
        drop(aborted);
        tokio::time::advance(Duration::from_secs(2)).await;
        drop(late);
        let (calls, truncated) = records.list();
        let reasons: Vec<_> = calls.iter().map(|call| call.error.as_ref().map(EgressError::reason)).collect();
        assert_eq!(reasons, [None, Some("ABORTED"), Some("DEADLINE"), Some("ABORTED")]);
        assert_eq!(calls[0].status, Some(204));
        assert_eq!(calls[2].duration, Duration::from_secs(2));
        assert!(!truncated);
        drop(running);
    }

    #[tokio::test]
    async fn the_list_is_bounded() {
        let records = Arc::new(Records::default());
        for _ in 0..=MAX_RECORDS {
            records.start("GET", String::new(), Instant::now()).end(Ok(200));
        }
        let (calls, truncated) = records.list();
        assert_eq!((calls.len(), truncated), (MAX_RECORDS, true));
    }
}
