//! `--print-config`: the settings in effect.
//!
//! The form is that of an environment file, and not TOML, because variables are what deployments set: what is printed by
//! one process can be given to another, and two of them can be compared line by line. Values stand as they are: who reads
//! such files (docker, podman, kubectl) takes the whole rest of the line, and shells are not among them.

use clap::{Arg, ArgMatches, Command, parser::ValueSource};

use crate::setting::{all, separator, variable};

/// Every setting, in the order of the help: a comment that says where it comes from, and `VARIABLE=value`. What is not
/// set, and what is secret, is a comment altogether. `shown` is what may be shown of secrets.
pub(crate) fn print(command: &Command, matches: &ArgMatches, shown: &[(&str, String)]) -> String {
    let version = command.get_version().unwrap_or("of an unknown version");
    let mut out = format!("# {} {version}: the settings in effect\n", command.get_name());
    for setting in all(command) {
        let variable = variable(setting);
        let Some(values) = matches.get_raw(setting.get_id().as_str()) else {
            out += &format!("\n# not set\n# {variable}=\n");
            continue;
        };
        let values: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
        let value = values.join(&separator(setting));
        let source = source(setting, matches);
        out += &if setting.is_hide_env_values_set() {
            let shown = shown.iter().find(|(name, _)| *name == variable);
            let shown = shown.map_or("", |(_, shown)| shown);
            format!(
                "\n# {source}; a secret, not shown: take it from where it is kept\n# {variable}={shown}\n"
            )
        } else if value.contains(['\n', '\r']) {
            format!("\n# {source}; it has line ends, which such a file cannot have\n# {variable}={value:?}\n")
        } else {
            format!("\n# {source}\n{variable}={value}\n")
        };
    }
    out
}

fn source(setting: &Arg, matches: &ArgMatches) -> String {
    match matches.value_source(setting.get_id().as_str()) {
        Some(ValueSource::CommandLine) => format!("from --{}", setting.get_long().unwrap_or_default()),
        Some(ValueSource::EnvVariable) => "from the environment".to_owned(),
        _ => "default".to_owned(),
    }
}
