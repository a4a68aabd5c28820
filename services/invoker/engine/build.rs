//! Builds the guest: QuickJS-NG and our C shim become a WebAssembly module in `OUT_DIR`, the JavaScript prelude and the
//! bundled npm packages a table of texts beside it. See `guest/README.md` for what is inside.

#[path = "build/bundle.rs"]
mod bundle;
#[path = "build/digests.rs"]
mod digests;
#[path = "build/prelude.rs"]
mod prelude;
#[path = "build/quickjs.rs"]
mod quickjs;
#[path = "build/toolchain.rs"]
mod toolchain;
#[path = "build/typescript.rs"]
mod typescript;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

/// The guest's own stack, which lies at the bottom of its memory, so that an overflow traps.
/// `guest/shim.c` raises a RangeError well before that.
const SHADOW_STACK_BYTES: u32 = 1 << 20;

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let engine = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let guest = engine.parent().expect("the engine has a parent folder").join("guest");
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=build.rs");
    // Of the packages the lock file: they are many files, and it says which ones.
    for input in [
        "bundle.mjs",
        "likely-subtags.mjs",
        "locale-data.mjs",
        "modules",
        "package-lock.json",
        "prelude",
        "shim.c",
        "immortal.c",
        "memory.c",
        "names.c",
        "texts.c",
    ] {
        println!("cargo::rerun-if-changed={}", guest.join(input).display());
    }

    let tools = toolchain::find();
    let quickjs = quickjs::source_dir(&engine);
    quickjs::write_changed(&quickjs, &out);
    let mut files = prelude::read(&guest.join("prelude"));
    // Behind ours: what every run needs is made first, and so lies together.
    for (name, entry, global) in [
        ("92-intl.js", "modules/intl/index.js", "chatfn.intl"),
        ("94-modules.js", "modules/index.js", "chatfn.modules"),
    ] {
        files.push(prelude::File::bundle(name, &bundle::bundle(&guest, entry, global)));
    }
    let prelude = prelude::write_table(files, &out);
    fs::write(out.join("typescript.wasm"), typescript::module(&guest)).expect("cannot write to OUT_DIR");

    let shim = guest.join("shim.c");
    let sources = [shim, quickjs.join("libregexp.c"), quickjs.join("libunicode.c"), quickjs.join("dtoa.c")];
    let objects: Vec<PathBuf> = thread::scope(|scope| {
        let jobs: Vec<_> = sources
            .iter()
            .map(|source| scope.spawn(|| compile(&tools, source, &quickjs, &guest, &out)))
            .collect();
        jobs.into_iter().map(|job| job.join().expect("a C file did not compile")).collect()
    });
    link(&tools, &objects, &out);

    let mut inputs = headers(&quickjs);
    inputs.extend(sources);
    inputs.extend(["immortal.c", "memory.c", "names.c", "texts.c"].map(|name| guest.join(name)));
    inputs.push(out.join("quickjs.c"));
    inputs.extend(prelude);
    digests::tell(&tools, &[&COMMON[..], &COMPILE, &LINK].concat(), &inputs, &out);
}

/// The headers of QuickJS-NG, in the order of their names.
fn headers(quickjs: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(quickjs).expect("the package has its sources");
    let files = files.map(|entry| entry.expect("the package has its sources").path());
    let mut headers: Vec<_> = files.filter(|path| path.extension().is_some_and(|it| it == "h")).collect();
    headers.sort();
    headers
}

/// Flags that both steps need: with LTO it is the linker that generates the code.
const COMMON: [&str; 6] =
    ["--target=wasm32-wasi", "-flto", "-g0", "-mbulk-memory", "-msign-ext", "-mnontrapping-fptoint"];

/// No asserts and no tracing: memory safety comes from the sandbox, and a failed assert could do no more than end the run,
/// as a trap does.
const COMPILE: [&str; 8] = [
    "-c",
    "-O3",
    "-std=gnu11",
    "-fno-strict-aliasing",
    "-fvisibility=hidden",
    "-w",
    "-D_GNU_SOURCE",
    "-DNDEBUG",
];

/// No plain -O: it makes clang run an installed wasm-opt, and older ones reject sign extension.
/// The table is for the host to see that it is a fresh one.
const LINK: [&str; 6] = [
    "-Wl,--lto-O3",
    "-mexec-model=reactor",
    "-Wl,--gc-sections",
    "-Wl,--stack-first",
    "-Wl,--strip-all",
    "-Wl,--export-table",
];

fn compile(tools: &toolchain::Tools, source: &Path, quickjs: &Path, guest: &Path, out: &Path) -> PathBuf {
    let object = out.join(source.file_stem().expect("a source has a name")).with_extension("o");
    let mut command = Command::new(&tools.clang);
    command
        .args(COMMON)
        .args(COMPILE)
        // The same bytes wherever the sources lie.
        .arg(format!("-ffile-prefix-map={}=quickjs", quickjs.display()))
        .arg(format!("-ffile-prefix-map={}=guest", guest.display()))
        .arg(format!("-ffile-prefix-map={}=out", out.display()))
        .arg("-I")
        .arg(out)
        .arg("-I")
        .arg(quickjs)
        .arg("-I")
        .arg(guest)
        .arg("-o")
        .arg(&object)
        .arg(source);
    toolchain::run(command, "compile the guest");
    object
}

fn link(tools: &toolchain::Tools, objects: &[PathBuf], out: &Path) {
    let mut command = Command::new(&tools.clang);
    command
        .args(COMMON)
        .args(LINK)
        .arg(format!("-Wl,-z,stack-size={SHADOW_STACK_BYTES}"))
        .args(objects)
        .arg("-o")
        .arg(out.join("guest.wasm"));
    toolchain::run(command, "link the guest");
}
