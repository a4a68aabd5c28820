use std::ffi::OsString;

use clap::Parser;

use super::{Outcome, Problems, Program, inspect, settings};

/// A program of the tests. Its variables are of no other program, and not set.
#[derive(Debug, Parser)]
#[command(name = "chatfn-test", version = "1.2.3")]
struct Cli {
    /// Where it listens
    #[arg(long, env = "CHATFN_SETTINGS_TEST_LISTEN", default_value = "127.0.0.1:1", value_name = "ADDRESS")]
    listen: std::net::SocketAddr,

    /// Where its data are
    ///
    /// In full.
    #[arg(long, env = "CHATFN_SETTINGS_TEST_URL", hide_env_values = true)]
    url: String,

    /// How many
    #[arg(long, env = "CHATFN_SETTINGS_TEST_COUNTS", value_delimiter = ',')]
    counts: Vec<u8>,

    /// A name
    #[arg(long, env = "CHATFN_SETTINGS_TEST_NAME")]
    name: Option<String>,

    /// Another, which goes not with it
    #[arg(long, env = "CHATFN_SETTINGS_TEST_OTHER", conflicts_with = "name")]
    other: Option<String>,

    /// Not for operators
    #[arg(long, hide = true, env = "CHATFN_SETTINGS_TEST_HIDDEN")]
    hidden: bool,

    /// No setting
    #[arg(long)]
    once: bool,
}

impl Program for Cli {
    fn check(&self, problems: &mut Problems) {
        if self.counts.len() > 2 {
            problems.check_flag("counts", Err::<(), _>("there must be two at most"));
        }
        if self.name.as_deref() == Some("") {
            problems.add("--name must not be empty");
            problems.add("--name must not be empty");
        }
    }

    fn shown(&self) -> Vec<(&'static str, String)> {
        vec![("CHATFN_SETTINGS_TEST_URL", self.url.replace("hunter2", "***"))]
    }
}

/// What is said, by which of the two ways, and the code.
fn said(arguments: &[&str]) -> (String, String, u8) {
    match run(arguments) {
        Outcome::Said { out, err, code } => (out, err, code),
        Outcome::Run(cli) => panic!("it runs: {cli:?}"),
        Outcome::Refused(error) => panic!("{error}"),
    }
}

fn run(arguments: &[&str]) -> Outcome<Cli> {
    inspect(["chatfn-test"].iter().chain(arguments).map(OsString::from).collect())
}

#[test]
fn without_a_question_it_runs() {
    assert!(matches!(run(&["--url=x"]), Outcome::Run(_)));
    assert!(matches!(run(&[]), Outcome::Refused(_)), "clap complains as ever");
    assert!(matches!(run(&["--check-config", "--help"]), Outcome::Refused(_)), "help is help");
    assert!(matches!(run(&["--check-config", "--no-such-flag"]), Outcome::Refused(_)));
}

#[test]
fn all_that_cannot_be_read_is_named() {
    let (out, err, code) = said(&["--check-config", "--listen=here", "--counts=1,300,2"]);
    assert_eq!((out.as_str(), code), ("", 2));
    let lines: Vec<_> = err.lines().collect();
    assert_eq!(lines[0], "chatfn-test: 4 problems with the settings");
    assert!(lines[1].starts_with("- invalid value 'here' for '--listen <ADDRESS>'"), "{err}");
    assert_eq!(lines[2], "- CHATFN_SETTINGS_TEST_URL (--url) is not set: Where its data are");
    assert!(lines[3].starts_with("- invalid value '300' for '--counts <COUNTS>'"), "{err}");
    assert!(lines[4].starts_with("- once these can be read"));
}

#[test]
fn what_can_be_read_is_checked_against_one_another() {
    let (out, err, code) = said(&["--check-config", "--url=hunter2", "--counts=1,2,3", "--name="]);
    let expected = "chatfn-test: 2 problems with the settings\n- --counts: there must be two at most\n\
                    - --name must not be empty\n";
    assert_eq!((out.as_str(), err.as_str(), code), ("", expected, 2));
    let (_, err, code) = said(&["--check-config", "--url=x", "--name=a", "--other=b"]);
    assert!(err.contains("cannot be used with") && code == 2, "{err}");
    let good = said(&["--url=x", "--check-config"]);
    assert_eq!(good, ("chatfn-test: the settings can be used\n".to_owned(), String::new(), 0));
}

#[test]
fn what_is_printed_is_what_is_in_effect() {
    let (out, err, code) =
        said(&["--print-config", "--url=me:hunter2@db", "--counts=1,2", "--name=a b", "--hidden"]);
    assert_eq!((err.as_str(), code), ("", 0));
    assert_eq!(
        out,
        "# chatfn-test 1.2.3: the settings in effect\n\
         \n# default\nCHATFN_SETTINGS_TEST_LISTEN=127.0.0.1:1\n\
         \n# from --url; a secret, not shown: take it from where it is kept\n# CHATFN_SETTINGS_TEST_URL=me:***@db\n\
         \n# from --counts\nCHATFN_SETTINGS_TEST_COUNTS=1,2\n\
         \n# from --name\nCHATFN_SETTINGS_TEST_NAME=a b\n\
         \n# not set\n# CHATFN_SETTINGS_TEST_OTHER=\n"
    );
}

#[test]
fn a_value_of_two_lines_is_no_line_of_its_own() {
    let (out, ..) = said(&["--print-config", "--url=x", "--name=a\nCHATFN_SETTINGS_TEST_OTHER=b"]);
    assert!(out.contains("\n# CHATFN_SETTINGS_TEST_NAME=\"a\\nCHATFN"), "{out}");
    assert!(!out.contains("\nCHATFN_SETTINGS_TEST_OTHER"), "{out}");
}

#[test]
fn settings_are_described() {
    let all = settings::<Cli>();
    let flags: Vec<_> = all.iter().map(|it| it.flag.as_str()).collect();
    assert_eq!(flags, ["listen", "url", "counts", "name", "other"]);
    assert_eq!(all[0].default.as_deref(), Some("127.0.0.1:1"));
    assert!(all[1].is_required && all[1].is_secret && all[1].default.is_none());
    assert_eq!(all[1].meaning, "Where its data are\n\nIn full.");
}
