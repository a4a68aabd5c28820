//! What every chatfn program can tell of its settings.
//!
//! A setting is a flag that an environment variable sets, too. All is read from clap's own model of a program, so that a
//! new setting needs nothing here. Promises:
//!
//! * `--check-config` says all that is wrong with the settings, and what to change, without opening a port or a connection
//!   ([`parse`], `check.rs`);
//! * `--print-config` says what is in effect and where it comes from, and shows no secret (`print.rs`): what is secret is
//!   what the command line's help hides, too (`hide_env_values`);
//! * [`settings`] lists what there is, for docs/SETTINGS.md.

mod check;
mod print;
mod problems;
mod setting;

use std::{
    ffi::OsString,
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{Arg, ArgAction, ArgMatches, Command};

pub use self::{
    problems::Problems,
    setting::{Setting, settings},
};

/// Exit code of a program whose settings cannot be used; clap's own.
pub const UNUSABLE: u8 = 2;

const CHECK: &str = "check_config";
const PRINT: &str = "print_config";

/// The command line of a program that serves.
pub trait Program: clap::Parser {
    /// Adds what is wrong with settings that could be read by themselves: those that contradict one another, and files
    /// that are not what they should be. Opens no port and no connection, and changes nothing.
    fn check(&self, problems: &mut Problems);

    /// What may be shown of secret values that are set, by variable: a URL without its password.
    fn shown(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}

/// The command line of this process; or an exit code, when the settings are wrong or were only asked about. What there is
/// to say is said by then.
///
/// # Errors
/// The exit code.
pub fn parse<P: Program>() -> Result<P, ExitCode> {
    match inspect::<P>(std::env::args_os().collect()) {
        Outcome::Run(program) => Ok(program),
        Outcome::Said { out, err, code } => {
            // Whoever closed the other end does not want to know.
            let _ = io::stdout().write_all(out.as_bytes());
            let _ = io::stderr().write_all(err.as_bytes());
            Err(ExitCode::from(code))
        }
        Outcome::Refused(error) => {
            let _ = error.print();
            Err(ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(UNUSABLE)))
        }
    }
}

/// What comes of a command line.
enum Outcome<P> {
    /// It is to be run.
    Run(P),
    /// All was said.
    Said { out: String, err: String, code: u8 },
    /// clap has the last word: also for `--help`.
    Refused(clap::Error),
}

fn inspect<P: Program>(arguments: Vec<OsString>) -> Outcome<P> {
    let command = with_flags(P::command());
    let name = command.get_name().to_owned();
    if check::is_asked_for(&command, &arguments) {
        let problems = check::check::<P>(&command, &arguments);
        return match problems.is_empty() {
            true => Outcome::Said {
                out: format!("{name}: the settings can be used\n"),
                err: String::new(),
                code: 0,
            },
            false => Outcome::Said { out: String::new(), err: format!("{name}: {problems}"), code: UNUSABLE },
        };
    }
    let (program, matches) = match read::<P>(command.clone(), arguments) {
        Ok(read) => read,
        Err(error) => return Outcome::Refused(error),
    };
    if matches.get_flag(PRINT) {
        let out = print::print(&command, &matches, &program.shown());
        return Outcome::Said { out, err: String::new(), code: 0 };
    }
    Outcome::Run(program)
}

fn read<P: Program>(mut command: Command, arguments: Vec<OsString>) -> Result<(P, ArgMatches), clap::Error> {
    let matches = command.try_get_matches_from_mut(arguments)?;
    let program = P::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
    Ok((program, matches))
}

fn with_flags(command: Command) -> Command {
    let flag = |id: &'static str, long: &'static str, help: &'static str| {
        Arg::new(id).long(long).help(help).help_heading("Settings").action(ArgAction::SetTrue)
    };
    command
        .arg(flag(
            CHECK,
            "check-config",
            "Say what is wrong with these settings and the files they name, and end: with exit code 0 if nothing is, with 2 \
             otherwise. Opens no port and no connection",
        ))
        .arg(
            flag(
                PRINT,
                "print-config",
                "Print the settings in effect and where each comes from, and end. The lines are those of an environment \
                 file, as docker --env-file and kubectl create configmap --from-env-file read it. Secrets are left out",
            )
            .conflicts_with(CHECK),
        )
}

#[cfg(test)]
mod tests;
