//! Keeps a snapshot file up to date.

use std::{
    convert::Infallible,
    time::{Duration, Instant, SystemTime},
};

use crate::{
    snapshot::{SnapshotError, SnapshotFile},
    state::{Contact, Deployments},
};

/// Pause between a change and the next: many changes are one.
const PAUSE: Duration = Duration::from_secs(1);
/// A file that takes long to write is written less often, so that writing takes a small share of the time.
const PAUSE_PER_WRITE: u32 = 20;
/// The file is written again after this time in contact with the registry, so that its age tells how long there was none.
const REFRESH: Duration = Duration::from_secs(600);

/// Writes the file after changes, for ever. A file that cannot be written is logged once, and tried again.
pub(crate) async fn keep(
    file: SnapshotFile,
    watcher: &'static str,
    include_source: bool,
    deployments: Deployments,
) -> Infallible {
    let mut changed = deployments.changed();
    // Something may be known already.
    changed.mark_changed();
    let mut is_failing = false;
    loop {
        // The sender lives as long as `deployments`.
        let is_changed = tokio::time::timeout(REFRESH, changed.changed()).await.is_ok();
        changed.mark_unchanged();
        let time = match deployments.contact() {
            Contact::Now => SystemTime::now(),
            // The last change may have come just before the watch broke.
            Contact::Last(time) if is_changed => time,
            // What came from the file is in it, as is what has been written since.
            Contact::Never | Contact::File(_) | Contact::Last(_) => continue,
        };
        let Some(state) = deployments.state() else { continue };
        let (begun, to) = (Instant::now(), file.clone());
        let saved =
            tokio::task::spawn_blocking(move || to.save((&state, time), watcher, include_source)).await;
        match saved.unwrap_or_else(|panic| Err(SnapshotError::Io(std::io::Error::other(panic)))) {
            Ok(()) if is_failing => {
                is_failing = false;
                tracing::info!(file = %file.path.display(), "the snapshot file is written again");
            }
            Ok(()) => tracing::debug!(file = %file.path.display(), "the snapshot file is written"),
            Err(error) => {
                // Nothing need change for it to be tried again.
                changed.mark_changed();
                if !std::mem::replace(&mut is_failing, true) {
                    tracing::error!(
                        file = %file.path.display(),
                        %error,
                        "the snapshot file is not kept: {error}; without the registry the next start has what is in it now"
                    );
                }
            }
        }
        tokio::time::sleep(PAUSE.max(begun.elapsed() * PAUSE_PER_WRITE)).await;
    }
}
