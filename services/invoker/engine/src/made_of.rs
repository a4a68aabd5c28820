//! What the engine's modules are made of, and what they are.
//!
//! Untrusted code runs in what a C compiler makes of QuickJS-NG and `guest/`. So that nobody has to trust the machine that
//! built a release, the same sources and the same toolchain give the same bytes, wherever they lie; `engine.digests` has
//! the bytes' digests, a test compares, and `chatfn-invoker --version` and the log of its start tell those that run.

use std::fmt;

/// What the modules are made of, and what they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MadeOf {
    /// SHA-256 of QuickJS-NG, the shim and the prelude with the npm packages in it, in hexadecimal.
    pub sources: &'static str,
    /// The compiler, and digests of the libraries that it links.
    pub toolchain: &'static str,
    /// SHA-256 of the module that runs lambdas, before the prelude is in it.
    pub guest: &'static str,
    /// SHA-256 of the module that erases types, as its npm package has it.
    pub typescript: &'static str,
}

/// Of this build.
pub const MADE_OF: MadeOf = MadeOf {
    sources: env!("CHATFN_ENGINE_SOURCES"),
    toolchain: env!("CHATFN_ENGINE_TOOLCHAIN"),
    guest: env!("CHATFN_ENGINE_GUEST"),
    typescript: env!("CHATFN_ENGINE_TYPESCRIPT"),
};

/// As `engine.digests` has it.
impl fmt::Display for MadeOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sources, toolchain, guest, typescript } = self;
        writeln!(f, "sources {sources}\ntypescript.wasm {typescript}\nguest.wasm {guest} by {toolchain}")
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use sha2::{Digest as _, Sha256};

    use super::MADE_OF;

    const INTRODUCTION: &str = "\
# What the build makes of the guest: see src/made_of.rs. `make digests` writes this anew. Do so when the sources have
# changed on purpose, and look at what the change is: this is all code that stands between lambdas and the host.
# Other compilers make other bytes of the same sources; a line `guest.wasm` may be added for each.
";

    fn file() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("engine.digests")
    }

    #[test]
    fn the_modules_are_those_on_record() {
        if std::env::var_os("CHATFN_REFRESH_DIGESTS").is_some() {
            fs::write(file(), format!("{INTRODUCTION}{MADE_OF}")).unwrap();
            return;
        }
        let recorded = fs::read_to_string(file()).unwrap();
        let advice = "if that is on purpose, run `make digests`, and commit what it writes with the change that it is of";
        let line = |start: &str| recorded.lines().find(|line| line.starts_with(start)).unwrap_or_default();
        assert_eq!(
            line("sources "),
            format!("sources {}", MADE_OF.sources),
            "the guest's sources (QuickJS-NG, guest/, its npm packages) are not those on record; {advice}"
        );
        assert_eq!(
            line("typescript.wasm "),
            format!("typescript.wasm {}", MADE_OF.typescript),
            "@swc/wasm-typescript is another one; {advice}"
        );
        let by = format!(" by {}", MADE_OF.toolchain);
        match recorded.lines().find_map(|line| line.strip_prefix("guest.wasm ")?.strip_suffix(by.as_str())) {
            Some(guest) => assert_eq!(
                guest, MADE_OF.guest,
                "the same sources and toolchain have made another module: the build is not reproducible, or flags of it \
                 have changed; {advice}"
            ),
            // Nothing to compare with: its sources are those on record.
            None => eprintln!("not on record: guest.wasm {}{by}", MADE_OF.guest),
        }
    }

    #[test]
    fn what_is_told_is_what_runs() {
        assert_eq!(hex::encode(Sha256::digest(crate::snapshot::GUEST)), MADE_OF.guest);
        assert_eq!(hex::encode(Sha256::digest(crate::typescript::MODULE)), MADE_OF.typescript);
    }

    #[test]
    fn no_folder_of_the_building_machine_is_in_the_module() {
        let here = env!("CARGO_MANIFEST_DIR");
        let folders = [
            here,
            Path::new(here).parent().and_then(Path::to_str).unwrap(),
            env!("OUT_DIR"),
            "/usr/",
            "/root/",
            "/home/",
        ];
        for folder in folders {
            let is_there =
                crate::snapshot::GUEST.windows(folder.len()).any(|bytes| bytes == folder.as_bytes());
            assert!(!is_there, "{folder} is in the module");
        }
    }
}
