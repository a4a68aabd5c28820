//! The host withstands whatever a guest calls it with.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::{Attacker, MEMORY_BYTES, SOURCE, imports, late_call};
use crate::call::Call;
use crate::host::{FetchResponse, Host, HostOp, OpError, OpResult};
use crate::sandbox::Sandbox;

const END: u64 = MEMORY_BYTES as u64;

/// Answers at once, with 1,000 bytes.
struct Answers;

impl Host for Answers {
    fn start(&self, _: HostOp) -> BoxFuture<'static, Result<OpResult, OpError>> {
        Box::pin(std::future::ready(Ok(OpResult::Fetch(FetchResponse {
            status: 200,
            status_text: String::new(),
            url: String::new(),
            redirected: false,
            headers: Vec::new(),
            body: Bytes::from_static(&[7; 1000]),
        }))))
    }
}

fn call() -> Call {
    Call::new("{}", Instant::now() + Duration::from_secs(600), Arc::new(Answers))
}

/// Writes a fetch with a body of this many bytes; its length.
fn write_fetch(attacker: &mut Attacker, body: usize) -> u64 {
    let header = br#"{"url":"https://a.test/","method":"POST"}"#;
    let memory = attacker.memory();
    memory[..4].copy_from_slice(&u32::try_from(header.len()).expect("short").to_le_bytes());
    memory[4..4 + header.len()].copy_from_slice(header);
    (4 + header.len() + body) as u64
}

#[tokio::test]
async fn no_numbers_break_the_host() {
    let hostile =
        [0, 1, 2, 3, 4, 8, END - 4, END - 1, END, END + 1, 1 << 31, u64::from(u32::MAX), 1 << 63, u64::MAX];
    // Enough of all combinations, the same ones every time.
    let mut state = 1_u64;
    let mut draw = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    for (index, import) in imports().iter().enumerate() {
        let mut attacker = Attacker::new(late_call()).await;
        attacker.memory().iter_mut().enumerate().for_each(|(at, byte)| *byte = (at * 31) as u8);
        let (mut ended, mut answered) = (0, 0);
        for _ in 0..1500 {
            let args: Vec<_> = (0..import.arity()).map(|_| hostile[draw() % hostile.len()]).collect();
            match attacker.call(index, &args).await {
                None => ended += 1,
                Some(_) => answered += 1,
            }
        }
        assert_eq!(ended + answered, 1500);
        assert!(attacker.held_by_host() < 512 << 10, "{import:?}: {}", attacker.held_by_host());
    }
}

#[tokio::test]
async fn a_pointer_outside_of_memory_ends_the_guest() {
    for (name, args) in [
        ("input", vec![0, END - 1, 2]),
        ("log", vec![1, END - 1, 2, 0, 0]),
        ("log", vec![1, u64::from(u32::MAX), u64::from(u32::MAX), 0, 0]),
        ("log", vec![1, 0, 1, END - 1, 2]),
        ("source", vec![0, END - 1, 2]),
        ("random", vec![END - 1, 2]),
        ("finish", vec![END, 1]),
        ("fail", vec![0, 0, 1, END, 1, 0, 1]),
        ("call", vec![1, END - 1, 2]),
        ("op_start", vec![1, END - 1, 2]),
        ("clock_time_get", vec![0, 0, END - 7]),
    ] {
        let mut attacker = Attacker::new(call()).await;
        assert_eq!(attacker.call_named(name, &args).await, None, "{name} {args:?}");
    }
}

#[tokio::test]
async fn numbers_that_mean_nothing_end_the_guest() {
    for (name, args) in [
        ("input", vec![3, 0, 2]),
        ("input", vec![0, 0, 1]),
        ("source", vec![0, 0, SOURCE.len() as u64 + 1]),
        ("source", vec![SOURCE.len() as u64 + 1, 0, 0]),
        ("source", vec![u64::from(u32::MAX), 0, u64::from(u32::MAX)]),
        ("compiled", vec![0, 1]),
        ("log", vec![4, 0, 0, 0, 0]),
        ("random", vec![0, (64 << 10) + 1]),
        ("fail", vec![99, 0, 0, 0, 0, 0, 0]),
        ("call", vec![99, 0, 0]),
        ("call_result", vec![0, 1]),
        ("op_take", vec![1, 0, 0]),
        ("op_take", vec![u64::MAX, 0, 0]),
    ] {
        let mut attacker = Attacker::new(call()).await;
        assert_eq!(attacker.call_named(name, &args).await, None, "{name} {args:?}");
    }
    let mut attacker = Attacker::new(call()).await;
    attacker.memory()[..2].copy_from_slice(&[0xC3, 0x28]);
    assert_eq!(attacker.call_named("finish", &[0, 2]).await, None, "a result that is no text");
}

#[tokio::test]
async fn what_the_host_holds_is_bounded() {
    let bounds = Call { result_bytes: 1000, max_op_bytes: 4000, max_ops: 8, ..call() };
    let mut attacker = Attacker::new(bounds).await;
    for _ in 0..10 {
        assert_eq!(attacker.call_named("finish", &[0, 1001]).await, Some(0));
        assert_eq!(attacker.call_named("log", &[1, 0, END, 0, END]).await, Some(0));
        assert_eq!(attacker.call_named("fail", &[0, 0, END, 0, END, 0, END]).await, Some(0));
        let long = write_fetch(&mut attacker, 4000);
        assert_eq!(attacker.call_named("op_start", &[1, 0, long]).await, Some(-3), "too large alone");
    }
    let request = write_fetch(&mut attacker, 1200);
    for id in 1..=3 {
        assert_eq!(attacker.call_named("op_start", &[1, 0, request]).await, Some(id));
    }
    assert_eq!(attacker.call_named("op_start", &[1, 0, request]).await, Some(-3), "too large together");
    let small = write_fetch(&mut attacker, 0);
    for id in 4..=8 {
        assert_eq!(attacker.call_named("op_start", &[1, 0, small]).await, Some(id));
    }
    assert_eq!(attacker.call_named("op_start", &[1, 0, small]).await, Some(-1), "too many");
    assert!(attacker.held_by_host() < 100 << 10, "{}", attacker.held_by_host());
}

