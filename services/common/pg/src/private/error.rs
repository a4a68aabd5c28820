//! Why a private server cannot start.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

/// Why a private server cannot start; each message says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrivateError {
    /// No usable Postgres on this machine.
    #[error(
        "no PostgreSQL {} found (looked in CHATFN_PG_BIN, PATH and the usual places); install it, for example with `apt-get install postgresql`, or set CHATFN_PG_BIN to the folder of `initdb` and `postgres`",
        match .wanted { Some(major) => format!("{major}, which this folder's data needs,"), None => format!("{} or newer", super::binaries::OLDEST_MAJOR) }
    )]
    NotInstalled {
        /// The major version that existing data insists on.
        wanted: Option<u32>,
    },
    /// This process is root and there is nobody to run Postgres as.
    #[error(
        "Postgres does not run as root, and there is neither a user `postgres` nor `nobody`; run as another user"
    )]
    NoUser,
    /// The folder belongs to an installation of Postgres.
    #[error("{dir} belongs to this machine's own Postgres; choose another folder")]
    SystemCluster {
        /// The folder.
        dir: PathBuf,
    },
    /// The folder holds something else.
    #[error("{dir} is not empty and was not made by chatfn; choose a new or an empty folder")]
    NotOurs {
        /// The folder.
        dir: PathBuf,
    },
    /// Another process runs a server on the folder.
    #[error("another process is running the private Postgres in {dir}; stop it, or choose another folder")]
    InUse {
        /// The folder.
        dir: PathBuf,
    },
    /// The unprivileged user cannot reach the folder.
    #[error(
        "this process is root, so Postgres runs as user `{user}`, who may not enter {blocked}; choose a folder outside it (such as /var/tmp/chatfn), or run as another user"
    )]
    Unreachable {
        /// Who cannot enter.
        user: String,
        /// The outermost folder that stops them.
        blocked: PathBuf,
    },
    /// The folder has a cluster but not its password.
    #[error(
        "{file} is missing or empty; without it the cluster beside it is of no use: remove the folder to start afresh"
    )]
    NoPassword {
        /// Where the password should be.
        file: PathBuf,
    },
    /// `initdb` failed.
    #[error("initdb failed ({status}): {stderr}")]
    InitFailed {
        /// How it ended.
        status: ExitStatus,
        /// The end of what it said.
        stderr: String,
    },
    /// The server ended while it was starting.
    #[error("Postgres ended while starting ({status}); the end of {file}:\n{log}")]
    Exited {
        /// How it ended.
        status: ExitStatus,
        /// The end of its log.
        log: String,
        /// Where the whole log is.
        file: PathBuf,
    },
    /// The server runs but does not accept connections.
    #[error("Postgres did not become ready within {:?}", super::READY_WAIT)]
    NotReady(#[source] sqlx::Error),
    /// A server that an earlier process left behind does not stop.
    #[error("process {pid}, a Postgres that an earlier run left in {dir}, does not stop; end it by hand")]
    Stuck {
        /// The process.
        pid: i32,
        /// The folder.
        dir: PathBuf,
    },
    /// No TCP port on loopback.
    #[error("no free TCP port on 127.0.0.1")]
    NoPort(#[source] io::Error),
    /// A file operation failed.
    #[error("cannot {action} {path}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A statement on the running server failed.
    #[error("cannot create a database on the private server")]
    Query(#[source] sqlx::Error),
}

impl PrivateError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }
}
