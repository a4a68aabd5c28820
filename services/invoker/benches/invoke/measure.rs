//! How everything here is measured: by latencies of single runs, or by how many fit into a second.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use chatfn_engine::{Call, Engine, NoHost, Outcome, PrepareLimits, Prepared};

/// Enough for everything that is expected to end by itself.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// What runs here is not limited by the length of a source: a bundle may be longer.
pub(crate) const LIMITS: PrepareLimits = PrepareLimits {
    source_chars: 1_000_000,
    timeout: LONG,
    memory_bytes: 64 << 20,
    artifact_bytes: 32 << 20,
};

/// The seed's Chat In-Queue payload.
pub(crate) const PAYLOAD: &str = r#"{"campaignId":"3599735210","chatSessionKey":"H6846170109402085448-9905386f84524a008e929342b052819cK8389409","chatStartPageURL":"http://example.de","engagementId":"3599735310","ipAddress":"212.65.14.245","preChatSurveyStructure":{"header":"1528463744663"},"ttr":{"newTtr":{"value":300}}}"#;

/// Hashes the payload's JSON character by character, so that a known share of the time is interpretation.
pub(crate) const SEED: &str = r"
async function lambda(input) {
  const text = JSON.stringify(input.payload);
  let hash = 0;
  for (let i = 0; i < text.length; i++) hash = (hash * 31 + text.charCodeAt(i)) | 0;
  return { hash, wait: input.payload.ttr.newTtr.value };
}";

/// What every lambda here gets.
pub(crate) fn input() -> String {
    format!(r#"{{"headers":[],"payload":{PAYLOAD}}}"#)
}

pub(crate) async fn prepare(engine: &Engine, source: &str) -> Prepared {
    engine.prepare(source, LIMITS).await.expect("the source prepares")
}

/// One run. A lambda that returns nothing right would make every figure worthless.
pub(crate) async fn run(engine: &Engine, prepared: &Prepared, input: &str) {
    let call = Call::new(input.to_owned(), Instant::now() + LONG, Arc::new(NoHost));
    let report = engine.run(prepared, call).await.expect("a sandbox");
    assert!(matches!(report.outcome, Outcome::Returned { .. }), "{:?}", report.outcome);
}

/// Latencies in microseconds, one after another, sorted.
pub(crate) async fn latencies<F: Future<Output = ()>>(
    count: usize,
    subject: impl Fn(usize) -> F,
) -> Vec<f64> {
    let mut latencies = Vec::with_capacity(count);
    for turn in 0..count {
        let begun = Instant::now();
        subject(turn).await;
        latencies.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    latencies.sort_by(f64::total_cmp);
    latencies
}

/// Calls per second of `tasks` tasks together, each with `count` calls one after another.
pub(crate) async fn throughput<F>(tasks: usize, count: usize, subject: impl Fn() -> F) -> f64
where
    F: Future<Output = ()> + Send + 'static,
{
    let begun = Instant::now();
    let chains: Vec<_> = (0..tasks)
        .map(|_| {
            let calls: Vec<_> = (0..count).map(|_| subject()).collect();
            tokio::spawn(async move {
                for call in calls {
                    call.await;
                }
            })
        })
        .collect();
    for chain in chains {
        chain.await.expect("no call fails");
    }
    (tasks * count) as f64 / begun.elapsed().as_secs_f64()
}

/// The value below which this share of the sorted values lies.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}

/// The median, to three decimals.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    rounded(values[values.len() / 2])
}

/// To three decimals.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Resident memory of this process's own in bytes: what all sandboxes share is not counted for each.
pub(crate) fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("Linux 4.5 or later");
    let kib = line.trim().strip_suffix(" kB").and_then(|kib| kib.parse::<usize>().ok());
    kib.expect("a number of kB") * 1024
}
