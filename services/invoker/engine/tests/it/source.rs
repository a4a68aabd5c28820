//! Sources of every kind: prepared or refused in words, never a broken sandbox.

use chatfn_engine::{PrepareError, PrepareLimits};

use crate::support::{LIMITS, call, engine, refusal, returned};

/// Refused or not, it is the author's source that decides, and the next source prepares.
async fn prepares_or_says_why(source: &str) -> Result<serde_json::Value, PrepareError> {
    let outcome = engine().prepare(source, LIMITS).await;
    if let Err(error) = &outcome {
        assert!(!matches!(error, PrepareError::Internal { .. } | PrepareError::NoCapacity), "{error:?}");
        assert!(error.to_string().len() < 1 << 16);
    }
    engine().prepare("async function lambda() {}", LIMITS).await.expect("the next source prepares");
    let report = engine().run(&outcome?, call("1")).await.expect("the platform works");
    Ok(returned(&report))
}

#[tokio::test]
async fn a_source_has_a_most_of_characters() {
    let of = |chars: usize| {
        let code = "async function lambda() { return 1 } //";
        format!("{code}{}", "ä".repeat(chars - code.len()))
    };
    assert_eq!(prepares_or_says_why(&of(100_000)).await.unwrap(), 1, "characters, not bytes");
    let error = refusal(&of(100_001)).await;
    assert!(
        matches!(error, PrepareError::TooLarge { what: "the source", actual: 100_001, limit: 100_000, .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn long_lines_and_many_of_them_are_fine() {
    for source in [
        format!("async function lambda() {{ return [{}0].length }}", "0,".repeat(49_000)),
        format!("async function lambda() {{ return '{}'.length }}", "x".repeat(99_000)),
        format!("async function lambda() {{ return 1{} }}", "+1".repeat(49_000)),
        format!("{}async function lambda() {{ return 1 }}", "\n".repeat(99_000)),
        format!("{}async function lambda() {{ return 1 }}", "var x;".repeat(16_000)),
        (0..3_000).map(|n| format!("function f{n}() {{}}")).collect::<String>()
            + "async function lambda() { return 1 }",
    ] {
        assert!(prepares_or_says_why(&source).await.unwrap().is_number());
    }
}

#[tokio::test]
async fn deep_nesting_is_refused_in_words() {
    let nested = |open: &str, inner: &str, close: &str| {
        let levels = 98_000 / (open.len() + close.len());
        format!("async function lambda() {{ return {}{inner}{} }}", open.repeat(levels), close.repeat(levels))
    };
    for source in [
        nested("[", "1", "]"),
        nested("(", "1", ")"),
        nested("{a:", "1", "}"),
        nested("-~", "1", ""),
        nested("!", "1", ""),
        nested("()=>", "1", ""),
        nested("f(", "1", ")"),
        nested("`${", "1", "}`"),
        nested("1?", "1", ":1"),
        nested("function(){return ", "1", "}"),
        nested("class{x=", "1", "}"),
        nested("async()=>await ", "1", ""),
        nested("a=>{", "", "}"),
        nested("new ", "Date", ""),
        nested("1**", "1", ""),
        nested("typeof ", "1", ""),
        nested("[...", "[]", "]"),
        format!("async function lambda() {{ {} }}", "if(1)".repeat(19_000) + ";"),
        format!("async function lambda() {{ {}{} }}", "{".repeat(49_000), "}".repeat(49_000)),
        format!("async function lambda() {{ {} }}", "a:".repeat(49_000) + ";"),
        format!("async function lambda() {{ const {}a{} = 1 }}", "[".repeat(49_000), "] ".repeat(24_000)),
        format!("async function lambda() {{ return /{}{}/ }}", "(?:".repeat(24_000), ")".repeat(24_000)),
        "(".repeat(100_000),
        "[".repeat(100_000),
        "`${".repeat(33_000),
        "{".repeat(100_000),
    ] {
        if let Err(error) = prepares_or_says_why(&source).await {
            assert!(
                matches!(error, PrepareError::Syntax { .. } | PrepareError::TopLevelThrow { .. }),
                "{}…: {error:?}",
                &source[..60]
            );
        }
    }
}

#[tokio::test]
async fn strange_characters_are_read_as_the_language_has_it() {
    for (source, works) in [
        ("\u{feff}async function lambda() { return 1 }", true),
        ("#!/usr/bin/env node\nasync function lambda() { return 1 }", true),
        ("async function lambda() { return 1 }\0", false),
        ("async function lambda() { return 'a\0b'.length - 2 }", true),
        ("\0async function lambda() { return 1 }", false),
        ("// \u{2028} async function lambda() { return 1 }", true),
        ("async function lambda() { return 1 } //\u{202e}\u{10ffff}", true),
        ("async function l\\u0061mbda() { return 1 }", true),
        ("async function lambda() { return '\u{1f600}'.length - 1 }", true),
        ("async function lambda() { return 1 }\r\n\u{a0}\u{feff}\t\u{b}", true),
        ("async function lambda() { \u{fffd} }", false),
    ] {
        match prepares_or_says_why(source).await {
            Ok(one) => assert!(works && one == 1, "{source:?}: {one}"),
            Err(error) => {
                assert!(!works && matches!(error, PrepareError::Syntax { .. }), "{source:?}: {error:?}")
            }
        }
    }
}

#[tokio::test]
async fn what_top_level_code_leaves_is_bounded() {
    let leaves = "const kept = new Array(20).fill(0).map(() => new Uint8Array(1e6).fill(7)); async function lambda() { return kept.length }";
    assert_eq!(prepares_or_says_why(leaves).await.unwrap(), 20);
    let less = PrepareLimits { artifact_bytes: 8 << 20, ..LIMITS };
    let error = engine().prepare(leaves, less).await.unwrap_err();
    assert!(
        matches!(error, PrepareError::TooLarge { what: "what top-level code makes", limit, .. } if limit == 8 << 20),
        "{error:?}"
    );
    let hungry =
        "const kept = []; while (true) kept.push(new Uint8Array(1e6).fill(7)); async function lambda() {}";
    assert!(matches!(refusal(hungry).await, PrepareError::Memory { limit_bytes } if limit_bytes == 64 << 20));
    let tiny = PrepareLimits { memory_bytes: 1, ..LIMITS };
    let error = engine().prepare("async function lambda() {}", tiny).await.unwrap_err();
    assert!(matches!(error, PrepareError::Memory { limit_bytes: 1 }), "not even the engine fits: {error:?}");
}

#[tokio::test]
async fn top_level_code_that_logs_or_reads_the_clock_is_warned_of() {
    for (top_level, expected) in [
        ("const luxon = require('luxon'); const then = new Date(0)", &[][..]),
        ("for (let n = 0; n < 1e4; n++) console.log('line', n)", &["logs"]),
        ("const begun = Date.now()", &["reads the clock"]),
        ("console.warn(new Date())", &["reads the clock", "logs"]),
    ] {
        let source = format!("{top_level}; async function lambda() {{ console.log(Date.now()) }}");
        let prepared = engine().prepare(&source, LIMITS).await.unwrap();
        let warnings = prepared.warnings();
        assert_eq!(warnings.len(), expected.len(), "{top_level}: {warnings:?}");
        for (warning, part) in warnings.iter().zip(expected) {
            assert!(warning.contains(part), "{top_level}: {warning}");
        }
    }
}

#[tokio::test]
async fn whatever_top_level_code_does_is_told() {
    for source in [
        "throw null",
        "throw { toString() { while (true) {} } }",
        "Object.defineProperty(globalThis, 'lambda', { get() { throw new Error('no') } })",
        "Object.defineProperty(module, 'exports', { get() { throw new Error('no') } })",
        "module.exports = new Proxy({}, { get() { throw new Error('no') } })",
        "await new Promise(() => {}); export const lambda = () => {}",
        "const deeper = () => deeper() + 1; deeper()",
        "JSON.parse('['.repeat(1e6))",
        "let it = [1].values(); for (let n = 0; n < 1e5; n++) it = it.map((x) => x); [...it]",
        "Object.prototype.toString = () => { throw 1 }; throw new Error('x')",
    ] {
        let error = refusal(source).await;
        assert!(!error.to_string().is_empty(), "{source}");
        let mine = !matches!(error, PrepareError::Internal { .. } | PrepareError::NoCapacity);
        assert!(mine, "an author's source is an author's mistake: {source}: {error:?}");
    }
}
