//! A Postgres of one's own, for a laptop or for tests: no service to install, nothing left running.
//!
//! [`PrivatePostgres::start`] finds the Postgres programs of this machine, makes a cluster in a folder, and
//! runs a server on it that
//!
//! * listens on loopback TCP only (no Unix socket, so no path-length limits), and asks for a password that
//!   is generated with the cluster and kept beside it in a file only its owner reads;
//! * commits durably, unless the caller asked for a throw-away server;
//! * runs as an unprivileged user when this process is root, because Postgres refuses to run as root;
//! * stops when the value is dropped, **and when this process dies in any way**.
//!
//! The last point: the server's start-up shell leaves a small watcher behind that reads a pipe whose other
//! end only this process holds. The kernel closes it whatever ends this process, `SIGKILL` included, and the
//! watcher then asks the server for a fast shutdown. (`PR_SET_PDEATHSIG` is no substitute: it is cleared by
//! the change of user, exists on Linux only, and fires when the *thread* that started the server ends, which
//! on a thread pool is any time.)
//!
//! The folder is locked while its server runs, so two owners never share it. A server that an earlier owner
//! left running is stopped first; an unclean end is repaired by Postgres' own crash recovery.

mod binaries;
mod cluster;
mod error;
mod leftover;
mod owner;
mod server;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};

pub use error::PrivateError;

use crate::pool::DatabaseUrl;
use crate::quote_identifier;
use binaries::Binaries;
use cluster::Cluster;
use owner::Owner;
use server::Server;

/// The role that owns a private server.
const SUPERUSER: &str = "chatfn";

/// Longest start, crash recovery included.
const READY_WAIT: Duration = Duration::from_secs(120);

/// Free bytes of shared memory from which a throw-away server may live there; with many tests at once it takes
/// well under 1 GiB. (Containers have 64 MiB by default, so there it lives on disk.)
const PLENTY_OF_MEMORY: u64 = 4 << 30;

/// How many ports, or moments, are tried when the first turns out to be taken.
const START_ATTEMPTS: u32 = 5;

/// Whether commits survive the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// What is committed survives a power failure.
    #[default]
    Durable,
    /// `fsync` is off: what is committed survives a killed server, but not a machine that goes down. For data
    /// that nobody will miss.
    ThrowAway,
}

/// What to start.
#[derive(Debug, Clone, Default)]
pub struct PrivateOptions {
    /// Where the cluster lives and stays; made if it does not exist. `None`: a temporary folder that goes
    /// with the server.
    pub dir: Option<PathBuf>,
    /// The TCP port; `None`: any free one.
    pub port: Option<u16>,
    /// Whether commits survive the machine.
    pub durability: Durability,
    /// `name=value`, in place of what every private server has: small, and quiet on disk. What the options above decide is not to be
    /// set here, nor how the log is written, which is read to tell when the server has started.
    pub settings: Vec<String>,
}

/// A running private server; stops, after a fast shutdown, when dropped.
#[derive(Debug)]
pub struct PrivatePostgres {
    // The order of the fields is the order of their ends: the server, the lock, the temporary folder.
    server: Server,
    _lock: File,
    temporary: Option<tempfile::TempDir>,
    dir: PathBuf,
    port: u16,
    password: String,
}

impl PrivatePostgres {
    /// Starts a server and returns when it accepts connections: well under a second on an existing cluster,
    /// a few seconds when the cluster has to be made, at most two minutes (crash recovery).
    ///
    /// Dropping the future stops what was started.
    ///
    /// # Errors
    /// [`PrivateError`]; each message says what to do.
    pub async fn start(options: PrivateOptions) -> Result<Self, PrivateError> {
        let owner = Owner::choose()?;
        let (dir, temporary) = match &options.dir {
            Some(dir) => (dir.clone(), None),
            None => {
                let temporary = temporary_folder(options.durability)?;
                (temporary.path().to_path_buf(), Some(temporary))
            }
        };
        let cluster = Cluster::claim(&dir, temporary.is_some(), owner)?;
        let binaries = Binaries::find(cluster.major())?;
        leftover::stop(&cluster).await?;
        cluster.create_if_missing(&binaries, options.durability).await?;
        let password = cluster.password()?;
        let (server, port) = start_server(&cluster, &binaries, &options, &password).await?;
        tracing::info!(
            postgres.port = port,
            postgres.major = binaries.major,
            "a private Postgres is ready on port {port}"
        );
        let dir = cluster.dir().to_path_buf();
        Ok(Self { server, _lock: cluster.into_lock(), temporary, dir, port, password })
    }

