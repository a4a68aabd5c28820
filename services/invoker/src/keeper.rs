//! The process that keeps the snapshot file.
//!
//! An invoker is confined: it writes no file, so that a lambda that breaks out of its sandbox cannot leave anything behind
//! that the next start would take for what is live. So another process watches the registry and writes the file. It runs
//! nobody's code. It is started before the invoker is confined, and ends when its standard input does: with the invoker,
//! however that ends.

use std::{
    env, io,
    os::unix::process::CommandExt as _,
    process::{Child, Command, ExitStatus, Stdio},
};

use anyhow::Context as _;
use chatfn_deployments::{Deployments, WatchConfig};
use chatfn_rpc::{ClientConfig, Security, Service, connect};
use tokio_util::sync::CancellationToken;

use crate::Config;

/// The name under which both watch what is live.
pub(crate) const WATCHER: &str = "invoker";
/// Whether they watch the sources, too.
pub(crate) const WATCHES_SOURCE: bool = true;

/// The keeper of an invoker.
#[derive(Debug)]
pub struct Keeper(Child);

impl Keeper {
    /// Starts one, as this program with the same settings, if there is a file to keep.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(config: &Config) -> anyhow::Result<Option<Self>> {
        if config.snapshot.snapshot_file.is_none() {
            return Ok(None);
        }
        let child = env::current_exe().and_then(|program| {
            // The end of its standard input is the end of this process.
            Command::new(program)
                .args(env::args_os().skip(1))
                .arg("--keep-snapshot")
                // A Ctrl-C is for the invoker, which drains; meanwhile the file is kept, and no end of the keeper is reported.
                .process_group(0)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
        });
        Ok(Some(Self(child.context("cannot start the process that keeps the snapshot file")?)))
    }

    /// Logs when it ends before this process does: it cannot be started again by a confined one.
    pub fn watch_over(mut self) {
        std::thread::spawn(move || {
            // Waiting closes its standard input, unless that is taken out before.
            let stdin = self.0.stdin.take();
            let ended =
                self.0.wait().map_or_else(|error| error.to_string(), |status: ExitStatus| status.to_string());
            tracing::error!(
                "the process that keeps the snapshot file has ended ({ended}): the file stays as it is until this \
                 invoker is started again"
            );
            drop(stdin);
        });
    }
}

/// Keeps the file until standard input ends.
///
/// # Errors
/// The settings are wrong.
pub fn run(config: &Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let _stop = stop.clone().drop_guard();
        let security = Security::start(&config.security, Service::Invoker, &stop)?;
        let _deployments = Deployments::spawn(
            watch(config, ClientConfig::secured(config.registry.clone(), &security), true)?,
            stop,
        );
        tokio::task::spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink())).await??;
        Ok(())
    })
}

/// How invoker and keeper watch: alike, so that the one can read what the other writes.
pub(crate) fn watch(config: &Config, registry: ClientConfig, keep: bool) -> anyhow::Result<WatchConfig> {
    let registry = connect(registry).context("--registry")?;
    Ok(WatchConfig {
        registry,
        watcher: WATCHER,
        include_source: WATCHES_SOURCE,
        snapshot: config.snapshot.file(keep),
    })
}
