//! Finds the QuickJS-NG sources inside the `rquickjs-sys` package, and changes what has no other way.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const PACKAGE: &str = "rquickjs-sys";

/// What is replaced in `quickjs.c`: a line, and by what. `guest/immortal.c` says why, and `guest/memory.c` of the size.
const CHANGES: [(&str, &str); 3] = [
    ("#define JS_ARENA_SIZE              4096", "#define JS_ARENA_SIZE 1536"),
    (
        "#define JS_REF_COUNT(p) (js_rc(p)->ref_count)",
        "#include \"immortal.c\"\n#define JS_REF_COUNT(p) (*ref_count_of(js_rc(p)))",
    ),
    (
        "    if (!ptr)\n        return;\n    b = container_of(ptr, JSMallocBlockHeader, user_data);\n    \
         if (unlikely(b->u.block_idx == JS_ARENA_FREE_NIL)) {\n        /* large or zero-size block */\n",
        "    if (!ptr || is_immortal(ptr))\n        return;\n    b = container_of(ptr, JSMallocBlockHeader, user_data);\n    \
         if (unlikely(b->u.block_idx == JS_ARENA_FREE_NIL)) {\n        /* large or zero-size block */\n",
    ),
];

/// Writes the changed `quickjs.c` to a folder, which has to be searched before that of the sources.
///
/// # Panics
///
/// If a newer QuickJS-NG has what is to be changed in another form, or more than once.
pub(crate) fn write_changed(sources: &Path, to: &Path) {
    let mut text = fs::read_to_string(sources.join("quickjs.c")).expect("the package has its sources");
    for (before, after) in CHANGES {
        assert_eq!(text.matches(before).count(), 1, "quickjs.c has changed: look at its {before:?}");
        text = text.replace(before, after);
    }
    fs::write(to.join("quickjs.c"), text).expect("cannot write to OUT_DIR");
}

/// The folder with `quickjs.c`.
///
/// Cargo does not unpack packages of other platforms during a build, so this asks it for the wasm32
/// graph. It reaches for the network only when the package is not there yet.
pub(crate) fn source_dir(engine: &Path) -> PathBuf {
    let manifest = metadata(engine, true).or_else(|| metadata(engine, false)).unwrap_or_else(|| {
        panic!("cargo metadata does not know the package {PACKAGE}: is Cargo.lock complete?")
    });
    let folder = manifest.parent().expect("a manifest lies in a folder").join("quickjs");
    println!("cargo::rerun-if-changed={}", folder.join("quickjs.c").display());
    folder
}

fn metadata(engine: &Path, offline: bool) -> Option<PathBuf> {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["metadata", "--format-version", "1", "--filter-platform", "wasm32-wasip1"])
        .arg("--manifest-path")
        .arg(engine.join("Cargo.toml"));
    if offline {
        command.arg("--offline");
    }
    let output = command.output().ok().filter(|output| output.status.success())?;
    let graph: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    graph["packages"]
        .as_array()?
        .iter()
        .find(|package| package["name"] == PACKAGE)
        .and_then(|package| package["manifest_path"].as_str())
        .map(PathBuf::from)
}
