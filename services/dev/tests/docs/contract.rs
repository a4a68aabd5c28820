//! What the contract's comments promise: each reason is one that this service gives, with that code.

use std::{fs, path::Path};

use chatfn_domain::reasons;

use crate::repository;

/// The folders of `proto/chatfn`, and the service that each is the contract of.
const SERVICES: [(&str, &str); 3] =
    [("ingest", "event-ingest"), ("invoker", "invoker"), ("registry", "registry")];

#[test]
fn promised_reasons_are_given_by_the_service_and_with_the_code() {
    let (mut promised, mut wrong) = (0, Vec::new());
    for (folder, service) in SERVICES {
        let folder = repository().join("proto/chatfn").join(folder).join("v1");
        let files = fs::read_dir(folder).expect("the contract is there").map(|file| file.unwrap().path());
        for file in files.filter(|file| name(file).ends_with("_service.proto")) {
            for comment in comments(&fs::read_to_string(&file).unwrap()) {
                for (code, reason) in reasons_of(&comment) {
                    promised += 1;
                    if !is_given(service, code, reason) {
                        wrong.push(format!("{}: {code} (`{reason}`)", name(&file)));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "chatfn_domain::reasons has no such ones:\n{}", wrong.join("\n"));
    assert!(promised > 80, "only {promised} reasons were found");
}

fn name(file: &Path) -> &str {
    file.file_name().and_then(|name| name.to_str()).expect("a name")
}

/// Each block of comment lines as one line.
fn comments(text: &str) -> Vec<String> {
    let mut blocks = vec![String::new()];
    for line in text.lines() {
        match (line.trim().strip_prefix("//"), blocks.last_mut()) {
            (Some(comment), Some(block)) => *block += comment,
            _ => blocks.push(String::new()),
        }
    }
    blocks
}

/// Reasons, each with the code in whose parentheses it is: `NOT_FOUND (`FUNCTION_NOT_FOUND`, …)`.
fn reasons_of(comment: &str) -> Vec<(&str, &str)> {
    let (mut code, mut found) = ("", Vec::new());
    for (index, part) in comment.split('`').enumerate() {
        if index % 2 == 1 {
            found.extend(is_capitals(part).then_some((code, part)));
            continue;
        }
        let words: Vec<_> = part.split_whitespace().collect();
        let opened = words.windows(2).rev().find(|pair| is_capitals(pair[0]) && pair[1].starts_with('('));
        code = opened.map_or(code, |pair| pair[0]);
    }
    found
}

fn is_capitals(word: &str) -> bool {
    word.len() > 1 && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
}

/// An outcome stands for a code where a method brings it about.
fn is_given(service: &str, code: &str, reason: &str) -> bool {
    reasons::ALL.iter().chain(reasons::events::ALL).any(|it| {
        let by_it = it.by() == "every service" || it.by().split(", ").any(|by| by == service);
        it.name() == reason && by_it && it.of().split(", ").any(|of| of == code)
    })
}

#[test]
fn reasons_are_found_with_their_codes() {
    let text = "// Errors: NOT_FOUND (`GONE`), ABORTED\n// (`LATE`: not for SUPPRESSED and `field`; `TORN`).\nrpc X\n// `ALONE`";
    let blocks = comments(text);
    let found: Vec<_> = blocks.iter().flat_map(|block| reasons_of(block)).collect();
    assert_eq!(found, [("NOT_FOUND", "GONE"), ("ABORTED", "LATE"), ("ABORTED", "TORN"), ("", "ALONE")]);
}
