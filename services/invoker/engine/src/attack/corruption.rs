//! A guest whose memory is not what it was: that run fails, and the memory of the next one is clean.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::call::{Call, FailureKind, Outcome};
use crate::config::EngineConfig;
use crate::engine::{Engine, Size};
use crate::fresh::ResetPath;
use crate::host::NoHost;
use crate::pool::Live;
use crate::prepared::{PrepareLimits, Prepared};
use crate::table;

const PATIENCE: Duration = Duration::from_secs(60);

fn call(timeout: Duration) -> Call {
    Call::new("[1]", Instant::now() + timeout, Arc::new(NoHost))
}

fn engine() -> Engine {
    Engine::new(EngineConfig { max_sandboxes: 1, ..EngineConfig::default() }).expect("the engine starts")
}

async fn prepare(engine: &Engine, source: &str) -> Prepared {
    let limits = PrepareLimits { timeout: PATIENCE, ..PrepareLimits::default() };
    engine.prepare(source, limits).await.expect("the source prepares")
}

/// A run's memory before it starts, and what it returns.
async fn observe(engine: &Engine, function: &Prepared) -> (Vec<u8>, Outcome) {
    let mut seen = Vec::new();
    let report = engine
        .run_attacked(function, call(PATIENCE), |memory| seen.extend_from_slice(memory))
        .await
        .expect("the platform works");
    (seen, report.outcome)
}

#[tokio::test]
async fn every_run_begins_with_the_same_bytes() {
    let engine = engine();
    let function = prepare(&engine, "async function lambda(input) { return input }").await;
    let clean = observe(&engine, &function).await;
    assert_eq!(clean.1, Outcome::Returned { json: "[1]".to_owned() });
    for body in [
        "const all = []; while (true) all.push(new Uint8Array(1e6).fill(0xAB))",
        "const all = []; while (true) all.push('secret '.repeat(1000) + all.length)",
        "const deeper = (n) => deeper(n + 1) + 1; deeper(0)",
        "JSON.parse('['.repeat(1e6))",
        "return 'x'.repeat(1e6)",
    ] {
        let dirty = prepare(&engine, &format!("async function lambda() {{ {body} }}")).await;
        engine.run(&dirty, call(PATIENCE)).await.expect("the platform works");
        assert!(observe(&engine, &function).await == clean, "something is left of {body}");
    }
}

/// A function whose top-level code leaves much, for the slots of large ones.
const LARGE: &str = "const kept = new Uint8Array(2e6).fill(7); async function lambda(input) { return [kept.length, ...input] }";

#[tokio::test]
async fn functions_go_where_what_they_leave_fits() {
    let engine = engine();
    let small = prepare(&engine, "async function lambda(input) { return input }").await;
    let large = prepare(&engine, LARGE).await;
    // All slots are alike when all that they keep is restored.
    let fast = engine.reset_path() == ResetPath::PagemapScan;
    assert_eq!(small.0.size, Size::Small);
    assert_eq!(large.0.size, if fast { Size::Large } else { Size::Small });
}

#[tokio::test]
async fn every_run_of_a_large_function_begins_with_the_same_bytes() {
    let engine = engine();
    let function = prepare(&engine, LARGE).await;
    let clean = observe(&engine, &function).await;
    assert_eq!(clean.1, Outcome::Returned { json: "[2000000,1]".to_owned() });
    for body in ["kept.fill(0xAB); throw new Error('x')", "while (true) kept.fill(0xAB)"] {
        let source = LARGE.replace("return [", &format!("{body}; return ["));
        let dirty = prepare(&engine, &source).await;
        engine.run(&dirty, call(Duration::from_millis(200))).await.expect("the platform works");
        assert!(observe(&engine, &function).await == clean, "something is left of {body}");
    }
}

#[tokio::test]
async fn what_the_reset_overlooks_reaches_no_other_run() {
    let engine = engine();
    if engine.reset_path() == ResetPath::CopyKept {
        return; // that overlooks nothing
    }
    for source in ["async function lambda(input) { return input }", LARGE] {
        let function = prepare(&engine, source).await;
        let clean = observe(&engine, &function).await;
        let mut at = 0;
        let attack = |memory: &mut [u8]| at = memory[8 << 20..].as_mut_ptr().expose_provenance();
        engine.run_attacked(&function, call(PATIENCE), attack).await.expect("the platform works");
        // What a page holds that the reset did not see.
        // SAFETY: the slot keeps its mapping, the only one of its pool is free, and so nobody else looks at it.
        #[expect(unsafe_code, reason = "as the kernel would bring the page back")]
        unsafe {
            std::ptr::with_exposed_provenance_mut::<[u8; 5]>(at).write(*b"stale");
        }
        assert!(observe(&engine, &function).await == clean, "another run's bytes: {source}");
    }
}

