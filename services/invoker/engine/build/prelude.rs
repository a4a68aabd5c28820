//! Gathers the JavaScript that every sandbox starts with.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

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

/// Writes the files to a folder, and a slice of their names and texts, in the order of their names, as Rust. Gives the files.
pub(crate) fn write_table(mut files: Vec<File>, out: &Path) -> Vec<PathBuf> {
    files.sort_by(|a, b| a.name.cmp(&b.name));
    let folder = out.join("prelude");
    fs::create_dir_all(&folder).expect("OUT_DIR is writable");
    let mut table = String::from("&[\n");
    let mut written = Vec::new();
    for File { name, source } in files {
        let path = folder.join(&name);
        fs::write(&path, source).expect("OUT_DIR is writable");
        written.push(path);
        writeln!(table, "({:?}, include_str!({:?})),", format!("chatfn:{name}"), format!("prelude/{name}"))
            .expect("writing to a String");
    }
    table.push_str("]\n");
    fs::write(out.join("prelude.rs"), table).expect("OUT_DIR is writable");
    written
}
