//! Measures what ten times too many calls do to those that get in, and how soon a run is gone when its caller is.
//!
//! `make bench-overload`. Progress goes to standard error; the last line on standard output is one JSON object. The
//! service and its callers are in one process, with a runtime each, so what callers cost is taken from the service: the
//! figures are worse than those of a service that has its machine to itself. Each is the median of [`ROUNDS`] rounds.
//!
//! The lambda asks a CRM that answers after 100 ms, so that a peak is what the limit of runs allows (`--max-runs`). With `busy_`
//! in front: the lambda computes for some milliseconds instead, and as many may run as there are cores.
//!
//! | figure | meaning | goal |
//! |---|---|---|
//! | `goodput_ratio` | reports per second at ten times the peak, over those at the peak | 0.9 or more |
//! | `admitted_p99_ratio` | p99 of calls that get in at ten times the peak, over p99 of one call at a time | 2 or less |
//! | `reject_p99_ms` | how long a call takes that is refused, p99 at ten times the peak | 5 or less |
//! | `reject_served_p99_ms` | what of it the server says it took, p99 of its own; the rest is the callers' waiting for a core | |
//! | `cancel_to_gone_p99_ms` | from the caller's leaving until the run's place is free, and its outbound call closed | 50 or less |
//! | `peak_per_second` | reports per second when exactly as many call as may run | |
//! | `unloaded_p99_ms` | one call at a time | |
//! | `refused_share` | of the calls at ten times the peak | |

mod cancel;
mod crm;
mod load;
mod served;
mod service;

use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::runtime::{Builder, Runtime};

use self::{crm::Crm, load::Figures, service::Service};

// As the services have it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 3;
const ANSWER_AFTER: Duration = Duration::from_millis(100);
/// Runs at once of the lambda that waits. Those kept for other accounts come on top.
const WAITING_RUNS: usize = 32;
const KEPT: usize = 10;

fn runtime() -> Runtime {
    Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

fn main() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    served::listen();
    let (serving, calling) = (runtime(), runtime());
    let figures = calling.block_on(async {
        let crm = Crm::start(ANSWER_AFTER).await;
        let start = |runs: usize| Service::start(serving.handle(), &crm, runs);

        let waiting = load::measure("waiting", &start(WAITING_RUNS + KEPT).await, "wait", WAITING_RUNS).await;
        let busy = load::measure("busy", &start(cores).await, "compute", cores).await;
        let gone = cancel::measure(&start(1).await, &crm).await;
        let mut all = fields("", &waiting);
        all.extend(fields("busy_", &busy));
        all.insert("cancel_to_gone_p99_ms".to_owned(), json!(gone));
        all.insert("cores".to_owned(), json!(cores));
        all
    });
    serving.shutdown_background();
    println!("{}", Value::Object(figures));
}

fn fields(prefix: &str, figures: &Figures) -> Map<String, Value> {
    let rounded = |value: f64| json!((value * 1e3).round() / 1e3);
    let all = [
        ("goodput_ratio", figures.goodput_ratio),
        ("admitted_p99_ratio", figures.admitted_p99_ratio),
        ("reject_p99_ms", figures.reject_p99_ms),
        ("reject_served_p99_ms", figures.reject_served_p99_ms),
        ("peak_per_second", figures.peak_per_second),
        ("unloaded_p99_ms", figures.unloaded_p99_ms),
        ("refused_share", figures.refused_share),
    ];
    all.into_iter().map(|(name, value)| (format!("{prefix}{name}"), rounded(value))).collect()
}
