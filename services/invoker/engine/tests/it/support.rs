//! One engine for all tests, and short ways to use it.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use chatfn_engine::{
    Call, Engine, EngineConfig, Failure, FailureKind, Host, LogEntry, NoHost, Outcome, PrepareError,
    PrepareLimits, Prepared, Report,
};

/// Long enough for a run that is expected to end by itself, however slow the machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The engine, compiled once for all test processes.
pub(crate) fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| Engine::new(config()).expect("the engine starts"))
}

/// Settings of an engine that is compiled once for all test processes.
pub(crate) fn config() -> EngineConfig {
    let cache_dir = Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join("engine-cache"));
    EngineConfig { cache_dir, ..EngineConfig::default() }
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

/// For what is meant to meet its deadline.
pub(crate) const SHORT: Duration = Duration::from_millis(50);

/// How late a run may end on a machine that is busy with other things. What has no deadline is later.
const LATE: Duration = Duration::from_secs(20);

/// An engine with one slot, so that every run has the memory that the run before it had.
pub(crate) struct Slot {
    engine: Engine,
    witness: Prepared,
    /// What the witness says in a slot that nothing has used.
    clean: (serde_json::Value, usize),
}

/// Says what a lambda could have left behind for the next one.
const WITNESS: &str = "
  const seen = () => [globalThis, Object, Object.prototype, Array.prototype, String.prototype, Function.prototype,
    Promise, Promise.prototype, Map.prototype, Error, JSON, Math, console, process.env]
    .map((it) => Reflect.ownKeys(it).map(String).sort().join());
  let runs = 0;
  async function lambda(input) {
    const polluted = [];
    for (const key in {}) polluted.push(key);
    const timer = await new Promise((resolve) => setTimeout(resolve, 0, 'timer'));
    return [seen(), ++runs, polluted, timer, [3, 1, 2].sort().map(String).join(), JSON.parse(JSON.stringify({ input }))];
  }";

impl Slot {
    pub(crate) async fn new() -> Self {
        let config = EngineConfig { max_sandboxes: 1, ..config() };
        let engine = Engine::new(config).expect("the engine starts");
        let witness = engine.prepare(WITNESS, LIMITS).await.expect("the witness prepares");
        let clean = testify(&engine, &witness).await;
        Self { engine, witness, clean }
    }

    /// Runs a source once. It must end about in time, and leave nothing.
    pub(crate) async fn run(&self, source: &str, mut call: Call) -> Report {
        let timeout = call.deadline.saturating_duration_since(Instant::now());
        let begun = Instant::now();
        let prepared = self.engine.prepare(source, LIMITS).await.expect("the source prepares");
        call.deadline += begun.elapsed();
        let deadline = call.deadline;
        let report = self.engine.run(&prepared, call).await.expect("the platform works");
        if matches!(&report.outcome, Outcome::Failed(failure) if failure.kind == FailureKind::Timeout) {
            assert!(Instant::now() >= deadline, "a timeout before the deadline: {source}");
        }
        assert!(report.timing.total < timeout + LATE, "{source}: {:?}", report.timing);
        assert_eq!(self.engine.free_slots(), 1, "the slot is free again after {source}");
        assert_eq!(testify(&self.engine, &self.witness).await, self.clean, "something is left of {source}");
        report
    }

    /// Runs the body of an async lambda that fails by itself.
    pub(crate) async fn fails(&self, body: &str, kind: FailureKind) -> Report {
        self.call_fails(body, call("null"), kind).await
    }

    /// As [`fails`](Self::fails), with a call of one's own.
    pub(crate) async fn call_fails(&self, body: &str, call: Call, kind: FailureKind) -> Report {
        let report = self.run(&started(body), call).await;
        assert_eq!(failure(&report).kind, kind, "{body}: {:?}", failure(&report));
        assert_eq!(report.logs[0].message, "started", "logs survive: {body}");
        report
    }

    /// Runs the body of an async lambda that never ends.
    pub(crate) async fn endless(&self, body: &str) -> Report {
        self.endless_after(body, Arc::new(NoHost), "started").await
    }

    /// As [`endless`](Self::endless), with a host and a line that it logs before it stalls. Only a deadline
    /// that a busy machine lets it reach that line by shows anything, so there are several.
    pub(crate) async fn endless_after(&self, body: &str, host: Arc<dyn Host>, line: &str) -> Report {
        for timeout in [SHORT, 10 * SHORT, 100 * SHORT] {
            let report = self.run(&started(body), call_of("null", timeout, Arc::clone(&host))).await;
            assert_eq!(failure(&report).kind, FailureKind::Timeout, "{body}: {:?}", failure(&report));
            if report.logs.iter().any(|entry| entry.message.contains(line)) {
                return report;
            }
        }
        panic!("it never logged {line}: {body}")
    }

    /// What the body of an async lambda returns.
    pub(crate) async fn returns(&self, body: &str) -> serde_json::Value {
        returned(&self.run(&format!("async function lambda(input) {{ {body}\n}}"), call("null")).await)
    }
}

fn started(body: &str) -> String {
    format!("async function lambda(input) {{ console.log('started');\n{body}\n}}")
}

async fn testify(engine: &Engine, witness: &Prepared) -> (serde_json::Value, usize) {
    let report = engine.run(witness, call("[1]")).await.expect("the next run begins");
    (returned(&report), report.peak_memory_bytes)
}

/// The messages of a log.
pub(crate) fn messages(logs: &[LogEntry]) -> Vec<&str> {
    logs.iter().map(|entry| entry.message.as_str()).collect()
}
