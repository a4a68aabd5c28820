//! Finds clang for WebAssembly, and says what to install when something is missing.

use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, exit};

const CANDIDATES: [&str; 5] = ["clang-19", "clang-18", "clang-17", "clang-16", "clang"];
const HEADERS: &str = "/usr/include/wasm32-wasi/stdlib.h";

/// The tools that a build uses.
pub(crate) struct Tools {
    pub(crate) clang: OsString,
}

/// Finds the tools. Ends the build with one message when they are not installed.
pub(crate) fn find() -> Tools {
    println!("cargo::rerun-if-env-changed=CHATFN_CLANG");
    println!("cargo::rerun-if-env-changed=PATH");
    let clang = match env::var_os("CHATFN_CLANG") {
        Some(named) if targets_wasm(&named) => named,
        Some(named) => {
            give_up(&format!("CHATFN_CLANG={} is no clang for wasm32", Path::new(&named).display()))
        }
        None => CANDIDATES
            .iter()
            .map(OsString::from)
            .find(targets_wasm)
            .unwrap_or_else(|| give_up("no clang for wasm32 was found")),
    };
    // A clang with a sysroot of its own (a WASI SDK) needs no system headers.
    if env::var_os("CHATFN_CLANG").is_none() && !Path::new(HEADERS).exists() {
        give_up("the C library for WebAssembly was not found");
    }
    Tools { clang }
}

/// Runs a tool. Ends the build with what it said when it fails.
pub(crate) fn run(mut command: Command, what: &str) {
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => give_up(&format!("cannot run {}: {error}", command.get_program().display())),
    };
    if output.status.success() {
        return;
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let missing =
        ["libclang_rt.builtins", "wasm-ld", "file not found", "unable to find library", "cannot open"];
    if missing.iter().any(|sign| said.contains(sign)) {
        give_up(&format!("cannot {what}: {}", said.trim()));
    }
    eprintln!("chatfn-engine: cannot {what} ({}):\n{}", output.status, said.trim());
    exit(1);
}

fn targets_wasm(clang: &OsString) -> bool {
    Command::new(clang)
        .args(["--target=wasm32-wasi", "-print-target-triple"])
        .output()
        .is_ok_and(|output| output.status.success())
        && Command::new(clang)
            .arg("--print-targets")
            .output()
            .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("wasm32"))
}

fn give_up(problem: &str) -> ! {
    eprintln!(
        "chatfn-engine: {problem}.\n\
         The sandbox is built from C. On Debian or Ubuntu:\n\
         \n    apt-get install clang-19 lld-19 wasi-libc libclang-rt-19-dev-wasm32\n\
         \nOther versions from 16 on work too. CHATFN_CLANG names a clang elsewhere, such as a WASI SDK's."
    );
    exit(1);
}
