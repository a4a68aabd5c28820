//! Measures the way of an event, each figure beside its limit from the same run.
//!
//! `make bench-ingest`. Here and not beside event-ingest, because it takes the real invoker to say what an event costs from its
//! publication to its lambda's end. Progress goes to standard error; the last line on standard output is one JSON object.
//! Services, publishers and Postgres (durable: fsync and synchronous commit are on) share this machine, and all but Postgres this
//! process: the ratios say something, the absolute figures little. Figures of throughput are medians over [`ROUNDS`] rounds in
//! which the subject and its limits take turns.
//!
//! | figure | meaning | goal |
//! |---|---|---|
//! | `stream_ack_per_s`, `stream_ack_ratio` | acknowledgements over 4 streams; to a bare coalesced insert of the same rows | 0.5 |
//! | `stream_once_ack_ratio` | the same, of a template that fires once per conversation | |
//! | `bare_insert_per_s` | that limit: 512 rows in a statement, in columns, 4 connections, one unique key | |
//! | `indexed_insert_per_s`, `stream_to_indexed_ratio` | the same insert into a table with all the indexes that events have; `stream_ack_per_s` to it | |
//! | `unary_ack_per_s`, `unary_ack_ratio` | PublishEvent, 256 at a time; to a no-op call on the same server | 0.4 |
//! | `unary_to_single_insert_ratio` | the same, to one insert per transaction, 64 at a time | |
//! | `jetstream_per_s`, `stream_to_jetstream_ratio` | a peer: messages acknowledged by a JetStream that flushes each, 64 at a time; `stream_ack_per_s` to it. `null` without a nats-server | |
//! | `half_load_per_s`, `half_load_ack_p50_ms`, `…_p99_ms` | PublishEvent at half of the rate at which such calls get to their outcomes, the invoker answering at once | 1, 5 |
//! | `half_load_insert_p50_ms`, `…_p99_ms` | bare inserts at that rate, one per transaction and nothing else going on | |
//! | `half_load_start_p50_ms`, `…_p99_ms` | from the acknowledgement to the call of the invoker | 5, 25 |
//! | `quota_refusal_p99_ms` | of an account that is over its quota, one at a time while 64 callers publish | 5 |
//! | `over_quota_share` | PublishEvent of an account with 64 callers while another one calls ten times as often as its quota of 1,000 allows; to the same while nine in ten of those calls are no-op ones, as their callers share the cores | 0.9 |
//! | `crowd_fair_share` | the same while another one, with the quota that accounts have by default, has 640 callers; to half of both, or to what it has alone if that is less | 0.9 |
//! | `stream_fair_share` | the same while that one publishes over 4 streams as fast as it goes | 0.9 |
//! | `run_fair_share` | runs of 100 ms per second of an account, of which 1,000 are published at once while another one has 10,000 queued; to half of both, or to what it has alone if that is less | 0.9 |
//! | `event_to_done_per_s`, `event_to_done_ratio` | published, seed lambda run by the real invoker, outcome recorded; to the lower of the two limits below | 0.5 |
//! | `parts_per_s`, `event_to_parts_ratio` | what remains when both limits, and a no-op call for the invoker's, take turns on the same cores; `event_to_done_per_s` to it | |
//! | `engine_per_s` | one limit: runs of the seed lambda in process, a task for each core | |
//! | `bare_pipeline_per_s` | the other: insert, read on, outcome, cursor; batches of 200, 4 connections | |
//! | `fake_to_done_per_s` | the same with an invoker that answers at once | |
//! | `skip_locked_per_s` | a stand-in for the usual queue table: one insert per transaction, claims of 100 with SKIP LOCKED, delete | |
//! | `stored_events`, `growth_ratio`, `growth_done_ratio` | `stream_ack_per_s` and `fake_to_done_per_s`, each to its limit, with that many events stored; to the same at the beginning | 0.9 |
//! | `soak_s`, `soak_rss_growth_mib` | resident memory of this process after a soak, to that after its first quarter | |
//! | `recovery_ms` | from the start of a Postgres that was killed to the first acknowledgement | 5,000 |
//!
//! `CHATFN_BENCH_STORED` (1,000,000) and `CHATFN_BENCH_SOAK_SECONDS` (20) make two parts longer: 10,000,000 and 600 are what a
//! release is measured with (12 GB of disk). `CHATFN_BENCH_PARTS` names the parts to measure: `streams,calls,done,half,fair,runs,growth,soak,recovery`.
//! `CHATFN_BENCH_POSTGRES` has settings for its Postgres, as `shared_buffers=1GB shared_preload_libraries=pg_stat_statements`.

mod bare;
mod cluster;
mod engine;
mod invoker;
mod jetstream;
mod load;
mod measure;
mod parts;

use serde_json::{Map, Value, json};

use self::{
    cluster::{Cluster, Runs},
    parts::Parts,
};

// As the services have it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 3;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    println!("{}", runtime.block_on(run()));
}

async fn run() -> Value {
    let names = std::env::var("CHATFN_BENCH_PARTS").unwrap_or_default();
    let wants = |part: &str| names.is_empty() || names.split(',').any(|name| name == part);
    let cluster = Cluster::start(Runs::Nothing).await;
    let bare = bare::Bare::new(&cluster.url()).await;
    let mut parts = Parts { cluster, bare, figures: Map::new() };
    if wants("streams") {
        parts.streams().await;
    }
    if wants("calls") {
        parts.calls().await;
    }
    if wants("done") {
        parts.delivery().await;
    }
    if wants("half") {
        parts.half_load().await;
    }
    if wants("fair") {
        parts.fairness().await;
    }
    if wants("runs") {
        parts.runs().await;
    }
    if wants("growth") {
        parts.growth().await;
    }
    if wants("soak") {
        parts.soak().await;
    }
    if wants("recovery") {
        parts.recovery().await;
    }
    parts
        .figures
        .insert("cores".to_owned(), json!(std::thread::available_parallelism().map_or(1, usize::from)));
    parts.figures.insert("rounds".to_owned(), json!(ROUNDS));
    Value::Object(parts.figures)
}
