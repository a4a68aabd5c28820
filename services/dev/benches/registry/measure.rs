//! How everything here is measured: by latencies of single calls.

use std::time::{Duration, Instant};

/// How long something takes.
pub(crate) async fn microseconds(subject: impl Future<Output = ()>) -> f64 {
    let begun = Instant::now();
    subject.await;
    begun.elapsed().as_secs_f64() * 1e6
}

/// The value below which this share of the values lies.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * share).ceil() as usize]
}

/// The median, to three decimals.
pub(crate) fn median(values: &[f64]) -> f64 {
    rounded(quantile(values, 0.5))
}

/// To three decimals.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
