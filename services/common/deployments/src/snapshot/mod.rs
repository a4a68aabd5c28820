//! What is live, in a file: for a start without the registry.
//!
//! The first line is the SHA-256 of all that follows, the second a [`Header`], and then come the messages of a watch, as
//! the registry would send them, each with its length. The file is replaced as a whole, and is on the disk before it has
//! its name. It holds no secrets, which come by a way of their own, but the code of all accounts: it is this user's alone.

mod trust;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use chatfn_proto::registry::v1::{WatchDeploymentsResponse, watch_deployments_response::Change};
use chatfn_settings::Problems;
use nix::unistd::{AccessFlags, access};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use self::trust::{Untrusted, trust};
use crate::{
    state::State,
    wire::{apply, changes},
};

/// Changes with every change of the form that an older release could not read.
const FORMAT: u32 = 1;

/// A gap cannot be filled without the registry, so a state that has one is told from a whole one in the file, too.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Header {
    format: u32,
    watcher: String,
    include_source: bool,
    has_gaps: bool,
    /// When it was what the registry says: milliseconds since 1970.
    saved_millis: u64,
    resume_token: String,
    /// Who wrote it. Another release may have left out what this one reads, and would not be told it again.
    #[serde(default)]
    release: String,
}

/// The release that writes and reads files here.
const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// The settings of a snapshot file.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct SnapshotArgs {
    /// File that keeps what is live, so that a start without the registry has what was live last. Each process needs one
    /// of its own, in a folder that outlives it. Made if missing, readable by this user alone.
    #[arg(long, env = "CHATFN_SNAPSHOT_FILE", value_name = "FILE")]
    pub snapshot_file: Option<PathBuf>,

    /// Largest snapshot file. What is live and does not fit is not kept, which is logged.
    #[arg(long, env = "CHATFN_SNAPSHOT_MAX_MIB", value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub snapshot_max_mib: u32,
}

impl Default for SnapshotArgs {
    fn default() -> Self {
        Self { snapshot_file: None, snapshot_max_mib: 256 }
    }
}

impl SnapshotArgs {
    /// Adds what would keep `watcher` from reading the file, if there is one already, or from writing one.
    pub fn check(&self, watcher: &str, include_source: bool, problems: &mut Problems) {
        let Some(file) = self.file(true) else { return };
        if let Err(error) = writable(file.folder()) {
            let folder = file.folder().display();
            let problem = format!(
                "the folder {folder} must be there, and this user must be able to write to it: {error}"
            );
            return problems.check_flag("snapshot-file", Err::<(), _>(problem));
        }
        match file.load(watcher, include_source) {
            Err(SnapshotError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
            read => problems.check_flag("snapshot-file", read),
        }
    }

    /// The file, if there is to be one. With `keep` this process writes it; otherwise another one does.
    pub fn file(&self, keep: bool) -> Option<SnapshotFile> {
        let path = self.snapshot_file.clone()?;
        Some(SnapshotFile { path, max_bytes: u64::from(self.snapshot_max_mib) << 20, keep })
    }
}

/// A snapshot file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotFile {
    /// Where it is.
    pub path: PathBuf,
    /// The most that it may hold.
    pub max_bytes: u64,
    /// Whether this process writes it; otherwise it is only read, at the start.
    pub keep: bool,
}

/// What a file holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Saved {
    pub(crate) state: State,
    pub(crate) time: SystemTime,
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    #[error("it cannot be read or written: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Untrusted(#[from] Untrusted),
    #[error("it would have more than {0} bytes; allow more with --snapshot-max-mib")]
    TooLarge(u64),
    #[error("it is damaged; delete it, and a new one is written once the registry is there")]
    Damaged,
    #[error(
        "its format is {0}, and this release has {FORMAT}; a new one is written once the registry is there"
    )]
    Format(u32),
    #[error("{watcher} has written it; give each service and each replica a file of its own")]
    Foreign { watcher: String },
}

impl SnapshotFile {
    /// What the file holds; `None` if there is none or it cannot be used, which is logged with what to do.
    pub(crate) async fn read(&self, watcher: &'static str, include_source: bool) -> Option<Saved> {
        let file = self.clone();
        let read = tokio::task::spawn_blocking(move || file.load(watcher, include_source)).await;
        match read.unwrap_or_else(|panic| Err(io::Error::other(panic).into())) {
            Err(SnapshotError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                tracing::info!(file = %self.path.display(), "there is no snapshot file yet");
                None
            }
            Err(error) => {
                tracing::error!(file = %self.path.display(), %error, "the snapshot file is not used: {error}");
                None
            }
            Ok(saved) => Some(saved),
        }
    }

