//! `docs/METRICS.md` is what the crates declare.

use std::{collections::BTreeSet, env, fs, path::PathBuf};

use chatfn_telemetry::{Kind, Metric, reference};

/// The sections of the page: what each is about, and whose metrics it has.
const SECTIONS: &[(&str, &str, &[Metric])] = &[
    (
        "event-ingest",
        "At `CHATFN_TELEMETRY_LISTEN`, by default 127.0.0.1:9092.",
        chatfn_event_ingest::METRICS,
    ),
    ("invoker", "At 127.0.0.1:9091.", chatfn_invoker::METRICS),
    ("registry", "At 127.0.0.1:9090.", chatfn_registry::METRICS),
    (
        "What is live",
        "Of event-ingest and the invoker, which watch the registry.",
        chatfn_deployments::METRICS,
    ),
    ("gRPC", "Of all services: as servers, and as clients of one another.", chatfn_rpc::METRICS),
    ("Connections to Postgres", "Of event-ingest and the registry.", chatfn_pg::metrics::METRICS),
    ("The process", "Of all services.", chatfn_telemetry::METRICS),
];

const HEAD: &str = "# Metrics

<!-- Made of what the crates declare in their metrics.rs; `make metrics-doc` writes it again. -->

Each service tells of itself over HTTP, on an address of its own (`--telemetry-listen`, `CHATFN_TELEMETRY_LISTEN`; `off` for
none): `/metrics` in the format OpenMetrics 1.0, `/livez` (the process answers), `/readyz` (what gRPC health says). It does so
from its start to the end of its shutdown. [SECURITY.md](SECURITY.md#metrics) says who may ask.

Labels have few values, all known beforehand: none is an id, and nothing that a caller sends becomes one. Counters and
histograms begin at 0 with the process; those with a label that is an enum have all its values from then on. Times are in
seconds, sizes in bytes.
";

fn page() -> String {
    let sections = SECTIONS
        .iter()
        .map(|(name, about, metrics)| format!("\n## {name}\n\n{about}\n\n{}", reference(metrics)));
    std::iter::once(HEAD.to_owned()).chain(sections).collect()
}

fn all() -> impl Iterator<Item = &'static Metric> {
    SECTIONS.iter().flat_map(|(_, _, metrics)| *metrics)
}

#[test]
fn the_page_is_what_is_declared() {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../../docs/METRICS.md"].iter().collect();
    let page = page();
    if env::var_os("CHATFN_WRITE_METRICS").is_some() {
        fs::write(&path, page).expect("docs/ can be written");
        return;
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    let differs = written.lines().zip(page.lines()).find(|(written, declared)| written != declared);
    assert!(
        written == page,
        "docs/METRICS.md is not what is declared: write it again by `make metrics-doc`. First difference: {differs:?}"
    );
}

#[test]
fn names_say_what_they_are_and_labels_are_bounded() {
    let mut names = BTreeSet::new();
    for metric in all() {
        let Metric { name, kind, labels, meaning, when_off } = metric;
        assert!(names.insert(name), "{name} is declared twice");
        assert!(name.starts_with("chatfn_") && !name.ends_with('_'), "{name}");
        assert!(
            name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'),
            "{name}"
        );
        assert_eq!(*kind == Kind::Counter, name.ends_with("_total"), "{name}");
        assert!(
            meaning.ends_with('.') && (when_off.is_empty() || when_off.ends_with('.')),
            "{name}: sentences"
        );
        if let Kind::Histogram(bounds) = kind {
            assert!(bounds.is_sorted() && bounds.len() <= 20, "{name}: {bounds:?}");
        }
        for label in *labels {
            for id in [
                "account",
                "function",
                "conversation",
                "lane",
                "event",
                "template",
                "version_id",
                "peer",
                "user",
            ] {
                assert!(label.name != id, "{name} has the label {id}, whose values have no bound");
            }
            assert!(label.values.is_empty() != label.origin.is_empty(), "{name}: {label:?}");
            assert!(
                label.values.iter().collect::<BTreeSet<_>>().len() == label.values.len(),
                "{name}: {label:?}"
            );
        }
    }
}
