//! Which files the process reaches: Landlock.

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use landlock::{
    ABI, Access as _, AccessFs, LandlockStatus, RestrictionStatus, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, Scope, path_beneath_rules,
};

use super::Files;
use crate::Config;

/// The version whose rights are asked for; an older kernel enforces those that it knows.
const ABI_WANTED: ABI = ABI::V9;

/// What each version added, where it matters here.
const FEATURES: [(i32, &str); 6] = [
    (1, "files and programs"),
    (2, "moves between folders"),
    (3, "truncation"),
    (5, "control of devices"),
    (6, "signals and abstract sockets"),
    (9, "sockets in the file system"),
];

/// What may be read besides what the settings name. What does not exist is left out.
const READABLE: [&str; 23] = [
    // Names: our own resolver, and the C library's for the registry's address.
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/protocols",
    // Where /etc/resolv.conf is a link to; there it is replaced, not written.
    "/run/systemd/resolve",
    "/run/resolvconf",
    // Libraries that the C library loads when it resolves a name.
    "/etc/ld.so.cache",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    // Where the certificate authorities in the usual folders are links to.
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/etc/ca-certificates",
    "/etc/pki/ca-trust",
    "/var/lib/ca-certificates",
    // How large this process and its machine are; which of its pages a sandbox has written to.
    "/proc/self",
    "/sys/fs/cgroup",
    "/sys/devices/system/cpu",
    "/sys/kernel/mm/transparent_hugepage",
];

/// Why there is no Landlock.
#[derive(Debug, thiserror::Error)]
pub(super) enum FilesError {
    #[error(
        "no Landlock (the kernel must be Linux 5.13 or later with CONFIG_SECURITY_LANDLOCK, and the container's seccomp \
         profile must allow it)"
    )]
    NotImplemented,
    #[error("no Landlock (the kernel has it, but its lsm= parameter does not name landlock)")]
    NotEnabled,
    #[error("no Landlock for all threads (the process had started {0} before)")]
    Threads(usize),
    #[error(
        "no Landlock that is of use (a certificate or key lies in the root folder, and their folders are readable: keep \
         --tls-cert, --tls-key, --tls-ca and --token-keys in a folder of their own)"
    )]
    Everything,
    #[error("no Landlock ({0})")]
    Ruleset(#[from] RulesetError),
}

/// Restricts this thread and those that it will start.
pub(super) fn restrict(config: &Config) -> Result<Files, FilesError> {
    if config.security.folders().any(is_root) {
        return Err(FilesError::Everything);
    }
    let cache = config.engine().cache_dir;
    if let Some(dir) = &cache {
        // A folder can be named in a rule only once it exists. If this fails, the engine will say so.
        let _ = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    }
    let reading = AccessFs::ReadFile | AccessFs::ReadDir;
    // It holds no programs, devices or sockets.
    let caching = reading
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::RemoveFile;
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI_WANTED))?
        .scope(Scope::from_all(ABI_WANTED))?
        .create()?
        .add_rules(path_beneath_rules(readable(config), reading))?
        .add_rules(path_beneath_rules(cache, caching))?
        .restrict_self()?;
    let abi = abi(&status)?;
    // After the fact, so that in best effort at least this thread's descendants are bound.
    match threads() {
        0 | 1 => {}
        more => return Err(FilesError::Threads(more - 1)),
    }
    let names = |wanted: bool| {
        FEATURES
            .into_iter()
            .filter(move |(since, _)| (*since <= abi) == wanted)
            .map(|(_, name)| name)
            .collect()
    };
    Ok(Files { abi, in_force: names(true), missing: names(false) })
}

fn readable(config: &Config) -> Vec<PathBuf> {
    let authorities = openssl_probe::probe();
    READABLE
        .iter()
        .map(PathBuf::from)
        .chain(authorities.cert_file)
        .chain(authorities.cert_dir)
        .chain(config.egress.ca_file.clone())
        .chain(config.snapshot.snapshot_file.clone())
        // Certificates and keys that are replaced while the process runs.
        .chain(config.security.folders().map(Path::to_owned))
        // For the backtrace of a panic.
        .chain(std::env::current_exe().ok())
        .collect()
}

/// Whether a rule for this folder would be one for all files.
fn is_root(folder: &Path) -> bool {
    fs::canonicalize(folder).is_ok_and(|folder| folder.parent().is_none())
}

fn abi(status: &RestrictionStatus) -> Result<i32, FilesError> {
    match status.landlock {
        LandlockStatus::Available { effective_abi, kernel_abi } => {
            Ok(kernel_abi.unwrap_or(effective_abi as i32))
        }
        LandlockStatus::NotEnabled => Err(FilesError::NotEnabled),
        LandlockStatus::NotImplemented => Err(FilesError::NotImplemented),
    }
}

/// Threads of this process; 0 if the system does not say.
fn threads() -> usize {
    fs::read_dir(Path::new("/proc/self/task")).map_or(0, Iterator::count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_folder_is_known_by_any_name() {
        let here = std::env::current_dir().unwrap();
        let up: PathBuf = here.components().skip(1).map(|_| "..").collect();
        assert!(is_root(Path::new("/")) && is_root(Path::new("/usr/..")) && is_root(&up));
        assert!(!is_root(Path::new(".")) && !is_root(Path::new("/usr")) && !is_root(Path::new("/no/such")));
    }
}
