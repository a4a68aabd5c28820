//! The same calls one at a time, as many as fit, and ten times too many.

use std::time::{Duration, Instant};

use tokio::{task::JoinSet, time::MissedTickBehavior};

use crate::{
    ROUNDS, served,
    service::{End, Service},
};

const ALONE: usize = 200;
const SPAN: Duration = Duration::from_secs(4);
const OVERLOAD: f64 = 10.0;
const TICK: Duration = Duration::from_millis(2);

/// See the table on the front page.
pub(crate) struct Figures {
    pub(crate) goodput_ratio: f64,
    pub(crate) admitted_p99_ratio: f64,
    pub(crate) reject_p99_ms: f64,
    pub(crate) reject_served_p99_ms: f64,
    pub(crate) peak_per_second: f64,
    pub(crate) unloaded_p99_ms: f64,
    pub(crate) refused_share: f64,
}

pub(crate) async fn measure(name: &str, service: &Service, what: &'static str, runs: usize) -> Figures {
    let mut rounds = Vec::new();
    for round in 1..=ROUNDS {
        let unloaded_p99_ms = alone(service, what).await;
        let peak_per_second = peak(service, what, runs).await;
        let over = overload(service, what, peak_per_second * OVERLOAD).await;
        let figures = Figures {
            goodput_ratio: over.per_second / peak_per_second,
            admitted_p99_ratio: p99(over.admitted) / unloaded_p99_ms,
            refused_share: over.refused.len() as f64 / over.calls as f64,
            reject_p99_ms: p99(over.refused),
            reject_served_p99_ms: p99(over.refused_by_server),
            peak_per_second,
            unloaded_p99_ms,
        };
        eprintln!(
            "{name}, round {round}: {peak_per_second:.0}/s at the peak, {:.0}/s at ten times as many; \
             p99 {unloaded_p99_ms:.1} ms alone, {:.1} ms admitted, {:.2} ms refused, {:.2} ms of them at the server",
            over.per_second,
            figures.admitted_p99_ratio * unloaded_p99_ms,
            figures.reject_p99_ms,
            figures.reject_served_p99_ms,
        );
        rounds.push(figures);
    }
    let median = |figure: fn(&Figures) -> f64| {
        let mut all: Vec<_> = rounds.iter().map(figure).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    Figures {
        goodput_ratio: median(|it| it.goodput_ratio),
        admitted_p99_ratio: median(|it| it.admitted_p99_ratio),
        reject_p99_ms: median(|it| it.reject_p99_ms),
        reject_served_p99_ms: median(|it| it.reject_served_p99_ms),
        peak_per_second: median(|it| it.peak_per_second),
        unloaded_p99_ms: median(|it| it.unloaded_p99_ms),
        refused_share: median(|it| it.refused_share),
    }
}

/// p99 in milliseconds of one call after another.
async fn alone(service: &Service, what: &str) -> f64 {
    let mut latencies = Vec::with_capacity(ALONE);
    for number in 0..ALONE {
        let begun = Instant::now();
        assert_eq!(service.call(number, what).await, End::Returned, "nobody else calls");
        latencies.push(begun.elapsed());
    }
    p99(latencies)
}

/// Reports per second when `runs` callers call without a pause.
async fn peak(service: &Service, what: &'static str, runs: usize) -> f64 {
    let begun = Instant::now();
    let mut calls = JoinSet::new();
    let mut number = 0;
    let mut call = |calls: &mut JoinSet<End>| {
        number += 1;
        calls.spawn(service.call(number, what));
    };
    (0..runs).for_each(|_| call(&mut calls));
    let mut returned = 0;
    while begun.elapsed() < SPAN {
        // Refused now and then: the place of a call is free a little after its answer.
        if calls.join_next().await.expect("callers call").expect("no panic") == End::Returned {
            returned += 1;
        }
        call(&mut calls);
    }
    let peak = f64::from(returned) / begun.elapsed().as_secs_f64();
    calls.join_all().await;
    peak
}

struct Overload {
    calls: usize,
    per_second: f64,
    admitted: Vec<Duration>,
    refused: Vec<Duration>,
    refused_by_server: Vec<Duration>,
}

/// Calls come at this rate, whatever becomes of those before.
async fn overload(service: &Service, what: &'static str, per_second: f64) -> Overload {
    served::refused();
    let begun = Instant::now();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut calls = JoinSet::new();
    while begun.elapsed() < SPAN {
        ticks.tick().await;
        let due = (begun.elapsed().as_secs_f64() * per_second) as usize;
        for number in calls.len()..due {
            let (call, begun) = (service.call(number, what), Instant::now());
            calls.spawn(async move { (call.await, begun.elapsed(), Instant::now()) });
        }
    }
    let (end, count) = (Instant::now(), calls.len());
    let ends = calls.join_all().await;
    let of = |wanted| ends.iter().filter(move |(end, ..)| *end == wanted);
    let in_time = of(End::Returned).filter(|(.., at)| *at <= end).count();
    Overload {
        calls: count,
        per_second: in_time as f64 / (end - begun).as_secs_f64(),
        admitted: of(End::Returned).map(|(_, latency, _)| *latency).collect(),
        refused: of(End::Refused).map(|(_, latency, _)| *latency).collect(),
        refused_by_server: served::refused(),
    }
}

/// In milliseconds.
pub(crate) fn p99(mut latencies: Vec<Duration>) -> f64 {
    latencies.sort();
    let at = (latencies.len().saturating_sub(1) as f64 * 0.99) as usize;
    latencies.get(at).expect("there were calls of every kind").as_secs_f64() * 1e3
}
