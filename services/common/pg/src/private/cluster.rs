//! The folder of a private server: who may use it, and what is in it.
//!
//! `chatfn-private-postgres` (marks the folder as ours; locked while in use), `password`, `data/`,
//! `server.log`, `server.log.1` (the run before).

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use uuid::Uuid;

use super::binaries::Binaries;
use super::owner::Owner;
use super::{Durability, PrivateError, SUPERUSER};

const MARKER: &str = "chatfn-private-postgres";

/// Where packages keep the machine's own clusters.
const SYSTEM_PLACES: [&str; 6] = [
    "/var/lib/postgresql",
    "/var/lib/postgres",
    "/var/lib/pgsql",
    "/etc/postgresql",
    "/opt/homebrew/var",
    "/usr/local/var",
];

/// How much of a log an error message repeats.
const LOG_TAIL: usize = 2_000;

/// A folder that this process holds the lock of.
#[derive(Debug)]
pub(super) struct Cluster {
    dir: PathBuf,
    temporary: bool,
    owner: Owner,
    lock: File,
}

impl Cluster {
    /// Makes the folder if need be, and takes its lock. A `temporary` folder goes with its server, even if
    /// this process is not there to remove it.
    pub(super) fn claim(dir: &Path, temporary: bool, owner: Owner) -> Result<Self, PrivateError> {
        refuse_foreign(dir)?;
        fs::create_dir_all(dir).map_err(PrivateError::io("make", dir))?;
        let dir = dir.canonicalize().map_err(PrivateError::io("find", dir))?;
        refuse_foreign(&dir)?;
        let marker = dir.join(MARKER);
        let lock = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&marker)
            .map_err(PrivateError::io("make", &marker))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(PrivateError::InUse { dir }),
            Err(TryLockError::Error(error)) => return Err(PrivateError::io("lock", &marker)(error)),
        }
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))
            .map_err(PrivateError::io("protect", &dir))?;
        owner.give(&dir)?;
        owner.check_can_enter(&dir)?;
        Ok(Self { dir, temporary, owner, lock })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The folder if it is temporary, else nothing.
    pub(super) fn folder_that_goes_with_the_server(&self) -> &Path {
        if self.temporary { &self.dir } else { Path::new("") }
    }

    pub(super) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub(super) fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Keeps the folder locked after the rest of this value is gone.
    pub(super) fn into_lock(self) -> File {
        self.lock
    }

    /// The major version of the data, if there is data.
    pub(super) fn major(&self) -> Option<u32> {
        fs::read_to_string(self.data().join("PG_VERSION")).ok()?.trim().parse().ok()
    }

    /// Runs `initdb`, unless an earlier run did. Complete or absent: a half-made cluster is made anew.
    pub(super) async fn create_if_missing(
        &self,
        binaries: &Binaries,
        durability: Durability,
    ) -> Result<(), PrivateError> {
        if self.major().is_some() {
            return Ok(());
        }
        let unfinished = self.dir.join("data.unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).map_err(PrivateError::io("remove", &unfinished))?;
        }
        self.write_password()?;
        let mut initdb = std::process::Command::new(binaries.initdb());
        initdb
            .arg("--pgdata")
            .arg(&unfinished)
            .arg("--pwfile")
            .arg(self.password_file())
            .args(["--username", SUPERUSER, "--auth", "scram-sha-256"])
            .args(["--encoding", "UTF8", "--no-locale", "--data-checksums", "--no-instructions"])
            .env("LC_ALL", "C");
        if durability == Durability::ThrowAway {
            initdb.arg("--no-sync");
        }
        self.owner.run(&mut initdb, &self.dir);
        initdb.stdin(Stdio::null());
        let mut initdb = tokio::process::Command::from(initdb);
        let output =
            initdb.kill_on_drop(true).output().await.map_err(PrivateError::io("run", &binaries.initdb()))?;
        if !output.status.success() {
            let stderr = tail(&output.stderr).trim().to_owned();
            return Err(PrivateError::InitFailed { status: output.status, stderr });
        }
        fs::rename(&unfinished, self.data()).map_err(PrivateError::io("rename", &unfinished))
    }

    /// The superuser's password.
    pub(super) fn password(&self) -> Result<String, PrivateError> {
        let file = self.password_file();
        let password = fs::read_to_string(&file).unwrap_or_default();
        match password.trim() {
            "" => Err(PrivateError::NoPassword { file }),
            password => Ok(password.to_owned()),
        }
    }

    fn password_file(&self) -> PathBuf {
        self.dir.join("password")
    }

    /// 122 random bits, in a file that only the owner reads.
    fn write_password(&self) -> Result<(), PrivateError> {
        let file = self.password_file();
        let password = Uuid::new_v4().simple().to_string();
        OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&file)
            .and_then(|mut file| file.write_all(password.as_bytes()))
            .map_err(PrivateError::io("write", &file))?;
        self.owner.give(&file)
    }

    pub(super) fn log_file(&self) -> PathBuf {
        self.dir.join("server.log")
    }

    /// A new log for a new run; the log of the run before is kept.
    pub(super) fn open_log(&self) -> Result<File, PrivateError> {
        let file = self.log_file();
        if file.exists() {
            fs::rename(&file, self.dir.join("server.log.1")).map_err(PrivateError::io("rename", &file))?;
        }
        let log = File::create(&file).map_err(PrivateError::io("make", &file))?;
        self.owner.give(&file)?;
        Ok(log)
    }

    /// The end of the log of this run.
    pub(super) fn log_tail(&self) -> String {
        let read = || {
            let mut file = File::open(self.log_file())?;
            let end = file.seek(SeekFrom::End(0))?;
            file.seek(SeekFrom::Start(end.saturating_sub(LOG_TAIL as u64)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            std::io::Result::Ok(tail(&bytes))
        };
        read().unwrap_or_default()
    }
}

/// Refuses folders that hold something of somebody else's.
fn refuse_foreign(dir: &Path) -> Result<(), PrivateError> {
    let dir = std::path::absolute(dir).map_err(PrivateError::io("find", dir))?;
    if SYSTEM_PLACES.iter().any(|place| dir.starts_with(place)) || dir.join("PG_VERSION").exists() {
        return Err(PrivateError::SystemCluster { dir });
    }
    let mut entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(PrivateError::io("read", &dir)(error)),
    };
    if entries.next().is_some() && !dir.join(MARKER).exists() {
        return Err(PrivateError::NotOurs { dir });
    }
    Ok(())
}

fn tail(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LOG_TAIL)..]).into_owned()
}
