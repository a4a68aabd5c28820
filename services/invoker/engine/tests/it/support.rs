//! One engine for all tests, and short ways to use it.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use chatfn_engine::{
    Call, Engine, EngineConfig, Failure, FailureKind, Host, LogEntry, NoHost, Outcome, PrepareError,
    PrepareLimits, Report,
};

/// Long enough for a run that is expected to end by itself, however slow the machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The engine, compiled once for all test processes.
pub(crate) fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| {
        let cache_dir = Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join("engine-cache"));
        Engine::new(EngineConfig { cache_dir, ..EngineConfig::default() }).expect("the engine starts")
    })
}

/// How long top-level code may run here.
pub(crate) const LIMITS: PrepareLimits = PrepareLimits {
    source_chars: 100_000,
    timeout: PATIENCE,
    memory_bytes: 64 << 20,
    artifact_bytes: 32 << 20,
};

/// Why a source cannot be prepared.
pub(crate) async fn refusal(source: &str) -> PrepareError {
    engine().prepare(source, LIMITS).await.expect_err("the source is refused")
}

/// A call that may take its time.
pub(crate) fn call(input: &str) -> Call {
    call_of(input, PATIENCE, Arc::new(NoHost))
}

/// A call with a deadline and a host.
pub(crate) fn call_of(input: &str, timeout: Duration, host: Arc<dyn Host>) -> Call {
    Call::new(input.to_owned(), Instant::now() + timeout, host)
}

/// Prepares a source and runs it once. The time that preparing takes is not the run's.
pub(crate) async fn run(source: &str, mut call: Call) -> Report {
    let begun = Instant::now();
    let prepared = engine().prepare(source, LIMITS).await.expect("the source prepares");
    call.deadline += begun.elapsed();
    engine().run(&prepared, call).await.expect("the platform works")
}

/// What a lambda returns for an input.
pub(crate) async fn result(source: &str, input: &str) -> serde_json::Value {
    returned(&run(source, call(input)).await)
}

/// What a run returned.
#[track_caller]
pub(crate) fn returned(report: &Report) -> serde_json::Value {
    match &report.outcome {
        Outcome::Returned { json } => serde_json::from_str(json).expect("a result is JSON"),
        Outcome::Failed(failure) => panic!("it failed: {failure:?}"),
    }
}

/// How a run failed.
#[track_caller]
pub(crate) fn failure(report: &Report) -> &Failure {
    match &report.outcome {
        Outcome::Returned { json } => panic!("it returned {json}"),
        Outcome::Failed(failure) => failure,
    }
}

/// Runs the body of an async lambda with a timeout and expects it to fail.
pub(crate) async fn fails(body: &str, timeout: Duration, kind: FailureKind) -> Report {
    let source = format!("async function lambda(input) {{ console.log('started');\n{body}\n}}");
    let report = run(&source, call_of("null", timeout, Arc::new(NoHost))).await;
    assert_eq!(failure(&report).kind, kind, "{body}: {:?}", failure(&report));
    assert_eq!(report.logs[0].message, "started", "logs survive: {body}");
    report
}

/// The messages of a log.
pub(crate) fn messages(logs: &[LogEntry]) -> Vec<&str> {
    logs.iter().map(|entry| entry.message.as_str()).collect()
}
