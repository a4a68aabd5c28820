//! A server, or the traces of one, that an earlier owner of the folder left behind.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::PrivateError;
use super::cluster::Cluster;

/// What to send to a server that ought to be gone, and how long to wait for the effect: fast shutdown,
/// immediate shutdown, and the end of patience.
const INSISTENCE: [(Signal, Duration); 3] = [
    (Signal::SIGINT, Duration::from_secs(20)),
    (Signal::SIGQUIT, Duration::from_secs(5)),
    (Signal::SIGKILL, Duration::from_secs(5)),
];

/// Stops a server that still runs on the cluster's data. Its owner is gone, or the folder could not be locked.
///
/// A `postmaster.pid` whose process is gone is left to Postgres, which also looks for surviving sessions of
/// the dead server before it starts. Postgres would, however, refuse to start if the number meanwhile belongs
/// to some other process of the same user; in that case the number is replaced by ours, which Postgres, as
/// our child, knows not to be a server.
pub(super) async fn stop(cluster: &Cluster) -> Result<(), PrivateError> {
    let pid_file = cluster.data().join("postmaster.pid");
    let Some((pid, content)) = read(&pid_file) else { return Ok(()) };
    let process = Pid::from_raw(pid);
    if kill(process, None).is_err() {
        return Ok(());
    }
    if !is_server_of(pid, &cluster.data()) {
        tracing::info!("ignoring a stale postmaster.pid: process {pid} is not a Postgres of this folder");
        let rest = content.split_once('\n').map_or("", |(_pid, rest)| rest);
        return fs::write(&pid_file, format!("{}\n{rest}", std::process::id()))
            .map_err(PrivateError::io("write", &pid_file));
    }
    tracing::info!("stopping Postgres {pid}, which an earlier run left behind");
    for (signal, patience) in INSISTENCE {
        // It may end between any two of these lines; that is what is wanted.
        let _ = kill(process, signal);
        let start = Instant::now();
        while start.elapsed() < patience {
            if !is_server_of(pid, &cluster.data()) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Err(PrivateError::Stuck { pid, dir: cluster.dir().to_path_buf() })
}

fn read(pid_file: &Path) -> Option<(i32, String)> {
    let content = fs::read_to_string(pid_file).ok()?;
    let pid = content.lines().next()?.trim().parse().ok()?;
    Some((pid, content))
}

/// Whether process `pid` is a server on `data`: its command line names the folder, as ours always do. A
/// process that has ended but is not yet reaped has no command line.
fn is_server_of(pid: i32, data: &Path) -> bool {
    let command_line = if Path::new("/proc/self/cmdline").exists() {
        fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()
    } else {
        let output = Command::new("ps").args(["-o", "args=", "-p", &pid.to_string()]).output();
        output.map(|output| output.stdout).unwrap_or_default()
    };
    String::from_utf8_lossy(&command_line).contains(&*data.to_string_lossy())
}
