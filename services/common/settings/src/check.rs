//! `--check-config`: what is wrong with the settings, all of it.
//!
//! clap stops at the first value that it cannot read. So each setting is read with all others taken as plain text.

use std::ffi::OsString;

use clap::{Arg, ArgMatches, Command, builder::Resettable, value_parser};

use crate::{
    CHECK, Problems, Program, read,
    setting::{all, variable},
};

/// Whether the flag is there. What clap would refuse for another reason than a value is left to it.
pub(crate) fn is_asked_for(command: &Command, arguments: &[OsString]) -> bool {
    unread(command, arguments).is_ok_and(|matches| matches.get_flag(CHECK))
}

pub(crate) fn check<P: Program>(command: &Command, arguments: &[OsString]) -> Problems {
    let mut problems = Problems::default();
    let Ok(given) = unread(command, arguments) else { return problems };
    for setting in all(command) {
        if setting.is_required_set() && !given.contains_id(setting.get_id().as_str()) {
            problems.add(missing(setting));
        } else if let Err(error) = read_alone(command, setting, arguments) {
            problems.add(in_one_line(&error));
        }
    }
    if !problems.is_empty() {
        problems.add("once these can be read, check again: whether they fit together is not known yet");
        return problems;
    }
    match read::<P>(command.clone(), arguments.to_vec()) {
        Ok((program, _)) => program.check(&mut problems),
        Err(error) => problems.add(in_one_line(&error)),
    }
    problems
}

/// The values, none of them read.
fn unread(command: &Command, arguments: &[OsString]) -> Result<ArgMatches, clap::Error> {
    command.clone().mut_args(as_text).try_get_matches_from(arguments)
}

/// The values, of which one alone is read.
fn read_alone(command: &Command, setting: &Arg, arguments: &[OsString]) -> Result<ArgMatches, clap::Error> {
    let id = setting.get_id();
    let alone = |it: Arg| if it.get_id() == id { by_itself(it) } else { as_text(it) };
    command.clone().mut_args(alone).try_get_matches_from(arguments)
}

fn as_text(argument: Arg) -> Arg {
    if argument.get_env().is_none() {
        return argument;
    }
    by_itself(argument).value_parser(value_parser!(OsString))
}

/// Without what it says of others.
fn by_itself(argument: Arg) -> Arg {
    argument.required(false).conflicts_with(Resettable::Reset)
}

fn missing(setting: &Arg) -> String {
    let help = setting.get_help().map(ToString::to_string).unwrap_or_default();
    format!("{} (--{}) is not set: {help}", variable(setting), setting.get_long().unwrap_or_default())
}

/// What clap says, without what follows: how to ask for help.
fn in_one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    text.lines().take_while(|line| !line.trim().is_empty()).map(str::trim).collect::<Vec<_>>().join(" ")
}
