//! The server's process: starts it tied to this process's life, and stops it.

use std::io::Write;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::binaries::Binaries;
use super::cluster::Cluster;
use super::{Durability, PrivateError, PrivateOptions};

/// Leaves a watcher behind, then becomes the server, so that the server is our direct child and its process
/// id is known. The watcher waits for a line (the owner says it has stopped the server itself) or for the end
/// of the pipe (the owner died): then it asks the server for a fast shutdown, and removes the folder `$1` if
/// one is given, within 30 s. A background shell ignores SIGINT and has no standard input of its own, hence
/// descriptor 3.
const SCRIPT: &str = r#"
    folder=$1; shift; exec 3<&0
    (
        read -r _ <&3 && exit
        kill -INT $$
        [ -n "$folder" ] || exit
        cd /
        tries=0
        while [ -e "$folder/data/postmaster.pid" ] && [ $tries -lt 300 ]; do
            tries=$((tries + 1)); sleep 0.1
        done
        rm -rf -- "$folder"
    ) &
    exec "$0" "$@" 3<&- </dev/null"#;

/// How long a fast shutdown, and then an immediate one, may take.
const FAST_SHUTDOWN: Duration = Duration::from_secs(20);
const IMMEDIATE_SHUTDOWN: Duration = Duration::from_secs(5);

/// Settings of every private server: small, and quiet on disk.
const SETTINGS: [&str; 17] = [
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "max_connections=300", // tests of several crates at once, each with a pool
    "shared_buffers=128MB",
    "wal_level=minimal", // nobody replicates a private server
    "max_wal_senders=0",
    "min_wal_size=80MB",
    "max_wal_size=512MB",
    "jit=off", // costs more than it saves on small statements
    "random_page_cost=1.1",
    "max_parallel_workers_per_gather=0",
    "autovacuum_naptime=10s", // queue-like tables bloat within the default minute
    "timezone=UTC",
    "log_timezone=UTC",
    "lc_messages=C", // the log is read by `start_server`
    "log_checkpoints=off",
    "log_line_prefix=%m [%p] %d ",
];

/// A server that is a child of this process.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    /// The watcher's pipe; closes with this process.
    watcher: Option<ChildStdin>,
}

impl Server {
    pub(super) fn spawn(
        cluster: &Cluster,
        binaries: &Binaries,
        port: u16,
        options: &PrivateOptions,
    ) -> Result<Self, PrivateError> {
        let log = cluster.open_log()?;
        let log_too = log.try_clone().map_err(PrivateError::io("open", &cluster.log_file()))?;
        let fsync = match options.durability {
            Durability::Durable => "on",
            Durability::ThrowAway => "off",
        };
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SCRIPT]).arg(binaries.postgres());
        command.arg(cluster.folder_that_goes_with_the_server());
        command.arg("-D").arg(cluster.data()).arg("-p").arg(port.to_string());
        // Of two for the same name Postgres takes the last.
        for setting in SETTINGS.into_iter().chain(options.settings.iter().map(String::as_str)) {
            command.args(["-c", setting]);
        }
        command.args(["-c", &format!("fsync={fsync}")]);
        command.stdin(Stdio::piped()).stdout(log).stderr(log_too);
        let mut child = cluster
            .owner()
            .run(&mut command, &cluster.data())
            .spawn()
            .map_err(PrivateError::io("run", &binaries.postgres()))?;
        let watcher = child.stdin.take();
        Ok(Self { child, watcher })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How the server ended, if it did.
    pub(super) fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Stops the server and waits for its end. Does nothing the second time.
    pub(super) fn stop(&mut self) {
        let shutdowns = [(Signal::SIGINT, FAST_SHUTDOWN), (Signal::SIGQUIT, IMMEDIATE_SHUTDOWN)];
        let stopped = shutdowns.into_iter().any(|(signal, patience)| self.signal_and_wait(signal, patience));
        if !stopped {
            tracing::warn!("the private Postgres {} ignores shutdowns; killing it", self.pid());
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        // The watcher must not act on a process id that is free again, so it is told to go before the pipe ends.
        if let Some(mut watcher) = self.watcher.take() {
            let _ = watcher.write_all(b"stopped\n");
        }
    }

    fn signal_and_wait(&mut self, signal: Signal, patience: Duration) -> bool {
        let start = Instant::now();
        let mut signalled = false;
        loop {
            // Reaped: the process id may be somebody else's from here on.
            if self.exited().is_some() {
                return true;
            }
            if !signalled {
                let pid = Pid::from_raw(i32::try_from(self.pid()).expect("process ids fit"));
                let _ = kill(pid, signal);
                signalled = true;
            }
            if start.elapsed() >= patience {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}
