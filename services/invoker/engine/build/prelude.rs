//! Turns the JavaScript that every sandbox starts with into a C header.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// The language's own globals. Each file takes them into constants before any source runs: a top-level name of
/// an author (`const Promise = require(…)`) would hide them from it.
const INTRINSICS: &str = "const { \
    Array, ArrayBuffer, BigInt, Boolean, DataView, Date, DOMException, Error, EvalError, Function, JSON, Map, Math, \
    Number, Object, Promise, Proxy, RangeError, ReferenceError, Reflect, RegExp, Set, String, Symbol, SyntaxError, \
    TypeError, URIError, Uint8Array, WeakMap, WeakRef, WeakSet, decodeURIComponent, encodeURIComponent, parseFloat, \
    parseInt } = globalThis;";

/// One file of the prelude, wrapped as a function of `(host, chatfn)`.
pub(crate) struct File {
    name: String,
    source: String,
}

impl File {
    /// A file of ours.
    fn strict(name: String, body: &str) -> Self {
        // The wrapper is on the first line, so that line numbers stay those of the file.
        let source = format!("(function (host, chatfn) {{ 'use strict'; {INTRINSICS} {body}\n}})");
        Self { name, source }
    }

    /// A bundle, which holds files of others: whether a file is strict is for itself to say.
    pub(crate) fn bundle(name: &str, body: &str) -> Self {
        let source = format!("(function (host, chatfn) {{ {INTRINSICS} {{ {body}\n}} }})");
        Self { name: name.to_owned(), source }
    }
}

/// Every `*.js` of `folder`.
pub(crate) fn read(folder: &Path) -> Vec<File> {
    fs::read_dir(folder)
        .expect("the prelude's folder is readable")
        .map(|entry| entry.expect("the prelude's folder is readable").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "js"))
        .map(|path| {
            let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
            File::strict(name, &fs::read_to_string(&path).expect("the prelude is UTF-8"))
        })
        .collect()
}

/// Writes the files, in the order of their names, as a table of `{name, source}`. The sources are writable:
/// the guest wipes what it has evaluated.
pub(crate) fn write_header(mut files: Vec<File>, header: &Path) {
    files.sort_by(|a, b| a.name.cmp(&b.name));
    let mut text = String::new();
    for (index, file) in files.iter().enumerate() {
        writeln!(text, "static char prelude_{index}[] = {};", literal(&file.source))
            .expect("writing to a String");
    }
    text.push_str("static const struct { const char *name; char *source; } prelude[] = {\n");
    for (index, File { name, .. }) in files.iter().enumerate() {
        writeln!(text, "{{ \"chatfn:{name}\", prelude_{index} }},").expect("writing to a String");
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
            // A question mark could begin a trigraph.
            b' '..=b'>' | b'@'..=b'~' => text.push(char::from(byte)),
            // Always three digits: a shorter escape would swallow a digit that follows it.
            _ => write!(text, "\\{byte:03o}").expect("writing to a String"),
        }
    }
    text.push('"');
    text
}
