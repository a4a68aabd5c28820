//! What every process tells: its memory, files, processor time, and the runtime that its tasks share.

use std::time::{Duration, Instant};

use tokio::runtime::{Handle, RuntimeMetrics};

use crate::{Label, Metric, Metrics};

crate::declare! {
    /// The metrics of every process. Where several services share one, each tells the same.
    pub METRICS = {
        BUILD: Metric::gauge("chatfn_build_info")
            .by(&[Label::of("service", "the three services"), Label::of("version", "the release")])
            .means("Always 1; its labels tell which release runs.")
            .when_off("More than one version for longer than a roll-out takes: see why it does not go on."),
        UPTIME: Metric::gauge("chatfn_process_uptime_seconds")
            .means("Time since the service started.")
            .when_off("Small again and again: the process dies; its log and the container's exit code say of what."),
        CPU: Metric::counter("chatfn_process_cpu_seconds_total")
            .means("Processor time of the process, in user and system mode.")
            .when_off("Near the container's limit: add replicas, or raise the limit."),
        RESIDENT: Metric::gauge("chatfn_process_resident_bytes")
            .means("Memory of the process that is in RAM.")
            .when_off("Near the container's limit: raise that, or lower the service's own limits (queues, runs, prepared functions)."),
        OPEN_FILES: Metric::gauge("chatfn_process_open_files")
            .means("Open file descriptors: connections, mostly.")
            .when_off("Near chatfn_process_max_files: find out who connects so often, or raise the limit."),
        MAX_FILES: Metric::gauge("chatfn_process_max_files")
            .means("Most file descriptors that the process may have open."),
        THREADS: Metric::gauge("chatfn_process_threads").means("Threads of the process."),
        WORKERS: Metric::gauge("chatfn_runtime_workers").means("Threads that run tasks."),
        TASKS: Metric::gauge("chatfn_runtime_tasks")
            .means("Tasks that have not ended.")
            .when_off("Grows without end while calls do not: a leak, to be reported."),
        QUEUED: Metric::gauge("chatfn_runtime_queued_tasks")
            .means("Tasks that are ready and in no worker's own queue.")
            .when_off("Stays high: the processors are the limit. Add replicas or processors."),
        BUSY: Metric::counter("chatfn_runtime_busy_seconds_total")
            .means("Time for which workers ran tasks, of all workers together.")
            .when_off("Its rate near chatfn_runtime_workers: the processors are the limit. Add replicas or processors."),
    }
}

/// Adds them for a service that starts now, in the runtime of the caller.
///
/// # Panics
/// Outside a runtime.
pub(crate) fn add(metrics: &Metrics, service: &'static str, version: &'static str) {
    let started = Instant::now();
    metrics.observe_each(&BUILD, move || vec![(vec![service, version], 1.0)]);
    metrics.observe(&UPTIME, move || Some(started.elapsed().as_secs_f64()));
    let process = |metric: &Metric, read: fn(&procfs::process::Process) -> procfs::ProcResult<f64>| {
        // Opened for each scrape: one that was kept would be that of a parent after a fork.
        metrics.observe(metric, move || read(&procfs::process::Process::myself().ok()?).ok());
    };
    process(&CPU, |process| {
        let stat = process.stat()?;
        Ok((stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64)
    });
    process(&RESIDENT, |process| Ok((process.statm()?.resident * procfs::page_size()) as f64));
    process(&OPEN_FILES, |process| Ok(process.fd_count()? as f64));
    process(&MAX_FILES, |process| {
        Ok(match process.limits()?.max_open_files.soft_limit {
            procfs::process::LimitValue::Value(files) => files as f64,
            procfs::process::LimitValue::Unlimited => f64::INFINITY,
        })
    });
    process(&THREADS, |process| Ok(process.stat()?.num_threads as f64));

    let runtime = Handle::current().metrics();
    let of_runtime = |metric: &Metric, read: fn(&RuntimeMetrics) -> f64| {
        let runtime = runtime.clone();
        metrics.observe(metric, move || Some(read(&runtime)));
    };
    of_runtime(&WORKERS, |runtime| runtime.num_workers() as f64);
    of_runtime(&TASKS, |runtime| runtime.num_alive_tasks() as f64);
    of_runtime(&QUEUED, |runtime| runtime.global_queue_depth() as f64);
    of_runtime(&BUSY, |runtime| {
        let busy: Duration =
            (0..runtime.num_workers()).map(|worker| runtime.worker_total_busy_duration(worker)).sum();
        busy.as_secs_f64()
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_are_known() {
        let metrics = Metrics::new();
        add(&metrics, "registry", "1.2.3");
        let text = metrics.encode();
        for metric in METRICS {
            let value = text
                .lines()
                .find(|line| line.strip_prefix(metric.name).is_some_and(|rest| rest.starts_with([' ', '{'])));
            assert!(value.is_some(), "{} is missing in\n{text}", metric.name);
        }
        assert!(text.contains("chatfn_build_info{service=\"registry\",version=\"1.2.3\"} 1.0"), "{text}");
        let resident = text.lines().find_map(|line| line.strip_prefix("chatfn_process_resident_bytes "));
        assert!(resident.is_some_and(|bytes| bytes.parse::<f64>().unwrap() > 1e6), "{resident:?}");
    }
}