#[tokio::test]
async fn what_the_reset_of_a_larger_memory_overlooks_reaches_no_run_that_grows() {
    let engine = engine();
    if engine.reset_path() == ResetPath::CopyKept {
        return;
    }
    let larger = prepare(&engine, &LARGE.replace("2e6", "4e6")).await;
    let function = prepare(&engine, LARGE).await;
    let mut at = 0;
    let attack =
        |memory: &mut [u8]| at = memory.last_mut().map_or(0, |it| (&raw mut *it).expose_provenance());
    engine.run_attacked(&larger, call(PATIENCE), attack).await.expect("the platform works");
    // SAFETY: as above; the slot's memory is as large as it was until the next run begins.
    #[expect(unsafe_code, reason = "as the kernel would bring the page back")]
    unsafe {
        std::ptr::with_exposed_provenance_mut::<u8>(at).write(77);
    }
    let grow = |live: &mut Live| {
        let before = live.memory_bytes();
        live.memory.grow(&mut live.store, 64).expect("within the limit");
        let grown = &live.memory.data(&live.store)[before..];
        assert!(
            (grown.as_ptr_range()).contains(&std::ptr::without_provenance(at)),
            "the page is one of these"
        );
        assert!(grown.iter().all(|byte| *byte == 0), "another run's bytes");
    };
    engine.run_after(&function, call(PATIENCE), grow).await.expect("the platform works");
}

#[tokio::test]
async fn a_table_that_a_run_has_left_is_not_fresh() {
    let engine = engine();
    let function = prepare(&engine, "async function lambda(input) { return input }").await;
    let leave = |live: &mut Live| {
        let Some(table) = live.table else { return }; // all of it is reset
        assert!(table::is_fresh(&mut live.store, table));
        table::mark(&mut live.store, table).expect("the table has its entries");
        assert!(!table::is_fresh(&mut live.store, table));
    };
    engine.run_after(&function, call(PATIENCE), leave).await.expect("the platform works");
    assert_eq!(observe(&engine, &function).await.1, Outcome::Returned { json: "[1]".to_owned() });
}

#[tokio::test]
async fn memory_that_a_run_grows_into_is_empty() {
    let engine = engine();
    let fill =
        "async function lambda() { const all = []; while (true) all.push(new Uint8Array(1e6).fill(0xAB)) }";
    let fill = prepare(&engine, fill).await;
    let function = prepare(&engine, "async function lambda(input) { return input }").await;
    for _ in 0..2 {
        let report = engine.run(&fill, call(PATIENCE)).await.expect("the platform works");
        assert!(report.peak_memory_bytes > 60 << 20);
        let report = engine
            .run_after(&function, call(PATIENCE), |live| {
                let before = live.memory_bytes();
                live.memory.grow(&mut live.store, 512).expect("within the limit");
                let grown = &live.memory.data(&live.store)[before..];
                assert!(grown.iter().all(|byte| *byte == 0), "another run's bytes");
            })
            .await
            .expect("the platform works");
        assert!(matches!(report.outcome, Outcome::Returned { .. }), "{:?}", report.outcome);
    }
}

#[tokio::test]
async fn a_corrupted_run_is_a_report_and_nothing_more() {
    let engine = engine();
    let function =
        prepare(&engine, "const kept = { a: 1 }; async function lambda(input) { return input }").await;
    let clean = observe(&engine, &function).await;
    let mut outcomes = std::collections::BTreeMap::new();
    for seed in 0..60_usize {
        let report = engine
            .run_attacked(&function, call(Duration::from_millis(200)), |memory| {
                // Every so many words become a number that may pass for a pointer, a length or a tag.
                for at in (seed * 4..memory.len() - 4).step_by(64 + seed * 1024) {
                    let word = (at.wrapping_mul(2_654_435_761) >> (seed % 24)) as u32;
                    memory[at..at + 4].copy_from_slice(&word.to_le_bytes());
                }
            })
            .await
            .expect("corruption is not the platform's failure");
        let kind = match report.outcome {
            Outcome::Returned { .. } => "returned",
            Outcome::Failed(failure) => failure.kind.as_str(),
        };
        *outcomes.entry(kind).or_insert(0) += 1;
        assert!(observe(&engine, &function).await == clean, "something is left after seed {seed}");
    }
    assert!(outcomes.contains_key(FailureKind::Crashed.as_str()), "none of it was harmful: {outcomes:?}");
}
