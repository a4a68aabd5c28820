//! docs/SETTINGS.md: the settings of the three services.

use std::fmt::Write as _;

use chatfn_settings::{Setting, settings};

use crate::{cell, check};

const INTRODUCTION: &str = "\
# Settings

Each setting is a flag and an environment variable of the programs that have it; a flag wins. `chatfn-… --help` says the same.
This page is made of the programs (`make docs`), and a test compares them.

- `chatfn-… --check-config` says all that is wrong with the settings and the files they name, and what to change; with exit code 0
  if nothing is, with 2 otherwise. It opens no port and no connection, and can run anywhere with the same variables and files: before a
  roll-out, in an init container, on a laptop.
- `chatfn-… --print-config` prints what is in effect, and of each setting whether it comes from its flag, the environment or the default.
  The lines are those of an environment file (`docker --env-file`, `kubectl create configmap --from-env-file`), in an order that stays the
  same, so that two of them can be compared. Secrets are left out.

Durations are a whole number and a unit: `250ms`, `10s`, `5m`, `1h`. What has several values takes them with commas between.
**Required** settings have no default; *secret* ones are shown nowhere, so give them by the environment: others can see a command line.
";

#[test]
fn settings_are_those_of_the_programs() {
    let programs = [
        ("registry", settings::<chatfn_registry::Cli>()),
        ("invoker", settings::<chatfn_invoker::Cli>()),
        ("event-ingest", settings::<chatfn_event_ingest::Cli>()),
    ];
    check("SETTINGS.md", &page(&programs));
}

fn page(programs: &[(&str, Vec<Setting>)]) -> String {
    let having = |setting: &Setting| -> Vec<&str> {
        programs.iter().filter(|(_, all)| all.contains(setting)).map(|(name, _)| *name).collect()
    };
    let mut page = INTRODUCTION.to_owned();
    for (name, all) in programs {
        let own: Vec<_> = all.iter().filter(|it| having(it).len() == 1).collect();
        write!(page, "\n## {name}\n\n{}", table(&own, |_| String::new())).unwrap();
    }
    let mut shared: Vec<&Setting> = Vec::new();
    for setting in programs.iter().flat_map(|(_, all)| all) {
        if having(setting).len() > 1 && !shared.contains(&setting) {
            shared.push(setting);
        }
    }
    let of = |setting: &Setting| match having(setting) {
        names if names.len() == programs.len() => String::new(),
        names => format!(" *({})*", names.join(", ")),
    };
    write!(page, "\n## Several services\n\nAll three, unless some are named.\n\n{}", table(&shared, of))
        .unwrap();
    page
}

fn table(settings: &[&Setting], of: impl Fn(&Setting) -> String) -> String {
    let mut table = "| variable, flag | default | meaning |\n|---|---|---|\n".to_owned();
    for it in settings {
        let default = match &it.default {
            Some(default) => format!("`{default}`"),
            None if it.is_required => "**required**".to_owned(),
            None => "not set".to_owned(),
        };
        let secret = if it.is_secret { ", *secret*" } else { "" };
        let mut meaning = it.meaning.split("\n\n").map(cell).collect::<Vec<_>>().join("<br>");
        if !it.choices.is_empty() {
            let choices: Vec<_> = it.choices.iter().map(|choice| format!("`{choice}`")).collect();
            write!(meaning, " ({})", choices.join(", ")).unwrap();
        }
        writeln!(
            table,
            "| `{}`<br>`--{} {}`{} | {default}{secret} | {meaning} |",
            it.variable,
            it.flag,
            it.value_name,
            of(it)
        )
        .unwrap();
    }
    table
}
