//! The key by which a cluster's secrets are encrypted.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use base64::{Engine as _, prelude::BASE64_STANDARD};

/// The file of keys in `folder`, which nobody else may read. Made with a new key when there is none; the secrets of
/// a cluster are lost with it.
pub(crate) fn secret_keys_file(folder: &Path) -> anyhow::Result<PathBuf> {
    let path = folder.join("secret-keys");
    make(folder, &path)
        .with_context(|| format!("the keys of secrets cannot be kept in {}", path.display()))?;
    Ok(path)
}

fn make(folder: &Path, path: &Path) -> anyhow::Result<()> {
    if path.try_exists()? {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    let mut key = [0_u8; 32];
    getrandom::fill(&mut key)?;
    let line = format!("dev: {}\n", BASE64_STANDARD.encode(key));
    // Complete under a name of its own first: a half-written file would stop every later start.
    let unfinished = folder.join(format!("secret-keys.{}", std::process::id()));
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    file.write_all(line.as_bytes())?;
    file.sync_all()?;
    // A link, unlike a rename, does not replace what another process has made meanwhile.
    let made = fs::hard_link(&unfinished, path);
    fs::remove_file(&unfinished)?;
    match made {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_key_is_made_once_and_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let path = secret_keys_file(&data).unwrap();
        let first = fs::read_to_string(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let key = first.trim().strip_prefix("dev: ").unwrap();
        assert_eq!(BASE64_STANDARD.decode(key).unwrap().len(), 32);
        secret_keys_file(&data).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), first);
        assert_eq!(fs::read_dir(&data).unwrap().count(), 1, "nothing else is left");
    }
}
