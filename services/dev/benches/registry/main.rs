//! Measures the control plane: look-ups, how soon a deploy is live, and what many watchers cost.
//!
//! `make bench-registry`. Here and not beside the registry, because it takes the real invoker to say what is live.
//! Progress goes to standard error; the last line on standard output is one JSON object. Figures are medians over
//! [`ROUNDS`] rounds, in which the subjects take turns, so that noise of the machine meets all of them. Peers of the same
//! round say how much of a figure is the machine's: a call that does nothing, and the same row by plain SQL.
//!
//! | figure | meaning | goal |
//! |---|---|---|
//! | `get_p50_us`, `get_1m_p50_us` | `GetFunction` of 1,000 and of 1,000,000 functions, at random | |
//! | `lookup_ratio_1m_to_1k` | the second to the first | 1.5 |
//! | `noop_p50_us`, `sql_p50_us` | health `Check`; the function's row by its primary key, without gRPC | |
//! | `get_ratio_to_noop`, `get_ratio_to_sql` | `get_p50_us` to these | |
//! | `functions` | rows of the two databases | |
//! | `deploy_to_live_p99_ms` | from Deploy's answer to the end of the first run of the new version | 250 |
//! | `deploy_sent_to_live_p99_ms`, `deploy_p50_ms` | the same from when Deploy was sent; Deploy alone | |
//! | `undeploy_to_gone_p99_ms` | from Undeploy's answer to the first run that is refused | 250 |
//! | `host_revoked_p99_ms` | from the answer of the Deploy that takes a host away to the first call that is refused | 250 |
//! | `secret_deleted_p99_ms` | from DeleteSecret's answer to the first run that does not get the value | 250 |
//! | `invoke_p50_ms` | a run by itself, which all of these four contain | |
//! | `watch_fanout_100_p99_ms` | from when Undeploy was sent until each of 100 watchers has heard of it | 250 |
//! | `watch_fanout_1_p99_ms`, `watch_fanout_ratio` | the same with one watcher; the first to it | |

mod fanout;
mod live;
mod lookups;
mod measure;
mod world;

use serde_json::{Map, Value};

// As the services have it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 5;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let figures = runtime.block_on(async {
        let parts =
            [lookups::measure(ROUNDS).await, live::measure(ROUNDS).await, fanout::measure(ROUNDS).await];
        parts.into_iter().flat_map(fields).collect::<Map<_, _>>()
    });
    println!("{}", Value::Object(figures));
}

fn fields(part: Value) -> Map<String, Value> {
    match part {
        Value::Object(fields) => fields,
        _ => unreachable!("every part is an object"),
    }
}
