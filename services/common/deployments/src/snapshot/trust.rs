//! Whether nobody else can have written a file that decides what code runs.

use std::{fs::Metadata, os::unix::fs::MetadataExt as _};

use nix::unistd::{getegid, geteuid, getgroups};

/// The user that may do everything anyway.
const ROOT: u32 = 0;

/// Why a file is not trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Untrusted {
    #[error("every user may read or write it; chmod 600 it if you trust what is in it")]
    Others,
    #[error(
        "it belongs to the user {owner}, and this process is of {own}; delete it, or chown it if you trust what is in it"
    )]
    Owner { owner: u32, own: u32 },
    #[error(
        "the group {group} may write it, and this process is not of it; chmod 600 it if you trust what is in it"
    )]
    Group { group: u32 },
}

/// Who a process is.
struct Own {
    user: u32,
    groups: Vec<u32>,
}

/// Refuses a file that others may have written: it must be this user's or root's, and closed to the world. This process's own
/// groups may write it: Kubernetes opens all files of a volume to the pod's `fsGroup`.
pub(super) fn trust(file: &Metadata) -> Result<(), Untrusted> {
    let groups = getgroups().unwrap_or_default().into_iter().chain([getegid()]);
    let own = Own { user: geteuid().as_raw(), groups: groups.map(|group| group.as_raw()).collect() };
    judge((file.mode(), file.uid(), file.gid()), &own)
}

fn judge((mode, owner, group): (u32, u32, u32), own: &Own) -> Result<(), Untrusted> {
    if owner != own.user && owner != ROOT {
        return Err(Untrusted::Owner { owner, own: own.user });
    }
    if mode & 0o007 != 0 {
        return Err(Untrusted::Others);
    }
    if mode & 0o020 != 0 && !own.groups.contains(&group) {
        return Err(Untrusted::Group { group });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_trusted_that_only_we_can_have_written() {
        let own = Own { user: 1000, groups: vec![1000, 2000] };
        for (mode, owner, group, expected) in [
            (0o100_600, 1000, 1000, Ok(())),
            (0o100_400, ROOT, ROOT, Ok(())),
            // A group that may read has not written it; one that may write must be ours, as an `fsGroup` is.
            (0o100_640, 1000, 3000, Ok(())),
            (0o100_660, 1000, 2000, Ok(())),
            (0o102_660, ROOT, 2000, Ok(())),
            (0o100_660, 1000, 3000, Err(Untrusted::Group { group: 3000 })),
            (0o100_620, ROOT, ROOT, Err(Untrusted::Group { group: ROOT })),
            (0o100_600, 1001, 1000, Err(Untrusted::Owner { owner: 1001, own: 1000 })),
            (0o100_660, 1001, 2000, Err(Untrusted::Owner { owner: 1001, own: 1000 })),
            (0o100_644, 1000, 1000, Err(Untrusted::Others)),
            (0o100_602, 1000, 1000, Err(Untrusted::Others)),
            (0o100_666, 1000, 2000, Err(Untrusted::Others)),
        ] {
            assert_eq!(judge((mode, owner, group), &own), expected, "{mode:o} {owner}:{group}");
        }
    }
}