    fn load(&self, watcher: &str, include_source: bool) -> Result<Saved, SnapshotError> {
        let file = File::open(&self.path)?;
        trust(&file.metadata()?)?;
        let mut bytes = Vec::new();
        file.take(self.max_bytes + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > self.max_bytes {
            return Err(SnapshotError::TooLarge(self.max_bytes));
        }
        decode(&bytes, watcher, include_source)
    }

    /// Replaces the file with what was live at a time.
    pub(crate) fn save(
        &self,
        (state, time): (&State, SystemTime),
        watcher: &str,
        include_source: bool,
    ) -> Result<(), SnapshotError> {
        let bytes = encode((state, time), watcher, include_source, self.max_bytes)?;
        let mut fresh = self.path.clone().into_os_string();
        fresh.push(".new");
        let fresh = PathBuf::from(fresh);
        // One that was left behind may have another owner or other rights.
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, &self.path)?;
        Ok(File::open(self.folder())?.sync_all()?)
    }

    fn folder(&self) -> &Path {
        self.path.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }
}

fn writable(folder: &Path) -> io::Result<()> {
    if !fs::metadata(folder)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    Ok(access(folder, AccessFlags::W_OK | AccessFlags::X_OK)?)
}

fn encode(
    (state, time): (&State, SystemTime),
    watcher: &str,
    include_source: bool,
    max_bytes: u64,
) -> Result<Vec<u8>, SnapshotError> {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let header = Header {
        format: FORMAT,
        watcher: watcher.to_owned(),
        include_source,
        has_gaps: state.has_gaps,
        saved_millis: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        resume_token: state.resume_token.clone(),
        release: RELEASE.to_owned(),
    };
    // Room for the checksum, which is known last.
    let mut bytes = vec![b'0'; CHECKSUM_LINE];
    serde_json::to_writer(&mut bytes, &header).map_err(io::Error::from)?;
    bytes.push(b'\n');
    for change in changes(state) {
        let message = WatchDeploymentsResponse { change: Some(change), ..Default::default() };
        message.encode_length_delimited(&mut bytes).map_err(io::Error::other)?;
        if bytes.len() as u64 > max_bytes {
            return Err(SnapshotError::TooLarge(max_bytes));
        }
    }
    let checksum = checksum(&bytes[CHECKSUM_LINE..]);
    bytes[..CHECKSUM_LINE].copy_from_slice(checksum.as_bytes());
    Ok(bytes)
}

fn decode(bytes: &[u8], watcher: &str, include_source: bool) -> Result<Saved, SnapshotError> {
    let (sum, rest) = bytes.split_at_checked(CHECKSUM_LINE).ok_or(SnapshotError::Damaged)?;
    if sum != checksum(rest).as_bytes() {
        return Err(SnapshotError::Damaged);
    }
    let end = rest.iter().position(|byte| *byte == b'\n').ok_or(SnapshotError::Damaged)?;
    let (header, mut rest) = (&rest[..end], &rest[end + 1..]);
    // Whatever else its header has: another format is no damage.
    #[derive(serde::Deserialize)]
    struct Format {
        format: u32,
    }
    let Format { format } = serde_json::from_slice(header).map_err(|_| SnapshotError::Damaged)?;
    if format != FORMAT {
        return Err(SnapshotError::Format(format));
    }
    let header: Header = serde_json::from_slice(header).map_err(|_| SnapshotError::Damaged)?;
    if header.watcher != watcher || header.include_source != include_source {
        return Err(SnapshotError::Foreign { watcher: header.watcher });
    }
    let is_ours = header.release == RELEASE;
    let resume_token = if is_ours { header.resume_token } else { String::new() };
    let mut state = State { resume_token, has_gaps: header.has_gaps, ..State::default() };
    while !rest.is_empty() {
        let message = WatchDeploymentsResponse::decode_length_delimited(&mut rest);
        match message.map_err(|_| SnapshotError::Damaged)?.change {
            Some(change @ (Change::Template(_) | Change::Deployment(_))) => _ = apply(&mut state, change),
            _ => return Err(SnapshotError::Damaged),
        }
    }
    Ok(Saved { state, time: UNIX_EPOCH + Duration::from_millis(header.saved_millis) })
}

/// Bytes of the first line.
const CHECKSUM_LINE: usize = 65;

fn checksum(bytes: &[u8]) -> String {
    format!("{}\n", hex::encode(Sha256::digest(bytes)))
}

#[cfg(test)]
mod tests;
