//! Figures.

use std::{
    future::Future,
    time::{Duration, Instant},
};

/// The seed's Chat In-Queue payload.
pub(crate) const PAYLOAD: &str = r#"{"campaignId":"3599735210","chatSessionKey":"H6846170109402085448-9905386f84524a008e929342b052819cK8389409","chatStartPageURL":"http://example.de","engagementId":"3599735310","ipAddress":"212.65.14.245","preChatSurveyStructure":{"header":"1528463744663"},"ttr":{"newTtr":{"value":300}}}"#;

/// Things per second of `tasks` tasks together that do `count` things each.
pub(crate) async fn throughput<F>(tasks: usize, count: usize, task: impl Fn(usize) -> F) -> f64
where
    F: Future<Output = ()> + Send + 'static,
{
    let begun = Instant::now();
    let tasks: Vec<_> = (0..tasks).map(|n| tokio::spawn(task(n))).collect();
    let total = (tasks.len() * count) as f64;
    for task in tasks {
        task.await.expect("no task fails");
    }
    total / begun.elapsed().as_secs_f64()
}

/// Calls `call` at a steady rate for so long, by the clock and not by what has ended: a slow one delays no other. Gives what each call
/// gives.
pub(crate) async fn steadily<F>(per_second: f64, time: Duration, call: impl Fn() -> F) -> Vec<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let begun = tokio::time::Instant::now();
    let mut calls = Vec::new();
    for n in 0..(per_second * time.as_secs_f64()) as u32 {
        let due = begun + Duration::from_secs_f64(f64::from(n) / per_second);
        if due > tokio::time::Instant::now() {
            tokio::time::sleep_until(due).await;
        }
        calls.push(tokio::spawn(call()));
    }
    let mut ended = Vec::with_capacity(calls.len());
    for call in calls {
        ended.push(call.await.expect("no call fails"));
    }
    ended
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The value below which this share of the values lies, to three decimals.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    rounded(sorted[((sorted.len() - 1) as f64 * share) as usize])
}

pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

pub(crate) fn whole(value: f64) -> u64 {
    value.round() as u64
}

/// A number from the environment.
pub(crate) fn from_env(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} must be a whole number")),
        Err(_) => default,
    }
}

/// Resident memory of this process's own, in MiB.
pub(crate) fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("Linux 4.5 or later");
    let kib = line.trim().strip_suffix(" kB").and_then(|kib| kib.parse::<f64>().ok());
    kib.expect("a number of kB") / 1024.0
}
