//! What the fuzz targets share. A finding is a panic, a hang or a leak: the targets assert what the sandbox
//! promises, and libFuzzer does the rest.

use std::future::Future;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use chatfn_engine::{Call, Engine, EngineConfig, NoHost, Outcome, PrepareLimits, Prepared, Report};
use tokio::runtime::{Builder, Runtime};

/// How long what is fuzzed may run.
pub const SHORT: Duration = Duration::from_millis(50);

/// One engine with one slot, so that each run has the memory of the one before.
pub static ENGINE: LazyLock<Engine> = LazyLock::new(|| {
    Engine::new(EngineConfig { max_sandboxes: 1, ..EngineConfig::default() }).expect("the engine starts")
});

/// Limits of what is fuzzed.
pub const LIMITS: PrepareLimits =
    PrepareLimits { source_chars: 100_000, timeout: SHORT, memory_bytes: 64 << 20, artifact_bytes: 32 << 20 };

static WITNESS: LazyLock<Prepared> = LazyLock::new(|| {
    let source = "let runs = 0; async function lambda(input) { for (const key in {}) return key; return [++runs, input] }";
    let patient = PrepareLimits { timeout: Duration::from_secs(60), ..LIMITS };
    block_on(ENGINE.prepare(source, patient)).expect("the witness prepares")
});

/// Runs a future on this thread.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    static RUNTIME: LazyLock<Runtime> =
        LazyLock::new(|| Builder::new_current_thread().enable_time().build().expect("a runtime"));
    RUNTIME.block_on(future)
}

/// A call that may take this long.
#[must_use]
pub fn call(timeout: Duration) -> Call {
    Call::new("[1]", Instant::now() + timeout, std::sync::Arc::new(NoHost))
}

/// Makes the engine, which may take many seconds and is no input's fault.
pub fn prepare_engine() {
    LazyLock::force(&WITNESS);
}

/// Asserts that the next run works, and sees nothing of the last one.
pub fn assert_clean() {
    let report = block_on(ENGINE.run(&WITNESS, call(Duration::from_secs(60)))).expect("the next run begins");
    assert_eq!(report.outcome, Outcome::Returned { json: "[1,[1]]".to_owned() });
}

/// Feeds back how a run ended.
pub fn saw_report(report: &Report) {
    match &report.outcome {
        Outcome::Returned { json } => saw(&format!("returned {}", json.len())),
        Outcome::Failed(failure) => saw(&format!("{:?} {}", failure.kind, failure.message)),
    }
}

/// Feeds a text back: an input that led to a new one is worth keeping. The code inside of the sandbox gives
/// no coverage of its own, and what QuickJS says of a source tells well how far it got. Digits are left out:
/// positions and lengths are not news.
pub fn saw(text: &str) {
    // libFuzzer looks at this section after each input.
    #[expect(
        unsafe_code,
        reason = "a section is part of libFuzzer's interface; what lies in it is plain bytes"
    )]
    #[unsafe(link_section = "__libfuzzer_extra_counters")]
    static SEEN: [AtomicU8; 4096] = [const { AtomicU8::new(0) }; 4096];
    let mut hasher = DefaultHasher::new();
    text.split(|letter: char| letter.is_ascii_digit()).for_each(|part| part.hash(&mut hasher));
    SEEN[(hasher.finish() % SEEN.len() as u64) as usize].store(1, Ordering::Relaxed);
}
