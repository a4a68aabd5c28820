//! Errors say where they happened, in the author's terms.
//!
//! What QuickJS does not tell: the callers of an async function that has been waiting, and the place of a `throw` of what is
//! no error.

use crate::support::{call, failure, run};

/// The places of what a lambda fails with, innermost first.
async fn places(source: &str) -> Vec<String> {
    let report = run(source, call("{}")).await;
    failure(&report)
        .stack
        .lines()
        .map(|line| line.trim_start().trim_start_matches("at ").to_owned())
        .collect()
}

#[tokio::test]
async fn a_throw_is_found_through_every_kind_of_function() {
    for (source, expected) in [
        ("async function lambda() {\n  throw new Error('a');\n}", &["lambda (lambda.js:2:13)"][..]),
        (
            "class A {\n  #b() { throw new Error('a'); }\n  get c() { return this.#b(); }\n}\nasync function lambda() {\n  return new A().c;\n}",
            &["#b (lambda.js:2:20)", "get c (lambda.js:3:20)", "lambda (lambda.js:6:14)"],
        ),
        (
            "async function lambda() {\n  return [1].map((n) => n.missing.field);\n}",
            &["<anonymous> (lambda.js:2:25)", "map (native)", "lambda (lambda.js:2:14)"],
        ),
        ("function lambda(input, callback) {\n  callback(new Error('no'));\n}", &["lambda (lambda.js:2:16)"]),
        ("export default async () => {\n  throw new Error('a');\n};", &["default (lambda.js:2:13)"]),
        (
            "async function lambda() {\n  return JSON.parse('{');\n}",
            &["parse (native)", "lambda (lambda.js:2:15)"],
        ),
    ] {
        assert_eq!(places(source).await, expected, "{source}");
    }
}

#[tokio::test]
async fn a_rejection_is_found_where_its_error_was_made() {
    for (source, expected) in [
        (
            "async function lambda() {\n  await null;\n  await inner();\n}\nasync function inner() {\n  await null;\n  throw new Error('a');\n}",
            "inner (lambda.js:7:13)",
        ),
        (
            "async function lambda() {\n  await new Promise((resolve, reject) => {\n    setTimeout(() => reject(new Error('late')), 1);\n  });\n}",
            "<anonymous> (lambda.js:3:33)",
        ),
        (
            "async function lambda() {\n  setTimeout(() => {\n    undefined.field;\n  }, 1);\n  await new Promise(() => {});\n}",
            "<anonymous> (lambda.js:3:5)",
        ),
    ] {
        assert_eq!(places(source).await, [expected], "{source}");
    }
}

#[tokio::test]
async fn a_refused_call_is_found_where_it_was_made() {
    let source = "async function lambda() {\n  await null;\n  await find('https://crm.example/');\n}\nasync function find(id) {\n  return fetch(id);\n}";
    assert_eq!(places(source).await, ["find (lambda.js:6:16)", "lambda (lambda.js:3:9)"]);
}

#[tokio::test]
async fn libraries_leave_no_frames_of_theirs() {
    for (source, expected) in [
        (
            "const _ = require('lodash');\nasync function lambda() {\n  return _.map([1], function each(n) {\n    return n.missing.field;\n  });\n}",
            &["each (lambda.js:4:12)", "lambda (lambda.js:3:12)"][..],
        ),
        (
            "async function lambda() {\n  require('jsonwebtoken').verify('x', 'y');\n}",
            &["lambda (lambda.js:2:27)"],
        ),
        ("async function lambda() {\n  return structuredClone(() => {});\n}", &["lambda (lambda.js:2:10)"]),
    ] {
        assert_eq!(places(source).await, expected, "{source}");
    }
}

#[tokio::test]
async fn causes_are_told_with_their_places() {
    let source = "async function lambda() {\n  const inner = new TypeError('inner');\n  throw new Error('outer', { cause: inner });\n}";
    let expected = ["lambda (lambda.js:3:18)", "caused by TypeError: inner", "lambda (lambda.js:2:30)"];
    let found = places(source).await;
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!(found[1], expected[1]);
    assert!(
        found[0].starts_with("lambda (lambda.js:3:") && found[2].starts_with("lambda (lambda.js:2:"),
        "{found:?}"
    );
}

#[tokio::test]
async fn what_is_no_error_is_shown_as_it_is() {
    for (thrown, message) in
        [("'text'", "text"), ("{ code: 7 }", "{ code: 7 }"), ("null", "null"), ("4711", "4711")]
    {
        let report = run(&format!("async function lambda() {{ throw {thrown}; }}"), call("1")).await;
        let failure = failure(&report);
        assert_eq!((&*failure.name, &*failure.message, &*failure.stack), ("Error", message, ""), "{thrown}");
    }
}
