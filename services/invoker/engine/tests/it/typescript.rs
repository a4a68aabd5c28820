//! TypeScript: its types are erased, its places stay, and no source is too much for it.

use std::time::Duration;

use chatfn_engine::{PrepareError, PrepareLimits};
use serde_json::json;

use crate::support::{LIMITS, call, engine, failure, returned};

async fn erased(source: &str) -> String {
    engine().erase_types(source, LIMITS).await.unwrap_or_else(|error| panic!("{source}: {error}"))
}

async fn refused(source: &str, limits: PrepareLimits) -> PrepareError {
    engine().erase_types(source, limits).await.expect_err(source)
}

const TYPED: &str = r#"import type { Missing } from "nowhere";
interface Survey { header: string }
type Payload = { ttr?: { newTtr: { value: number } }; survey: Survey };
declare const injected: string;
abstract class Base<T> {
  protected readonly label!: string;
  private count: number = 0;
  constructor(public_: T) { this.count += 1; }
  abstract describe(this: Base<T>): string;
  get size(): number { return this.count; }
}
class Case extends Base<string> implements Survey {
  override describe(): string { return `case ${this.header}`; }
  constructor(public_: string, readonly_?: boolean) { super(public_); }
  header = "h" as string;
}
function pick<K extends keyof Payload>(payload: Payload, key: K): Payload[K];
function pick(payload: any, key: string): unknown { return payload[key]!; }
const identity = <T,>(value: T): T => value;
export async function lambda(input: { payload: Payload }, context?: unknown): Promise<unknown[]> {
  const made = new Case("x");
  const wait = (pick(input.payload, "ttr") as { newTtr: { value: number } }).newTtr.value satisfies number;
  return [wait, identity<number>(2), made.describe(), made.size, made instanceof Base];
}
"#;

#[tokio::test]
async fn types_are_erased_and_what_is_left_runs() {
    let javascript = erased(TYPED).await;
    let prepared = engine().prepare(&javascript, LIMITS).await.unwrap();
    let input = r#"{"payload": {"ttr": {"newTtr": {"value": 300}}}}"#;
    let report = engine().run(&prepared, call(input)).await.unwrap();
    assert_eq!(returned(&report), json!([300, 2, "case h", 1, true]));
}

#[tokio::test]
async fn every_place_stays_what_it_was() {
    let javascript = erased(TYPED).await;
    assert_eq!(javascript.lines().count(), TYPED.lines().count());
    for (line, (before, after)) in TYPED.lines().zip(javascript.lines()).enumerate() {
        assert_eq!(before.chars().count(), after.chars().count(), "line {}", line + 1);
        for (column, (before, after)) in before.chars().zip(after.chars()).enumerate() {
            let kept = before == after || after == ' ' || after == ';';
            assert!(kept, "line {}, column {}: {before:?} became {after:?}", line + 1, column + 1);
        }
    }
}

#[tokio::test]
async fn errors_name_the_place_in_the_typescript() {
    let source = "type Queue = { id: string };\nfunction find(queue?: Queue): string {\n  const found: string = queue!.id;\n  return found;\n}\nasync function lambda(input: unknown): Promise<string> {\n  return find((input as { queue?: Queue }).queue);\n}";
    let prepared = engine().prepare(&erased(source).await, LIMITS).await.unwrap();
    let report = engine().run(&prepared, call("{}")).await.unwrap();
    let stack = &failure(&report).stack;
    assert!(stack.contains("find (lambda.js:3:") && stack.contains("lambda (lambda.js:7:"), "{stack}");
    let column = |line: &str| line.find("find(").or_else(|| line.find("queue!")).unwrap() + 1;
    let near = |line: usize| {
        let at = stack.split_once(&format!("lambda.js:{line}:")).unwrap().1;
        let at: usize = at[..at.find(')').unwrap()].parse().unwrap();
        let text = source.lines().nth(line - 1).unwrap();
        (column(text)..=text.len()).contains(&at)
    };
    assert!(near(3) && near(7), "{stack}");
}

#[tokio::test]
async fn what_is_no_typescript_has_a_place() {
    for (source, line, column) in [
        ("async function lambda(): void {\n  const = 1;\n}", 2, 9),
        ("let a: number = = 1;", 1, 17),
        ("async function lambda(a: {) {}", 1, 27),
    ] {
        let error = refused(source, LIMITS).await;
        let PrepareError::Syntax { message, line: l, column: c } = &error else { panic!("{error:?}") };
        assert_eq!((*l, *c), (line, column), "{source}: {message}");
    }
}

#[tokio::test]
async fn what_is_more_than_a_type_is_refused_with_its_place() {
    for source in [
        "enum Colour { Red }",
        "namespace Shop { export const a = 1; }",
        "class A { constructor(private b: string) {} }",
        "import fs = require('fs');",
        "export = 1;",
    ] {
        let error = refused(&format!("\n  {source}"), LIMITS).await;
        let PrepareError::Syntax { message, line: 2, column } = &error else { panic!("{source}: {error:?}") };
        assert!(*column >= 3, "{source}: {error}");
        assert!(message.contains("only types can be erased"), "{source}: {message}");
    }
}

#[tokio::test]
async fn no_source_is_too_much() {
    let limits = PrepareLimits { timeout: Duration::from_secs(2), ..LIMITS };
    // Exponential time for the parser, in a few hundred characters.
    let ambiguous = format!("{}1", "a?(b):c=>".repeat(60));
    let error = refused(&ambiguous, limits).await;
    assert!(matches!(error, PrepareError::Unreadable { why: "that takes too long" }), "{error:?}");
    assert!(error.ran_out_of_time());
    assert!(error.to_string().contains("simplify"), "{error}");
    // As deep as a source can be: refused by whatever gives up first, while the process does not notice.
    for part in ["(", "[", "{", "!", "a=>", "`${", "<T>(a=", "a<", "if(a)", "let a:(", "typeof "] {
        let deep: String = part.chars().cycle().take(LIMITS.source_chars).collect();
        let answer = engine().erase_types(&deep, limits).await;
        assert!(
            !matches!(answer, Err(PrepareError::Internal { .. } | PrepareError::NoCapacity)),
            "{part}: {answer:?}"
        );
    }
    assert_eq!(erased("let a: number").await, "let a        ");
    let long = refused(&"x".repeat(LIMITS.source_chars + 1), LIMITS).await;
    assert!(matches!(long, PrepareError::TooLarge { what: "the source", .. }), "{long:?}");
}

#[tokio::test]
async fn a_source_of_the_greatest_length_is_read() {
    let line =
        "export const handle = async (input: { id?: string }): Promise<string> => input.id as string; // ä\n";
    let source: String = line.repeat(LIMITS.source_chars / line.chars().count());
    let javascript = erased(&source).await;
    assert_eq!(javascript.chars().count(), source.chars().count());
}
