//! Finds the QuickJS-NG sources inside the `rquickjs-sys` package.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const PACKAGE: &str = "rquickjs-sys";

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
