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
async fn the_errors_that_one_stands_for_are_told_within_bounds() {
    let source = "async function lambda() {\n  const all = [\n    new TypeError('first', { cause: 'why' }),\n    'second',\n  ];\n  const failed = all.map((it) => Promise.reject(it));\n  try {\n    await Promise.any(failed);\n  } catch (error) {\n    console.log('it failed:', error);\n    console.log(error);\n    throw new Error('outer', { cause: error });\n  }\n}";
    let report = run(source, call("{}")).await;
    let parts = [
        "AggregateError: ",
        "one of its errors is TypeError: first\n    at lambda (lambda.js:3:",
        "caused by Error: why",
        "one of its errors is Error: second",
    ];
    for told in [&failure(&report).stack, &report.logs[1].message] {
        let mut rest = told.as_str();
        for part in parts {
            let (_, after) = rest.split_once(part).unwrap_or_else(|| panic!("{part} is not in {told}"));
            rest = after;
        }
    }

    // Many, deep, and each other's.
    for (error, says) in [
        (
            "throw new AggregateError(new Array(1e6).fill(new Error('inner')), 'outer')",
            "… 999990 more of its errors",
        ),
        (
            "throw new AggregateError([new Proxy(new Error('x'), { get() { throw 1 } }), new Error('fine')], 'outer')",
            "cannot be read\none of its errors is Error: fine",
        ),
        ("throw new AggregateError([], 'none')", ""),
        ("throw Object.assign(new AggregateError([], 'outer'), { errors: { length: 1e9 } })", ""),
        (
            "const error = new AggregateError([], 'outer'); error.errors = new Array(9).fill(error); error.cause = error; throw error",
            "more of its errors",
        ),
        (
            "const error = new AggregateError([], 'outer'); error.errors = new Array(9).fill({ error }); throw error",
            "one of its errors is Error: { error: [AggregateError: outer] }",
        ),
    ] {
        let report = run(&format!("async function lambda() {{ {error} }}"), call("1")).await;
        let failure = failure(&report);
        assert_eq!(failure.name, "AggregateError", "{error}: {failure:?}");
        assert!(failure.stack.contains(says), "{error}: {}", failure.stack);
        assert!(failure.stack.matches("one of its errors").count() <= 10, "{error}: {}", failure.stack);
    }
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
