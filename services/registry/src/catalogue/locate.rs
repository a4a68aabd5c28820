//! Where in a JSON text something stands.

use std::collections::HashMap;

use serde_json::value::RawValue;

/// A place in a text, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The byte in the line.
    pub column: usize,
}

/// Where the value that a JSON pointer points to begins; `None` when the text has no such value.
pub(super) fn locate(json: &str, pointer: &str) -> Option<Position> {
    let mut value = json.trim_start();
    for step in pointer.split('/').skip(1) {
        let step = step.replace("~1", "/").replace("~0", "~");
        let found: &RawValue = if value.starts_with('[') {
            serde_json::from_str::<Vec<&RawValue>>(value).ok()?.get(step.parse::<usize>().ok()?)?
        } else {
            serde_json::from_str::<HashMap<String, &RawValue>>(value).ok()?.get(&step)?
        };
        value = found.get();
    }
    // What serde_json borrows is a part of the text.
    let before = &json[..value.as_ptr().addr() - json.as_ptr().addr()];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    Some(Position { line: before.matches('\n').count() + 1, column: before.len() - line_start + 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_lead_to_lines_and_columns() {
        let json = " {\n  \"a/b\": [1,\n    {\"c\": true}]\n}";
        let at = |pointer| locate(json, pointer).map(|Position { line, column }| (line, column));
        assert_eq!(at(""), Some((1, 2)));
        assert_eq!(at("/a~1b"), Some((2, 10)));
        assert_eq!(at("/a~1b/0"), Some((2, 11)));
        assert_eq!(at("/a~1b/1/c"), Some((3, 11)));
        for missing in ["/x", "/a~1b/2", "/a~1b/x", "/a~1b/0/y"] {
            assert_eq!(at(missing), None, "{missing}");
        }
    }
}
