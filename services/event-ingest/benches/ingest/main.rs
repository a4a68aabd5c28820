//! Measures the way of an event, each figure beside its limit from the same run.
//!
//! `make bench-ingest`. Progress goes to standard error; the last line on standard output is one JSON object. Service,
//! publishers, a fake invoker that answers at once, and Postgres (durable: fsync and synchronous commit are on) share this
//! machine: the ratios say something, the absolute figures little. Figures of throughput are medians over [`ROUNDS`] rounds in
//! which the subject and its limit take turns. `CHATFN_BENCH_STORED` (1,000,000) and `CHATFN_BENCH_SOAK_SECONDS` (20) make the
//! last two parts longer.
//!
//! | figure | meaning | goal |
//! |---|---|---|
//! | `stream_ack_per_s`, `stream_ack_ratio` | acknowledgements over 4 streams; to a bare coalesced insert of the same rows | 0.5 |
//! | `bare_insert_per_s` | that limit: 512 rows in a statement, 4 connections, one unique key | |
//! | `unary_ack_per_s`, `unary_ack_ratio` | PublishEvent, 64 at a time; to a no-op call on the same server | 0.4 |
//! | `unary_to_single_insert_ratio` | the same, to one insert per transaction, 64 at a time | |
//! | `half_load_ack_p50_ms`, `…_p99_ms` | PublishEvent at half of `unary_ack_per_s` | 1, 5 |
//! | `half_load_start_p50_ms`, `…_p99_ms` | from the acknowledgement to the call of the invoker | 5, 25 |
//! | `quota_refusal_p99_ms` | of an account that is over its quota, one at a time while 64 callers publish | 5 |
//! | `event_to_done_per_s`, `event_to_done_ratio` | published, run by the fake invoker, outcome recorded; to the bare pipeline | 0.5 |
//! | `bare_pipeline_per_s` | that limit: insert, read on, outcome, cursor; batches of 200, 4 connections | |
//! | `skip_locked_per_s` | the usual queue table: one insert per transaction, claims of 100 with SKIP LOCKED, delete | |
//! | `stored_events`, `growth_ratio` | `stream_ack_per_s` with that many events stored to that of before | 0.9 |
//! | `soak_s`, `soak_rss_growth_mib` | resident memory of this process after a soak, to that after its first quarter | |
//! | `recovery_ms` | from the start of a Postgres that was killed to the first acknowledgement | 5,000 |

mod bare;
mod cluster;
mod load;
mod measure;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::{cluster::Cluster, measure::*};

const ROUNDS: usize = 3;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    println!("{}", runtime.block_on(run()));
}

async fn run() -> Value {
    let mut cluster = Cluster::start().await;
    let bare = bare::Bare::new(&cluster.url()).await;

    // Nothing is delivered meanwhile: acknowledging and its limit have the machine to themselves.
    cluster.hold_lanes().await;
    let (mut streams, mut inserts, mut unary, mut noop, mut singles) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        eprintln!("round {} of {ROUNDS}", round + 1);
        inserts.push(bare.coalesced(40_000).await);
        streams.push(load::streams(&cluster, 40_000).await);
        noop.push(load::noop(&cluster, 20_000).await);
        unary.push(load::unary(&cluster, 20_000).await);
        singles.push(bare.singles(10_000).await);
    }
    let (stream, insert, unary, noop, single) =
        (median(streams), median(inserts), median(unary), median(noop), median(singles));

    cluster.release_lanes().await;
    eprintln!("delivering what has queued");
    cluster.until_done().await;
    let (mut done, mut pipeline, mut skip_locked) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        pipeline.push(bare.pipeline(20_000).await);
        skip_locked.push(bare.skip_locked(10_000).await);
        done.push(load::to_done(&cluster, 20_000).await);
    }
    let (done, pipeline, skip_locked) = (median(done), median(pipeline), median(skip_locked));

    eprintln!("half load");
    let (ack, start) = load::half_load(&cluster, unary / 2.0, Duration::from_secs(10)).await;

    let (refusals, _) = tokio::join!(load::refusals(&cluster, 500), load::unary(&cluster, 20_000));

    eprintln!("growth");
    cluster.hold_lanes().await;
    let before = load::streams(&cluster, 40_000).await;
    let stored = cluster.store(from_env("CHATFN_BENCH_STORED", 1_000_000)).await;
    let after = load::streams(&cluster, 40_000).await;
    cluster.release_lanes().await;

    let soak = Duration::from_secs(from_env("CHATFN_BENCH_SOAK_SECONDS", 20));
    eprintln!("soak of {soak:?}");
    let growth = load::soak(&cluster, soak).await;

    eprintln!("recovery");
    cluster.kill_postgres();
    let begun = Instant::now();
    cluster.restart_postgres().await;
    load::first_ack(&cluster).await;
    let recovery = begun.elapsed();

    json!({
        "stream_ack_per_s": whole(stream), "bare_insert_per_s": whole(insert), "stream_ack_ratio": rounded(stream / insert),
        "unary_ack_per_s": whole(unary), "noop_per_s": whole(noop), "unary_ack_ratio": rounded(unary / noop),
        "single_insert_per_s": whole(single), "unary_to_single_insert_ratio": rounded(unary / single),
        "half_load_ack_p50_ms": quantile(&ack, 0.5), "half_load_ack_p99_ms": quantile(&ack, 0.99),
        "half_load_start_p50_ms": quantile(&start, 0.5), "half_load_start_p99_ms": quantile(&start, 0.99),
        "quota_refusal_p99_ms": quantile(&refusals, 0.99),
        "event_to_done_per_s": whole(done), "bare_pipeline_per_s": whole(pipeline), "event_to_done_ratio": rounded(done / pipeline),
        "skip_locked_per_s": whole(skip_locked),
        "stored_events": stored, "growth_ratio": rounded(after / before),
        "soak_s": soak.as_secs(), "soak_rss_growth_mib": rounded(growth),
        "recovery_ms": whole(recovery.as_secs_f64() * 1e3),
        "cores": std::thread::available_parallelism().map_or(1, usize::from), "rounds": ROUNDS,
    })
}