    /// The superuser's URL of `database`, which need not exist. Contains the password.
    #[must_use]
    pub fn url(&self, database: &str) -> DatabaseUrl {
        url(self.port, &self.password, database)
    }

    /// The TCP port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of the cluster, the server's log (`server.log`) and the password.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The server's process id, for tests that hurt it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Creates `database` if it does not exist.
    ///
    /// # Errors
    /// [`PrivateError::Query`].
    pub async fn ensure_database(&self, database: &str) -> Result<(), PrivateError> {
        let query = PrivateError::Query;
        let mut admin = options(&self.url("postgres")).connect().await.map_err(query)?;
        let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
            .bind(database)
            .fetch_one(&mut admin)
            .await
            .map_err(query)?;
        if !exists {
            let create = format!("CREATE DATABASE {}", quote_identifier(database));
            admin.execute(AssertSqlSafe(create)).await.map_err(query)?;
        }
        admin.close().await.map_err(query)
    }

    /// Stops the server and returns when it is gone: a fast shutdown first, force after 20 s.
    ///
    /// # Errors
    /// [`PrivateError::Io`] if a temporary folder cannot be removed.
    pub async fn stop(mut self) -> Result<(), PrivateError> {
        let stopped = tokio::task::spawn_blocking(move || {
            self.server.stop();
            match self.temporary.take() {
                Some(temporary) => {
                    let path = temporary.path().to_path_buf();
                    temporary.close().map_err(PrivateError::io("remove", &path))
                }
                None => Ok(()),
            }
        });
        match stopped.await {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
}

/// A folder for a server that nobody will miss: in memory if there is plenty, because making a database means
/// making some 300 files, which takes 10 to 400 ms on a disk and 30 ms in memory.
fn temporary_folder(durability: Durability) -> Result<tempfile::TempDir, PrivateError> {
    let memory = Path::new("/dev/shm");
    let free = nix::sys::statvfs::statvfs(memory)
        .map_or(0, |status| status.blocks_available().saturating_mul(status.fragment_size()));
    let parent = match durability {
        Durability::ThrowAway if free >= PLENTY_OF_MEMORY => memory.to_path_buf(),
        _ => std::env::temp_dir(),
    };
    tempfile::Builder::new()
        .prefix("chatfn-pg-")
        .tempdir_in(&parent)
        .map_err(PrivateError::io("make a temporary folder in", &parent))
}

/// Starts the server, again if the free port was snatched, or if the last session of a killed server still
/// holds on to the old shared memory.
async fn start_server(
    cluster: &Cluster,
    binaries: &Binaries,
    options: &PrivateOptions,
    password: &str,
) -> Result<(Server, u16), PrivateError> {
    let mut attempt = 1;
    loop {
        let chosen = match options.port {
            Some(port) => port,
            None => free_port()?,
        };
        let server = Server::spawn(cluster, binaries, chosen, options)?;
        match wait_until_ready(server, cluster, &url(chosen, password, "postgres")).await {
            Ok(server) => return Ok((server, chosen)),
            Err(PrivateError::Exited { log, .. })
                if attempt < START_ATTEMPTS
                    && ((options.port.is_none() && log.contains("could not bind"))
                        || log.contains("pre-existing shared memory block")) =>
            {
                attempt += 1;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

async fn wait_until_ready(
    mut server: Server,
    cluster: &Cluster,
    url: &DatabaseUrl,
) -> Result<Server, PrivateError> {
    let start = Instant::now();
    loop {
        if let Some(status) = server.exited() {
            return Err(PrivateError::Exited { status, log: cluster.log_tail(), file: cluster.log_file() });
        }
        // Nobody but our server knows the password, so an answer is an answer from our server.
        match options(url).connect().await {
            Ok(connection) => {
                let _ = connection.close().await;
                return Ok(server);
            }
            Err(error) if start.elapsed() > READY_WAIT => return Err(PrivateError::NotReady(error)),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// A port that was free a moment ago.
fn free_port() -> Result<u16, PrivateError> {
    std::net::TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(PrivateError::NoPort)
}

fn url(port: u16, password: &str, database: &str) -> DatabaseUrl {
    // The password is hexadecimal; TLS is off because the server has no certificate and is on loopback.
    let base = format!("postgres://{SUPERUSER}:{password}@127.0.0.1:{port}/postgres?sslmode=disable");
    DatabaseUrl::from(base).with_database(database).expect("a URL built from its parts is valid")
}

fn options(url: &DatabaseUrl) -> sqlx::postgres::PgConnectOptions {
    url.connect_options().expect("a URL built from its parts is valid").application_name("chatfn-private")
}
