//! Files that are read again when they change.

use std::{path::PathBuf, sync::Arc, time::Duration};

use chatfn_settings::Problems;
use ring::digest::{Context, Digest, SHA256};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::SecurityError;
use crate::status::chain;

/// How often the files are looked at. Reading them is the one way that works for every kind of mount.
const RELOAD: Duration = Duration::from_secs(2);

/// The contents of files, read together.
struct Contents<const N: usize> {
    bytes: [Vec<u8>; N],
    /// Tells whether they have changed, without keeping a private key.
    digest: Digest,
}

fn read<const N: usize>(files: &[PathBuf; N]) -> Result<Contents<N>, SecurityError> {
    let mut digest = Context::new(&SHA256);
    let mut bytes = [const { Vec::new() }; N];
    for (path, bytes) in files.iter().zip(&mut bytes) {
        *bytes =
            std::fs::read(path).map_err(|source| SecurityError::Unreadable { path: path.clone(), source })?;
        digest.update(&bytes.len().to_le_bytes());
        digest.update(bytes);
    }
    Ok(Contents { bytes, digest: digest.finish() })
}

/// Adds every file that cannot be read, by the flag that names it, or why they cannot be loaded.
pub(super) fn check<const N: usize, E: Into<SecurityError>>(
    flags: [&str; N],
    files: &[PathBuf; N],
    problems: &mut Problems,
    load: impl Fn([&[u8]; N]) -> Result<(), E>,
) {
    for (flag, file) in flags.iter().zip(files) {
        problems.check_flag(flag, read(std::array::from_ref(file)));
    }
    if let Ok(contents) = read(files) {
        problems.check(load(contents.bytes.each_ref().map(Vec::as_slice)).map_err(Into::into));
    }
}

/// Loads the files, and loads them again whenever they have changed until `stop` fires. What cannot be loaded is
/// logged once and leaves the value as it is: also when two files of a pair are seen between their replacements.
pub(super) fn start<T, const N: usize>(
    what: &'static str,
    files: [PathBuf; N],
    stop: &CancellationToken,
    load: impl Fn([&[u8]; N]) -> Result<T, SecurityError> + Send + 'static,
) -> Result<watch::Receiver<Arc<T>>, SecurityError>
where
    T: Send + Sync + 'static,
{
    let first = read(&files)?;
    let (value, receiver) = watch::channel(Arc::new(load(first.bytes.each_ref().map(Vec::as_slice))?));
    let stop = stop.clone();
    tokio::spawn(async move {
        let mut seen = Some(first.digest);
        while stop.run_until_cancelled(tokio::time::sleep(RELOAD)).await.is_some() {
            // Small files of a mount: not worth a thread.
            let loaded = match read(&files) {
                Ok(contents) if seen.is_some_and(|seen| seen.as_ref() == contents.digest.as_ref()) => {
                    continue;
                }
                Ok(contents) => {
                    seen = Some(contents.digest);
                    load(contents.bytes.each_ref().map(Vec::as_slice))
                }
                // As long as it lasts, it is the same news.
                Err(_) if seen.is_none() => continue,
                Err(error) => {
                    seen = None;
                    Err(error)
                }
            };
            match loaded {
                Ok(new) => {
                    tracing::info!("{what} have changed and are in use");
                    value.send_replace(Arc::new(new));
                }
                Err(error) => tracing::error!(
                    error = chain(&error),
                    "{what} have changed and cannot be used: those that were read before stay in use; put files in place \
                     that can be"
                ),
            }
        }
    });
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// As Kubernetes replaces what it mounts: as a whole.
    fn replace(path: &Path, contents: &str) {
        let unfinished = path.with_extension("unfinished");
        fs::write(&unfinished, contents).unwrap();
        fs::rename(unfinished, path).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_loaded_changes_nothing_and_what_follows_does() {
        let folder = tempfile::tempdir().unwrap();
        let [number, unit] = ["number", "unit"].map(|name| folder.path().join(name));
        replace(&number, "1");
        replace(&unit, "s");
        let stop = CancellationToken::new();
        let (tried, mut tries) = tokio::sync::mpsc::channel(16);
        let mut value =
            start("the test's files", [number.clone(), unit.clone()], &stop, move |[number, unit]| {
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                tried.try_send(()).unwrap();
                let path = PathBuf::from("number");
                let parsed = text(number).parse::<u8>().map_err(|_| SecurityError::Unreadable {
                    path,
                    source: std::io::ErrorKind::InvalidData.into(),
                })?;
                Ok((parsed, text(unit)))
            })
            .unwrap();
        tries.recv().await.unwrap();
        assert_eq!(**value.borrow_and_update(), (1, "s".to_owned()));

        // Tried, refused, and not tried again while it stays the same.
        replace(&number, "many");
        tries.recv().await.unwrap();
        for _ in 0..5 {
            tokio::time::sleep(RELOAD).await;
        }
        assert!(tries.try_recv().is_err());
        assert!(!value.has_changed().unwrap());

        // Gone for a while, then another: both files are read together.
        fs::remove_file(&number).unwrap();
        tokio::time::sleep(2 * RELOAD).await;
        replace(&unit, "ms");
        replace(&number, "2");
        value.changed().await.unwrap();
        assert_eq!(**value.borrow_and_update(), (2, "ms".to_owned()));

        stop.cancel();
        assert!(value.changed().await.is_err(), "it ends when it is to stop");
    }

    #[tokio::test]
    async fn a_file_that_is_not_there_at_the_start_is_an_error() {
        let missing = PathBuf::from("/nowhere/at/all");
        let started = start("the test's files", [missing], &CancellationToken::new(), |_| Ok(()));
        assert!(started.unwrap_err().to_string().contains("/nowhere/at/all"));
    }
}
