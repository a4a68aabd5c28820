//! `chatfn-db private`: a command with a Postgres of its own.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};

use anyhow::Context;
use chatfn_pg::migrate::{self, MIGRATIONS, RunOptions};
use chatfn_pg::private::{Durability, PrivateOptions, PrivatePostgres};
use chatfn_pg::testing::SERVER_VARIABLE;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Child;
use tokio::signal::unix::{SignalKind, signal};

/// Runs a command with DATABASE_URL (a migrated database) and CHATFN_TEST_DATABASE_URL (for tests that make
/// databases of their own) set to a private Postgres.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of the data, which then stays and is durable; a temporary one if not given.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// TCP port on 127.0.0.1; any free one if not given.
    #[arg(long)]
    port: Option<u16>,
    /// Flush every commit to disk although the data is temporary, as tests of durability and benchmarks need.
    #[arg(long)]
    durable: bool,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Exits as the command did; 128 + n if signal n ended it.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    // From here on no signal ends this process before the server is stopped.
    let mut signals = Signals::catch()?;
    let durability =
        if args.durable || args.dir.is_some() { Durability::Durable } else { Durability::ThrowAway };
    let options = PrivateOptions { dir: args.dir, port: args.port, durability, ..PrivateOptions::default() };
    let postgres = tokio::select! {
        started = PrivatePostgres::start(options) => started?,
        signal = signals.next() => return Ok(exit_code(ExitStatus::from_raw(signal as i32))),
    };
    let outcome = run_on(&postgres, &args.command, &mut signals).await;
    postgres.stop().await?;
    Ok(exit_code(outcome?))
}

async fn run_on(
    postgres: &PrivatePostgres,
    command: &[OsString],
    signals: &mut Signals,
) -> anyhow::Result<ExitStatus> {
    postgres.ensure_database("chatfn").await?;
    let url = postgres.url("chatfn");
    migrate::run(&url, &MIGRATIONS, RunOptions::default()).await?;
    let (program, arguments) = command.split_first().context("no command given")?;
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .env("DATABASE_URL", url.expose())
        .env(SERVER_VARIABLE, postgres.url("postgres").expose())
        .spawn()
        .with_context(|| format!("cannot run {}", program.display()))?;
    loop {
        tokio::select! {
            status = child.wait() => return Ok(status?),
            signal = signals.next() => forward(signal, &child),
        }
    }
}

/// Passes a signal on. A terminal sends its own (Ctrl-C, Ctrl-\) to the command as well as to us, and many
/// programs take the second one as "now, without cleaning up".
fn forward(signal: Signal, child: &Child) {
    let from_terminal = matches!(signal, Signal::SIGINT | Signal::SIGQUIT) && std::io::stdin().is_terminal();
    if let (false, Some(pid)) = (from_terminal, child.id()) {
        // The command may have ended meanwhile; the loop will see it.
        let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
    }
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// The signals that people and supervisors end programs with.
struct Signals([(Signal, tokio::signal::unix::Signal); 4]);

impl Signals {
    fn catch() -> std::io::Result<Self> {
        Ok(Self([
            (Signal::SIGINT, signal(SignalKind::interrupt())?),
            (Signal::SIGTERM, signal(SignalKind::terminate())?),
            (Signal::SIGHUP, signal(SignalKind::hangup())?),
            (Signal::SIGQUIT, signal(SignalKind::quit())?),
        ]))
    }

    async fn next(&mut self) -> Signal {
        let [(int, on_int), (term, on_term), (hup, on_hup), (quit, on_quit)] = &mut self.0;
        tokio::select! {
            _ = on_int.recv() => *int,
            _ = on_term.recv() => *term,
            _ = on_hup.recv() => *hup,
            _ = on_quit.recv() => *quit,
        }
    }
}
