//! What this process may do to the system, should a lambda ever break out of its sandbox.
//!
//! Promises: once [`Confinement::seal`] has returned, the process starts no program and no other process, reads no
//! file but those in `files.rs`, writes none, listens on no further port, makes no new machine code, and has no use of
//! the system calls in `calls.rs`; nor has anything that it could start. This cannot be undone. It holds as far as the
//! kernel offers Landlock and seccomp; what is missing is logged, or an error, as the operator says. Where lambdas may
//! connect to is not the kernel's business but [`egress`](crate::egress)': an allowed host may have any port.
//!
//! There are two steps, because Landlock binds the calling thread and those that it starts, while the start-up itself
//! writes the engine's cache and makes machine code.

#[cfg(target_os = "linux")]
mod calls;
#[cfg(target_os = "linux")]
mod files;

use crate::Config;

/// How much of the confinement has to be there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ConfinementMode {
    /// Refuses to start without Landlock and seccomp.
    Enforce,
    /// Applies what the kernel offers, and logs what is missing.
    #[default]
    BestEffort,
    /// Applies nothing.
    Off,
}

/// The kernel does not offer what `--confinement=enforce` asks for.
#[derive(Debug, thiserror::Error)]
#[error("--confinement=enforce cannot be met: {0}; meet it, or accept less with --confinement=best-effort")]
pub struct ConfinementError(String);

/// A process that has taken the first step.
#[derive(Debug)]
#[must_use = "without seal() the process may still start programs"]
pub struct Confinement {
    mode: ConfinementMode,
    files: Result<Files, String>,
}

/// What confines the process now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InForce {
    /// Files and programs.
    pub landlock: bool,
    /// System calls.
    pub seccomp: bool,
}

/// What Landlock enforces.
#[derive(Debug, PartialEq, Eq)]
struct Files {
    /// Version of the kernel's Landlock.
    abi: i32,
    in_force: Vec<&'static str>,
    /// What later versions offer besides.
    missing: Vec<&'static str>,
}

impl Confinement {
    /// The first step: from here on the process reaches only the files that it needs, and starts no program. Call it
    /// before the process starts its first thread.
    ///
    /// # Errors
    /// The kernel does not offer it, and the settings insist.
    pub fn begin(config: &Config) -> Result<Self, ConfinementError> {
        let files = match config.confinement {
            ConfinementMode::Off => Err("--confinement=off".to_owned()),
            _ => restrict_files(config),
        };
        Self::accept(config.confinement, &files)?;
        Ok(Self { mode: config.confinement, files })
    }

    /// Confines nothing: for a process that does more than run lambdas, and for tests.
    pub fn none() -> Self {
        Self { mode: ConfinementMode::Off, files: Err("it does more than run lambdas".to_owned()) }
    }

    /// The second step, for all threads: no system call that serving does not need. Call it when everything is loaded
    /// and listening, before any untrusted code runs. Logs and tells what is in force.
    ///
    /// # Errors
    /// The kernel does not offer it, and the settings insist.
    pub fn seal(self) -> Result<InForce, ConfinementError> {
        if let (ConfinementMode::Off, Err(why)) = (self.mode, &self.files) {
            tracing::info!("this process is not confined: {why}");
            return Ok(InForce { landlock: false, seccomp: false });
        }
        let calls = restrict_calls();
        Self::accept(self.mode, &calls)?;
        self.report(&calls);
        Ok(InForce { landlock: self.files.is_ok(), seccomp: calls.is_ok() })
    }

    fn accept<T>(mode: ConfinementMode, step: &Result<T, String>) -> Result<(), ConfinementError> {
        match step {
            Err(why) if mode == ConfinementMode::Enforce => Err(ConfinementError(why.clone())),
            _ => Ok(()),
        }
    }

    fn report(&self, calls: &Result<(), String>) {
        let (abi, in_force, mut missing) = match &self.files {
            Ok(files) => (files.abi, files.in_force.join(", "), files.missing.join(", ")),
            Err(why) => (0, String::new(), why.clone()),
        };
        if let Err(why) = calls {
            let comma = if missing.is_empty() { "" } else { ", " };
            missing = format!("{missing}{comma}{why}");
        }
        let seccomp = calls.is_ok();
        if self.files.is_ok() && seccomp {
            tracing::info!(
                confinement.landlock_abi = abi,
                confinement.landlock = in_force,
                confinement.seccomp = seccomp,
                confinement.missing = missing,
                "this process is confined by Landlock and seccomp",
            );
        } else {
            tracing::warn!(
                confinement.landlock_abi = abi,
                confinement.landlock = in_force,
                confinement.seccomp = seccomp,
                confinement.missing = missing,
                "this process is not fully confined: {missing}; a lambda that breaks out of its sandbox has what this \
                 user has",
            );
        }
    }
}

#[cfg(target_os = "linux")]
fn restrict_files(config: &Config) -> Result<Files, String> {
    files::restrict(config).map_err(|error| error.to_string())
}

#[cfg(target_os = "linux")]
fn restrict_calls() -> Result<(), String> {
    calls::restrict().map_err(|error| format!("no seccomp ({error})"))
}

#[cfg(not(target_os = "linux"))]
fn restrict_files(_: &Config) -> Result<Files, String> {
    Err("only Linux has Landlock".to_owned())
}

#[cfg(not(target_os = "linux"))]
fn restrict_calls() -> Result<(), String> {
    Err("only Linux has seccomp".to_owned())
}
