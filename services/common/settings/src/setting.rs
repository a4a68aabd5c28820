//! What a setting is.

use clap::{Arg, Command};

/// A setting of a program: a flag that an environment variable sets, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The variable.
    pub variable: String,
    /// The flag, without its dashes.
    pub flag: String,
    /// What its value is called, such as `DURATION`.
    pub value_name: String,
    /// The value if it is not set; `None` if there is none.
    pub default: Option<String>,
    /// The only values, if they are few.
    pub choices: Vec<String>,
    /// Whether the program does not run without it.
    pub is_required: bool,
    /// Whether its value is shown nowhere.
    pub is_secret: bool,
    /// What it means, in a sentence or several.
    pub meaning: String,
}

/// The settings of a program, in the order of its help.
pub fn settings<P: clap::CommandFactory>() -> Vec<Setting> {
    let mut command = P::command();
    command.build();
    all(&command).map(describe).collect()
}

/// The arguments that are settings. Some are hidden from the help: they are not for operators.
pub(crate) fn all(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|it| it.get_env().is_some() && !it.is_hide_set())
}

pub(crate) fn variable(setting: &Arg) -> String {
    setting.get_env().unwrap_or_default().to_string_lossy().into_owned()
}

/// What stands between the values of a setting that has several.
pub(crate) fn separator(setting: &Arg) -> String {
    setting.get_value_delimiter().unwrap_or(',').to_string()
}

fn describe(setting: &Arg) -> Setting {
    let defaults: Vec<_> =
        setting.get_default_values().iter().map(|it| it.to_string_lossy().into_owned()).collect();
    let choices = setting.get_possible_values();
    let help = setting.get_long_help().or(setting.get_help()).map(ToString::to_string).unwrap_or_default();
    Setting {
        variable: variable(setting),
        flag: setting.get_long().unwrap_or_default().to_owned(),
        value_name: setting.get_value_names().unwrap_or_default().join(" "),
        default: (!defaults.is_empty()).then(|| defaults.join(&separator(setting))),
        choices: choices.iter().map(|it| it.get_name().to_owned()).collect(),
        is_required: setting.is_required_set(),
        is_secret: setting.is_hide_env_values_set(),
        meaning: help,
    }
}
