//! Tells the crate what its modules are made of, and what they have become: see `src/made_of.rs`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest as _, Sha256};

use crate::toolchain::Tools;

/// `inputs`: all that the guest is made of besides the toolchain, generated files included.
pub(crate) fn tell(tools: &Tools, flags: &[&str], inputs: &[PathBuf], out: &Path) {
    let mut sources = Sha256::new();
    sources.update(flags.join(" "));
    for input in inputs {
        // Names as well, but no folders: they are this machine's.
        let name = input.file_name().expect("an input has a name").to_string_lossy();
        sources.update(format!("\n{name} {}", digest(input)));
    }
    for (name, value) in [
        ("GUEST", digest(&out.join("guest.wasm"))),
        ("TYPESCRIPT", digest(&out.join("typescript.wasm"))),
        ("SOURCES", hex::encode(sources.finalize())),
        ("TOOLCHAIN", toolchain(tools)),
    ] {
        println!("cargo::rustc-env=CHATFN_ENGINE_{name}={value}");
    }
}

/// The compiler, and the libraries that it links to the guest.
fn toolchain(tools: &Tools) -> String {
    let version = said(tools, &["--version"]);
    let version = version.lines().next().unwrap_or("unknown compiler").trim();
    let library = |name: &str, ask: &str| {
        let path = said(tools, &["--target=wasm32-wasi", ask]);
        format!("{name} {}", &digest(Path::new(path.trim()))[..12])
    };
    let [libc, builtins] =
        [library("libc", "-print-file-name=libc.a"), library("builtins", "-print-libgcc-file-name")];
    format!("{version}, {libc}, {builtins}")
}

fn said(tools: &Tools, arguments: &[&str]) -> String {
    let output = Command::new(&tools.clang).args(arguments).output().expect("the compiler has run before");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn digest(file: &Path) -> String {
    let bytes = fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    hex::encode(Sha256::digest(bytes))
}
