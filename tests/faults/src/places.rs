//! Where the binaries are, and where a run leaves what it writes.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};

use crate::database::{mount_own_disk, unmount};

/// Where Debian has libfaketime, for programs with threads: below the machine's kind.
const FAKE_TIME: &str = "faketime/libfaketimeMT.so.1";
/// Set once this process has a mount namespace of its own.
pub const NAMESPACE: &str = "CHATFN_FAULTS_NAMESPACE";

/// Where things are.
#[derive(Debug, Clone)]
pub struct Places {
    /// The services' binaries.
    pub binaries: PathBuf,
    /// This program, which the witness is a part of.
    pub program: PathBuf,
    /// For the run: data, logs, ledger.
    pub folder: PathBuf,
    /// Whether the database has a disk of its own.
    pub has_own_disk: bool,
    /// A mistake that event-ingest is to make.
    pub mutant: Option<String>,
    /// libfaketime, if there is one.
    pub fake_time: Option<PathBuf>,
}

impl Places {
    /// For a run of `program`, beside which the services' binaries are, in a new folder below `parent`.
    ///
    /// # Errors
    /// The services are not built, or the folder cannot be made.
    pub fn new(program: &Path, parent: &Path, mutant: Option<&str>) -> anyhow::Result<Self> {
        let binaries = program.parent().context("the folder of this program")?.to_owned();
        for binary in ["chatfn-registry", "chatfn-invoker", "chatfn-event-ingest-faulty"] {
            ensure!(
                binaries.join(binary).exists(),
                "{binary} is not built: run `make faults` or `make test`"
            );
        }
        let folder = parent.join(mutant.unwrap_or("run"));
        let postgres = folder.join("postgres");
        fs::create_dir_all(&postgres).with_context(|| format!("{} cannot be made", folder.display()))?;
        // Postgres does not run as root, and must get there.
        for folder in [parent, &folder] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
        }
        let has_own_disk = env::var_os(NAMESPACE).is_some();
        if has_own_disk {
            mount_own_disk(&postgres)?;
        }
        let libraries = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
        let fake_time = libraries.map(|entry| entry.path().join(FAKE_TIME)).find(|library| library.exists());
        let (program, mutant) = (program.to_owned(), mutant.map(str::to_owned));
        Ok(Self { binaries, program, folder, has_own_disk, mutant, fake_time })
    }

    /// Gives the memory of the database's disk back, once nothing runs on it.
    ///
    /// # Errors
    /// Something does.
    pub fn release(&self) -> anyhow::Result<()> {
        if self.has_own_disk { unmount(&self.folder.join("postgres")) } else { Ok(()) }
    }
}
