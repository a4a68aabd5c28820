//! Which sources can be deployed, and what is said of the others.

use std::time::Duration;

use chatfn_engine::{PrepareError, PrepareLimits};

use crate::support::{LIMITS, call, engine, refusal, returned};

#[tokio::test]
async fn syntax_errors_have_a_place() {
    for (source, line, column) in [
        ("async function lambda() {\n  const = 1;\n}", 2, 9),
        ("async function lambda() {\n  return 1;\n", 3, 1),
        ("export async function lambda() {\n  retrun 1;\n}", 2, 10),
    ] {
        let error = refusal(source).await;
        let PrepareError::Syntax { line: at, column: column_at, message } = &error else {
            panic!("{error:?}")
        };
        assert_eq!((*at, *column_at), (line, column), "{source}: {message}");
        assert!(!message.is_empty());
    }
}

#[tokio::test]
async fn a_source_needs_a_lambda() {
    for source in ["", "async function handler() {}", "const lambda = 1;", "export const x = 1;"] {
        assert!(matches!(refusal(source).await, PrepareError::NoLambda), "{source}");
    }
}

#[tokio::test]
async fn top_level_code_runs_once_and_may_not_do_what_only_a_run_may() {
    for (what, source) in [
        ("fetch", "fetch('https://crm.example.com'); async function lambda() {}"),
        ("setTimeout", "setTimeout(() => {}, 1); async function lambda() {}"),
        ("Math.random", "const seed = Math.random(); async function lambda() {}"),
        ("crypto.randomUUID", "const id = crypto.randomUUID(); async function lambda() {}"),
    ] {
        let error = refusal(source).await;
        assert!(
            matches!(&error, PrepareError::ForbiddenAtTopLevel { what: said, .. } if said.contains(what)),
            "{error:?}"
        );
        assert!(error.to_string().contains("move the call into the lambda"), "{error}");
    }
    let thrown = refusal("\nthrow new TypeError('at once');\nasync function lambda() {}").await;
    assert!(
        matches!(&thrown, PrepareError::TopLevelThrow { name, message, line: 2, .. } if name == "TypeError" && message == "at once"),
        "{thrown:?}"
    );
}

#[tokio::test]
async fn unknown_modules_are_refused_with_a_list() {
    for (source, place) in [
        ("const fs = require('fs'); async function lambda() {}", (1, 20)),
        ("\n  import fs from \"fs\"; export async function lambda() {}", (2, 18)),
        ("const fs = require('f' + 's'); async function lambda() {}", (0, 0)),
    ] {
        let error = refusal(source).await;
        let PrepareError::ForbiddenImport { specifier, available, line, column } = &error else {
            panic!("{error:?}")
        };
        assert_eq!((specifier.as_str(), (*line, *column)), ("fs", place), "{source}");
        assert_eq!(error.to_string().contains("at line"), place.0 > 0, "{error}");
        assert!(available.iter().any(|name| name == "url"), "{available:?}");
    }
    for source in [
        "const { URL } = require('url'); async function lambda() { return new URL('a:b').href }",
        "import { URL } from 'node:url'; export async function lambda() { return new URL('a:b').href }",
    ] {
        let prepared = engine().prepare(source, LIMITS).await.unwrap();
        assert_eq!(returned(&engine().run(&prepared, call("1")).await.unwrap()), "a:b");
    }
}

#[tokio::test]
async fn preparing_has_limits() {
    let short = PrepareLimits { timeout: Duration::from_millis(50), ..LIMITS };
    let endless = engine().prepare("while (true) {}\nasync function lambda() {}", short).await.unwrap_err();
    assert!(matches!(endless, PrepareError::Timeout { .. }), "{endless:?}");

    let hungry =
        "const all = []; while (true) all.push(new Array(1e5).fill(all.length)); async function lambda() {}";
    assert!(matches!(refusal(hungry).await, PrepareError::Memory { .. }));

    let long = format!("// {}\nasync function lambda() {{}}", "ä".repeat(100_000));
    assert!(matches!(refusal(&long).await, PrepareError::TooLarge { what: "the source", .. }));
    let nested =
        format!("async function lambda() {{ return {}1{} }}", "[".repeat(30_000), "]".repeat(30_000));
    assert!(engine().prepare(&nested, LIMITS).await.is_err(), "deep nesting is refused, and nothing breaks");
}

#[tokio::test]
async fn a_small_source_stays_small_in_memory() {
    let source = "async function lambda() { return 1 }";
    let prepared = engine().prepare(source, LIMITS).await.unwrap();
    assert!(prepared.size_bytes() > 0 && prepared.size_bytes() < 512 << 10, "{}", prepared.size_bytes());
}
