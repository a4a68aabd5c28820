//! docs/WALKTHROUGH.md says what happens: its commands are run against a cluster, and what they print is compared.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use chatfn_tests::cluster::Cluster;

/// A block of commands, with what the document says they print.
struct Step {
    line: usize,
    commands: String,
    /// `…` stands for anything within a line, and as a line for any lines. `None`: nothing is said.
    output: Option<String>,
}

/// Blocks in the order of the document. What a `sh` block prints is in the `json` or `text` block after it.
fn steps(document: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut block: Option<(&str, usize, String)> = None;
    for (index, line) in document.lines().enumerate() {
        match (&mut block, line.strip_prefix("```")) {
            (None, Some(language)) => block = Some((language, index + 1, String::new())),
            (Some((_, _, text)), None) => {
                text.push_str(line);
                text.push('\n');
            }
            (Some(_), Some(_)) => {
                let (language, line, text) = block.take().expect("a block is open");
                match language {
                    "sh" => steps.push(Step { line, commands: text, output: None }),
                    "json" | "text" => {
                        let step = steps.last_mut().expect("an output follows commands");
                        assert!(step.output.replace(text).is_none(), "line {line}: a second output");
                    }
                    other => panic!("line {line}: blocks are sh, json or text, not {other:?}"),
                }
            }
            (None, None) => {}
        }
    }
    assert!(block.is_none(), "the last block is open");
    steps
}

/// One script of all steps, so that variables and files last; what each prints goes to a file of its number, and its
/// status to another.
fn script(steps: &[Step], addresses: [(&str, String); 3]) -> String {
    let mut script = String::from("set -u\n");
    for (number, step) in steps.iter().enumerate() {
        let commands =
            addresses.iter().fold(step.commands.clone(), |text, (from, to)| text.replace(from, to));
        writeln!(script, "exec >{number}.output 2>&1\n{commands}\necho $? >{number}.status").unwrap();
    }
    script
}

/// Whether `text` is what `pattern` says, line by line.
fn matches(pattern: &[&str], text: &[&str]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((&line, rest)), _) if line.trim() == "…" => {
            (0..=text.len()).any(|skipped| matches(rest, &text[skipped..]))
        }
        (Some((line, pattern)), Some((found, text))) => line_matches(line, found) && matches(pattern, text),
        _ => false,
    }
}

fn line_matches(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.trim_end().split('…');
    let Some(mut rest) = line.trim_end().strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[test]
fn the_wildcard_stands_for_what_it_says() {
    for (pattern, line, expected) in [
        ("a", "a", true),
        ("a", "ab", false),
        ("a…", "ab", true),
        ("…b", "ab", true),
        ("a…c…e", "abcde", true),
        ("a…c…e", "abde", false),
        ("a…a", "a", false),
    ] {
        assert_eq!(line_matches(pattern, line), expected, "{pattern} {line}");
    }
    assert!(matches(&["{", "…", "}"], &["{", "}"]));
    assert!(matches(&["{", "…", "}"], &["{", "  1", "}"]));
    assert!(!matches(&["{", "…", "}"], &["{", "  1"]));
}

#[tokio::test]
async fn the_document_says_what_happens() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap();
    let tools = root.join(".tools/py/bin");
    for tool in ["grpcurl", "jq"] {
        assert!(is_installed(tool, &tools), "{tool} is not installed: run `services/dev/setup.sh test`");
    }
    let document = fs::read_to_string(root.join("docs/WALKTHROUGH.md")).unwrap();
    let steps = steps(&document);
    let cluster = Cluster::start().await;
    let addresses = [
        ("127.0.0.1:50051", cluster.registry.address().to_string()),
        ("127.0.0.1:50052", cluster.invoker.address().to_string()),
        ("127.0.0.1:50053", cluster.event_ingest.address().to_string()),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([tools].into_iter().chain(std::env::split_paths(&path))).unwrap();
    let status = Command::new("bash")
        .args(["-c", &script(&steps, addresses)])
        .current_dir(folder.path())
        .env("PATH", path)
        .stdin(Stdio::null())
        .status();
    assert!(status.unwrap().success());

    let mut wrong = String::new();
    for (number, step) in steps.iter().enumerate() {
        let read = |what: &str| fs::read_to_string(folder.path().join(format!("{number}.{what}"))).unwrap();
        let (output, status) = (read("output"), read("status"));
        let expected = step.output.as_deref().unwrap_or_default();
        // A refusal is shown on purpose, and only then.
        let may_fail = expected.starts_with("ERROR:");
        let is_right = (status.trim() == "0") != may_fail
            && (step.output.is_none()
                || matches(&expected.lines().collect::<Vec<_>>(), &output.lines().collect::<Vec<_>>()));
        if !is_right {
            writeln!(wrong, "line {}: status {}, printed\n{output}", step.line, status.trim()).unwrap();
        }
    }
    assert!(wrong.is_empty(), "docs/WALKTHROUGH.md is wrong:\n{wrong}");
    assert!(steps.len() > 15, "the walk goes through the whole life of a function");
}

fn is_installed(tool: &str, tools: &Path) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain([PathBuf::from(tools)]).any(|folder| folder.join(tool).is_file())
}
