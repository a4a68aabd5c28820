//! docs/ERRORS.md: every reason that a program or a person may meet.

use std::fmt::Write as _;

use chatfn_domain::reasons::{self, Reason, Retry};
use chatfn_proto::invoker::v1::{BuildErrorKind, FailureKind};

use crate::{cell, check};

const INTRODUCTION: &str = "\
# Errors

What goes wrong has a stable reason, for programs to act upon and to be looked up here. This page is made of
`services/common/domain/src/reasons/`, where all of them are (`make docs`), and a test compares them.

Every gRPC error of chatfn carries `google.rpc.ErrorInfo` with the domain `chatfn` and a reason; its message says what to do next.
Beside it, where they help: `BadRequest` (which fields, and what each should be), `ResourceInfo` (what it is about),
`PreconditionFailure`, and `RetryInfo` (when to try again; also as `grpc-retry-pushback-ms`, which gRPC's own retries read). grpcurl shows them all.
An error without an `ErrorInfo` of this domain does not come from chatfn but from a proxy, or from the client's own library.

A lambda that fails is no error of a call: it is in the report of its run ([below](#how-a-run-fails)).

**Again** says whether the same may be repeated: *no*, not before something is changed; *yes*, later, and nothing was done; *if
recognised*, since it may have been done: what has a `request_id`, an event's id or no effect may be repeated, and otherwise read first.
";

/// A heading, what it says under it, and which reasons of the table of calls are under it.
const CALLS: [(&str, &str, &str); 7] = [
    (
        "Every call",
        "Given before a method is reached, by every service alike, or for any method.",
        "every service",
    ),
    (
        "Calls between services, and by chatfn's own clients",
        "Given by the client: nothing of chatfn answered.",
        "every service, as a client",
    ),
    ("Registry and event-ingest", "", "registry, event-ingest"),
    ("Invoker and event-ingest", "", "invoker, event-ingest"),
    ("Registry", "Functions, also at the invoker for tests of drafts.", "registry, invoker|registry"),
    ("Invoker", "", "invoker"),
    ("Event-ingest", "", "event-ingest"),
];

#[test]
fn errors_are_those_of_the_code() {
    let mut page = INTRODUCTION.to_owned();
    page += "\n## Why a call fails\n";
    for (heading, text, by) in CALLS {
        let of: Vec<_> = reasons::ALL.iter().filter(|it| by.split('|').any(|by| it.by() == by)).collect();
        assert!(!of.is_empty(), "{heading} is empty");
        write!(page, "\n### {heading}\n\n{}", paragraph(text)).unwrap();
        page += &table("code", &of);
    }
    let listed =
        reasons::ALL.iter().filter(|it| CALLS.iter().any(|(_, _, by)| by.split('|').any(|by| by == it.by())));
    assert_eq!(listed.count(), reasons::ALL.len(), "each is under a heading");

    page +=
        "\n## Which rule a field breaks\n\n`BadRequest.field_violations[].reason` of `INVALID_REQUEST`.\n\n";
    page += "| reason | what it means |\n|---|---|\n";
    for (name, meaning) in chatfn_proto::validate::reasons::ALL {
        writeln!(page, "| `{name}` | {meaning} |").unwrap();
    }

    page += "\n## Why an event is in its state\n\n`Delivery.reason`, with `Delivery.reason_message` for people. What has no report of a run has the \
             reason in `Attempt.platform_error`, too.\n\n";
    page += &table("state", &reasons::events::ALL.iter().collect::<Vec<_>>());

    page +=
        "\n## How a run fails\n\n`RunReport.failure.kind`: what the lambda did, or what became of it.\n\n";
    page += "| kind | retried by | what happened, and what to do |\n|---|---|---|\n";
    for kind in all(FailureKind::try_from) {
        if let Some((class, text)) = failure(kind) {
            writeln!(page, "| `{}` | `{class}` | {text} |", short(kind.as_str_name())).unwrap();
        }
    }
    page += "\n*Retried by* names the switch of `settings.retry.retry_on`.\n";

    page += "\n## What a lambda asked for and did not get\n\n`OutboundCall.error_reason` in the report of the run, and `code` of the error in \
             JavaScript. What `fetch` itself refuses, such as a method that it does not know or a URL that is none, is no call: a `TypeError` says so.\n\n";
    page += &table("of", &reasons::runs::ALL.iter().collect::<Vec<_>>());

    page += "\n## Why a source does not build\n\n`BuildError.kind`, in the answer of `Prepare` and `TestInvoke`, in `Function.build_error`, and as \
             `kind` of `BUILD_FAILED`. `line` and `column` are those of the author's source.\n\n";
    page += "| kind | what to do |\n|---|---|\n";
    for kind in all(BuildErrorKind::try_from) {
        if let Some(text) = build_error(kind) {
            writeln!(page, "| `{}` | {text} |", short(kind.as_str_name())).unwrap();
        }
    }
    check("ERRORS.md", &page);
}

fn paragraph(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{text}\n\n") }
}

fn table(of: &str, reasons: &[&Reason]) -> String {
    let mut table = format!("| reason | {of} | again | cause | cure |\n|---|---|---|---|---|\n");
    for it in reasons {
        let again = match it.retry() {
            Retry::No => "no",
            Retry::Yes => "yes",
            Retry::Idempotent => "if recognised",
        };
        let keys: Vec<_> = it.metadata().iter().map(|key| format!("`{key}`")).collect();
        let keys = if keys.is_empty() { String::new() } else { format!(" Metadata: {}.", keys.join(", ")) };
        let of: Vec<_> = it.of().split(", ").map(|of| format!("`{of}`")).collect();
        writeln!(
            table,
            "| `{it}` | {} | {again} | {} | {}{keys} |",
            of.join(", "),
            cell(it.cause()),
            cell(it.cure())
        )
        .unwrap();
    }
    table
}

/// Every value of an enum of the contract.
fn all<T, E>(of: impl Fn(i32) -> Result<T, E>) -> impl Iterator<Item = T> {
    (0..).map_while(move |number| of(number).ok())
}

/// The name without the prefix that all have.
fn short(name: &str) -> &str {
    name.strip_prefix("FAILURE_KIND_").or(name.strip_prefix("BUILD_ERROR_KIND_")).unwrap_or(name)
}

/// By which switch it is retried, and what to say of it. A new kind does not compile without.
fn failure(kind: FailureKind) -> Option<(&'static str, &'static str)> {
    Some(match kind {
        FailureKind::Unspecified => return None,
        FailureKind::Thrown => (
            "thrown",
            "The lambda threw, rejected, or called back with an error. See its message, stack and logs.",
        ),
        FailureKind::Timeout => (
            "timeout",
            "It was stopped at its deadline. Have it do less, or raise `settings.timeout`; its outbound calls say what it waited for.",
        ),
        FailureKind::OutOfMemory => {
            ("thrown", "It used more memory than it may. Raise `settings.memory_mib`, or have it keep less.")
        }
        FailureKind::NeverSettles => {
            ("thrown", "It waits for a promise that nothing can settle any more. Settle or drop it.")
        }
        FailureKind::ResultTooLarge => ("thrown", "What it returned is larger than allowed. Return less."),
        FailureKind::ResultNotJson => {
            ("thrown", "What it returned cannot be written as JSON: a cycle, or a BigInt. Return plain data.")
        }
        FailureKind::Crashed => (
            "platform",
            "The sandbox broke down and was discarded; no other run is touched. Report it, with the source.",
        ),
        FailureKind::NotLoadable => (
            "platform",
            "The live version cannot be loaded by this release's engine; nothing ran. Correct it and deploy it again, or deploy an older version.",
        ),
    })
}

fn build_error(kind: BuildErrorKind) -> Option<&'static str> {
    Some(match kind {
        BuildErrorKind::Unspecified => return None,
        BuildErrorKind::Syntax => {
            "The source is not JavaScript (or not TypeScript, if that is its language). Correct it at the line and column."
        }
        BuildErrorKind::NoLambda => "Define `async function lambda(input, context)`, or export it.",
        BuildErrorKind::TopLevelThrow => {
            "Code outside of the lambda threw; it runs once, when the source is prepared. The stack says where."
        }
        BuildErrorKind::UnknownModule => {
            "Import only the modules that services/invoker/guest/README.md lists."
        }
        BuildErrorKind::ForbiddenAtTopLevel => {
            "Calls, timers and random numbers belong into the lambda: what is outside of it is the same for all runs."
        }
        BuildErrorKind::Timeout => {
            "Code outside of the lambda ran for too long. Move it into the lambda, or have it do less."
        }
        BuildErrorKind::OutOfMemory => "Code outside of the lambda used too much memory. Keep less there.",
        BuildErrorKind::TooLarge => "Shorten the source; the message has the limit.",
    })
}