#[tokio::test]
async fn one_result_at_a_time_waits_to_be_taken() {
    let mut attacker = Attacker::new(call()).await;
    let request = write_fetch(&mut attacker, 0);
    for id in 1..=64 {
        assert_eq!(attacker.call_named("op_start", &[1, 0, request]).await, Some(id));
    }
    let forever = (-1.0_f64).to_bits();
    for _ in 0..100 {
        assert_eq!(attacker.call_named("op_wait", &[forever]).await, Some(1), "the one that is not taken");
    }
    let size = attacker.call_named("op_size", &[1]).await.expect("it is done") as u64;
    assert!(size > 1000);
    assert_eq!(attacker.call_named("op_size", &[2]).await, Some(-1), "nobody has looked at it");
    assert_eq!(attacker.call_named("op_take", &[1, 0, size]).await, Some(0));
    assert_eq!(attacker.call_named("op_wait", &[forever]).await, Some(2));
    assert_eq!(attacker.call_named("op_cancel", &[2]).await, Some(0));
    assert_eq!(attacker.call_named("op_wait", &[forever]).await, Some(3));
}

#[tokio::test]
async fn headers_of_requests_and_questions_about_urls_and_time_zones_are_bounded() {
    let mut attacker = Attacker::new(call()).await;
    let long = format!(r#"{{"url":"https://a.test/{}","method":"GET"}}"#, "x".repeat(64 << 10));
    attacker.memory()[..4].copy_from_slice(&u32::try_from(long.len()).expect("short").to_le_bytes());
    attacker.memory()[4..4 + long.len()].copy_from_slice(long.as_bytes());
    let len = 4 + long.len() as u64;
    assert_eq!(attacker.call_named("op_start", &[1, 0, len]).await, Some(-2));

    let question = format!(r#"["https://a.test/{}"]"#, "x".repeat(64 << 10));
    attacker.memory()[..question.len()].copy_from_slice(question.as_bytes());
    assert_eq!(attacker.call_named("call", &[1, 0, question.len() as u64]).await, Some(-1));

    for (zeros, answer) in [(252, 1), (253, -1)] {
        let question = format!("{} UTC", "0".repeat(zeros));
        attacker.memory()[..question.len()].copy_from_slice(question.as_bytes());
        assert_eq!(attacker.call_named("call", &[6, 0, question.len() as u64]).await, Some(answer));
        assert_eq!(attacker.call_named("call_result", &[0, 1]).await, (answer == 1).then_some(0));
    }
    assert_eq!(attacker.held_by_host(), 0);
}

#[tokio::test]
async fn top_level_code_reaches_less() {
    let deadline = Instant::now() + Duration::from_secs(600);
    let mut attacker =
        Attacker::of(Sandbox::for_prepare(Bytes::new(), Bytes::new(), deadline, 1 << 20)).await;
    assert_eq!(attacker.call_named("random", &[0, 8]).await, None);
    let request = write_fetch(&mut attacker, 0);
    assert_eq!(attacker.call_named("op_start", &[1, 0, request]).await, Some(-1));
    assert_eq!(attacker.call_named("finish", &[0, END]).await, Some(0));
    assert_eq!(attacker.held_by_host(), 0, "it has no result");
}

#[tokio::test]
async fn only_who_compiles_hands_over_bytecode() {
    let deadline = Instant::now() + Duration::from_secs(600);
    let other = Sandbox::for_prepare(Bytes::new(), Bytes::new(), deadline, 1 << 20);
    assert_eq!(Attacker::of(other).await.call_named("compiled", &[0, 1]).await, None);

    let mut attacker = Attacker::of(Sandbox::for_compile(Bytes::new(), deadline, 1 << 20)).await;
    for _ in 0..10 {
        assert_eq!(attacker.call_named("compiled", &[0, END]).await, Some(0));
    }
    assert_eq!(attacker.held_by_host(), MEMORY_BYTES, "the last one alone, and never more than its memory");
    assert_eq!(attacker.call_named("compiled", &[1, END]).await, None);
}

#[tokio::test]
async fn a_source_is_read_in_any_parts() {
    let mut attacker = Attacker::new(call()).await;
    let len = SOURCE.len();
    for (at, part) in [(0, len), (len, 0), (6, 8)] {
        assert_eq!(attacker.call_named("source", &[at as u64, 100, part as u64]).await, Some(0));
        assert_eq!(attacker.memory()[100..100 + part], SOURCE.as_bytes()[at..at + part]);
    }
}

#[tokio::test]
async fn only_the_first_verdict_counts() {
    let mut attacker = Attacker::new(call()).await;
    attacker.memory()[..4].copy_from_slice(b"1234");
    for len in 1..4 {
        assert_eq!(attacker.call_named("finish", &[0, len]).await, Some(0));
        assert_eq!(attacker.call_named("fail", &[0, 0, 4, 0, 4, 0, 4]).await, Some(0));
    }
    assert_eq!(attacker.held_by_host(), 1);
}
