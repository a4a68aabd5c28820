//! Who runs Postgres: this user, or, because Postgres refuses root, an unprivileged one.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::{Uid, User};

use super::PrivateError;

/// The user that owns the cluster and runs the server; `None` means this process's own user.
#[derive(Debug, Clone)]
pub(super) struct Owner(Option<User>);

impl Owner {
    /// This user, unless it is root: then `postgres` if there is one (whoever installed Postgres has it),
    /// else `nobody`.
    pub(super) fn choose() -> Result<Self, PrivateError> {
        if !Uid::effective().is_root() {
            return Ok(Self(None));
        }
        ["postgres", "nobody"]
            .iter()
            .find_map(|name| User::from_name(name).ok().flatten())
            .map(|user| Self(Some(user)))
            .ok_or(PrivateError::NoUser)
    }

    /// Makes `command` run as the owner, in a folder that the owner can enter, and out of reach of signals
    /// meant for this process's group (Ctrl-C, a test runner's kill).
    pub(super) fn run<'c>(&self, command: &'c mut Command, dir: &Path) -> &'c mut Command {
        command.current_dir(dir).process_group(0);
        if let Some(user) = &self.0 {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw()).env("HOME", dir);
        }
        command
    }

    /// Gives `path` to the owner.
    pub(super) fn give(&self, path: &Path) -> Result<(), PrivateError> {
        match &self.0 {
            Some(user) => chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
                .map_err(PrivateError::io("change the owner of", path)),
            None => Ok(()),
        }
    }

    /// Checks that the owner can enter `dir` (absolute), by entering it: modes alone would miss access lists.
    pub(super) fn check_can_enter(&self, dir: &Path) -> Result<(), PrivateError> {
        let Some(user) = &self.0 else { return Ok(()) };
        if self.can_enter(dir)? {
            return Ok(());
        }
        // The outermost folder that stops the owner is the one worth naming.
        let mut blocked = dir;
        for ancestor in dir.ancestors() {
            if !self.can_enter(ancestor)? {
                blocked = ancestor;
            }
        }
        Err(PrivateError::Unreachable { user: user.name.clone(), blocked: blocked.to_path_buf() })
    }

    fn can_enter(&self, dir: &Path) -> Result<bool, PrivateError> {
        let shell = Path::new("/bin/sh");
        let mut enter = Command::new(shell);
        enter.args(["-c", "cd \"$1\"", "sh"]).arg(dir);
        enter.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let status = self.run(&mut enter, Path::new("/")).status();
        status.map(|status| status.success()).map_err(PrivateError::io("run", shell))
    }
}
