//! Third-party .proto files, taken out of the packages that carry them instead of being copied into
//! this repository.

use std::{env, fs, path::Path, path::PathBuf, process::Command};

use anyhow::{Context, ensure};

/// Include folders for `buf/validate/*.proto` and `google/rpc/*.proto`.
pub(crate) fn proto_includes(out: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let validate = package_folder("prost-protovalidate-types")?.join("proto");

    // The package holds `status.proto` by its bare name: give it the path that imports use.
    let google = out.join("include");
    fs::create_dir_all(google.join("google/rpc"))?;
    let status = package_folder("tonic-types")?.join("proto/status.proto");
    fs::copy(&status, google.join("google/rpc/status.proto"))
        .with_context(|| format!("copying {}", status.display()))?;

    Ok(vec![validate, google])
}

/// Folder of a package that `Cargo.lock` pins, downloaded when it is not there yet.
fn package_folder(name: &str) -> anyhow::Result<PathBuf> {
    let output = Command::new(env::var("CARGO")?)
        .args(["metadata", "--format-version=1", "--locked"])
        .output()
        .context("running cargo metadata")?;
    ensure!(
        output.status.success(),
        "cargo metadata failed (does `cargo fetch` work?): {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let manifest = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == name)
        .and_then(|package| package["manifest_path"].as_str())
        .with_context(|| format!("Cargo.lock pins no package {name}"))?;
    Ok(Path::new(manifest).parent().context("a manifest lies in a folder")?.to_path_buf())
}
