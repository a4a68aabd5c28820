//! Finds this machine's Postgres programs.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::PrivateError;

/// The oldest major version that chatfn is tested with.
pub(super) const OLDEST_MAJOR: u32 = 15;

/// Folders with a `*` for the version, as packages lay them out: Debian, RHEL, Homebrew (Apple, Intel).
const USUAL_PLACES: [(&str, &str, &str); 4] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/opt/homebrew/opt", "postgresql@", "bin"),
    ("/usr/local/opt", "postgresql@", "bin"),
];

/// A folder with `initdb` and `postgres` of one version.
#[derive(Debug, Clone)]
pub(super) struct Binaries {
    dir: PathBuf,
    pub(super) major: u32,
}

impl Binaries {
    /// The programs of major version `wanted`, or else the first usable of: `CHATFN_PG_BIN`, `PATH`, the
    /// newest in the usual places.
    pub(super) fn find(wanted: Option<u32>) -> Result<Self, PrivateError> {
        let mut usual: Vec<Self> = usual_places().into_iter().filter_map(|dir| Self::probe(&dir)).collect();
        usual.sort_by_key(|binaries| std::cmp::Reverse(binaries.major));
        let chosen = std::env::var_os("CHATFN_PG_BIN").map(PathBuf::from);
        let path = std::env::var_os("PATH").unwrap_or_default();
        chosen
            .into_iter()
            .chain(std::env::split_paths(&path))
            .filter_map(|dir| Self::probe(&dir))
            .chain(usual)
            .find(|binaries| match wanted {
                Some(major) => binaries.major == major,
                None => binaries.major >= OLDEST_MAJOR,
            })
            .ok_or(PrivateError::NotInstalled { wanted })
    }

    pub(super) fn initdb(&self) -> PathBuf {
        self.dir.join("initdb")
    }

    pub(super) fn postgres(&self) -> PathBuf {
        self.dir.join("postgres")
    }

    fn probe(dir: &Path) -> Option<Self> {
        // Links lead to the folder where both programs, and what they need, really are.
        let postgres = dir.join("postgres").canonicalize().ok()?;
        let dir = postgres.parent()?.to_path_buf();
        if !dir.join("initdb").exists() {
            return None;
        }
        let output = Command::new(&postgres).arg("--version").output().ok()?;
        Some(Self { major: major(&String::from_utf8_lossy(&output.stdout))?, dir })
    }
}

/// The major version in `postgres (PostgreSQL) 15.18 (Debian …)`.
fn major(version: &str) -> Option<u32> {
    let number = version.split_once("(PostgreSQL) ")?.1;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn usual_places() -> Vec<PathBuf> {
    let mut places = Vec::new();
    for (parent, prefix, child) in USUAL_PLACES {
        let Ok(entries) = std::fs::read_dir(parent) else { continue };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                places.push(entry.path().join(child));
            }
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::major;

    #[test]
    fn reads_release_and_beta_versions() {
        assert_eq!(major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(major("postgres (PostgreSQL) 19beta1\n"), Some(19));
        assert_eq!(major("something else\n"), None);
    }
}
