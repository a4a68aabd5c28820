//! Turns the JavaScript prelude into a C header.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Writes every `*.js` of `folder`, in the order of their names, as a table of `{name, source}`.
pub(crate) fn write_header(folder: &Path, header: &Path) {
    let mut files: Vec<_> = fs::read_dir(folder)
        .expect("the prelude's folder is readable")
        .map(|entry| entry.expect("the prelude's folder is readable").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "js"))
        .collect();
    files.sort();

    let mut text =
        String::from("static const struct { const char *name; const char *source; } prelude[] = {\n");
    for file in files {
        let name = file.file_name().expect("a file has a name").to_string_lossy();
        let source = fs::read_to_string(&file).expect("the prelude is UTF-8");
        // The wrapper is on the first line, so that line numbers stay those of the file.
        let wrapped = format!("(function (host, chatfn) {{ 'use strict'; {source}\n}})");
        writeln!(text, "{{ \"chatfn:{name}\", {} }},", literal(&wrapped)).expect("writing to a String");
    }
    text.push_str("};\n");
    fs::write(header, text).expect("OUT_DIR is writable");
}

/// A C string literal, broken at each newline to stay readable.
fn literal(source: &str) -> String {
    let mut text = String::from("\"");
    for byte in source.bytes() {
        match byte {
            b'\n' => text.push_str("\\n\"\n\""),
            b'"' => text.push_str("\\\""),
            b'\\' => text.push_str("\\\\"),
            b' '..=b'~' => text.push(char::from(byte)),
            // Always three digits: a shorter escape would swallow a digit that follows it.
            _ => write!(text, "\\{byte:03o}").expect("writing to a String"),
        }
    }
    text.push('"');
    text
}
