//! Files that are read again when they change.

use std::{path::PathBuf, sync::Arc, time::Duration};

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
