//! What docs/ lists is what the code has.
//!
//! Pages that are made of the code are kept in the repository, so that they can be read there. Each test compares one
//! with what the code would make of it now; `make docs` writes them anew.

mod benchmarks;
mod contract;
mod errors;
mod settings;

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Set by `make docs`.
const REFRESH: &str = "CHATFN_REFRESH_DOCS";

/// Compares a page of docs/ with what it should be, or writes it.
fn check(page: &str, expected: &str) {
    let path = repository().join("docs").join(page);
    if std::env::var_os(REFRESH).is_some() {
        fs::write(&path, expected).expect("the page can be written");
        return;
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    let differs =
        expected.lines().zip(found.lines().chain(std::iter::repeat(""))).find(|(new, old)| new != old);
    let differs =
        differs.map(|(new, _)| new).or((found.len() > expected.len()).then_some("(the page's end)"));
    assert!(
        found == expected,
        "docs/{page} is not what the code has: run `make docs`, and commit what it writes. The first difference: {}",
        differs.unwrap_or("line ends")
    );
}

/// As [`check`], of what follows `line` in the page. What is above it is left alone.
fn check_below(page: &str, line: &str, expected: &str) {
    let found = fs::read_to_string(repository().join("docs").join(page)).expect("the page is there");
    let above = found.split_once(line).unwrap_or_else(|| panic!("docs/{page} has lost its line {line}")).0;
    check(page, &format!("{above}{line}{expected}"));
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A text as it may stand in a cell of a table.
fn cell(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
    // Not what is code.
    let parts = text.split('`').enumerate();
    let parts = parts.map(|(at, part)| if at % 2 == 0 { part.replace('<', "&lt;") } else { part.to_owned() });
    parts.collect::<Vec<_>>().join("`")
}
