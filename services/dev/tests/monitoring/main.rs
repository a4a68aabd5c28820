//! What `deploy/monitoring` says fits what the services tell, and is explained. Whether it holds of a running cluster is
//! asked by the black-box tests.

mod files;
mod selectors;

use std::{collections::BTreeSet, fs, process::Command};

use chatfn_telemetry::{Kind, Metric};
use serde_json::Value;

use crate::{
    files::{Alert, Panel, folder, prometheus_tool, repository, rule_tests},
    selectors::{Selector, selectors},
};

fn declared() -> impl Iterator<Item = &'static Metric> {
    [
        chatfn_event_ingest::METRICS,
        chatfn_invoker::METRICS,
        chatfn_registry::METRICS,
        chatfn_deployments::METRICS,
        chatfn_rpc::METRICS,
        chatfn_pg::metrics::METRICS,
        chatfn_telemetry::METRICS,
    ]
    .into_iter()
    .flatten()
}

/// The metric whose series have this name.
fn of_series(name: &str) -> Option<&'static Metric> {
    declared().find(|metric| match metric.kind {
        Kind::Histogram(_) => ["_bucket", "_sum", "_count"]
            .iter()
            .any(|suffix| name.strip_suffix(suffix).is_some_and(|base| base == metric.name)),
        Kind::Counter | Kind::Gauge => name == metric.name,
    })
}

/// All queries, and where each is.
fn queries() -> Vec<(String, String)> {
    let panels = Panel::all();
    let of_panels = panels
        .iter()
        .flat_map(|panel| panel.queries.iter().map(|query| (panel.title.clone(), query.clone())));
    of_panels.chain(Alert::all().into_iter().map(|alert| (alert.name, alert.query))).collect()
}

fn promtool(arguments: &[&str]) {
    let output = Command::new(prometheus_tool("promtool")).args(arguments).current_dir(folder()).output();
    let output = output.expect("promtool runs; `services/dev/setup.sh test` unpacks it into .tools");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "promtool {arguments:?}:\n{}", String::from_utf8_lossy(&said));
}

#[test]
fn every_alert_fires_when_it_must_and_none_when_all_is_well() {
    promtool(&["check", "rules", "alerts.yaml"]);
    promtool(&["test", "rules", "alerts.test.yaml"]);
}

#[test]
fn no_alert_is_left_unproven() {
    let tests = rule_tests();
    let (healthy, others) = tests.split_first().expect("tests");
    assert_eq!(healthy["name"], "healthy");
    let series = |test: &Value| -> BTreeSet<String> {
        let series = test["input_series"].as_array().expect("series").iter();
        series.flat_map(|it| selectors(it["series"].as_str().expect("a series"))).map(|it| it.name).collect()
    };
    let well = series(healthy);
    for alert in Alert::all() {
        let firing = format!("ALERTS{{alertname=\"{}\", alertstate=\"firing\"", alert.name);
        let test = others.iter().find(|test| test["name"] == *alert.name);
        let test = test.unwrap_or_else(|| panic!("{} has no test", alert.name));
        let expected = test["promql_expr_test"].as_array().expect("expectations").iter();
        let mut samples = expected.flat_map(|it| it["exp_samples"].as_array().expect("samples"));
        assert!(
            samples.any(|sample| sample["labels"].as_str().is_some_and(|labels| labels.starts_with(&firing))),
            "the test {} does not see it fire",
            alert.name
        );
        for selector in selectors(&alert.query) {
            assert!(
                well.contains(&selector.name),
                "{} has no series in the test of what is well",
                selector.name
            );
        }
    }
    for test in others {
        assert!(
            Alert::all().iter().any(|alert| test["name"] == *alert.name),
            "{}: no such alert",
            test["name"]
        );
    }
}

#[test]
fn series_and_labels_are_what_the_services_declare() {
    for (place, query) in queries() {
        let selectors = selectors(&query);
        assert!(!selectors.is_empty(), "{place}: {query} asks for nothing");
        for Selector { name, matchers } in selectors {
            if name == "up" {
                continue;
            }
            let metric = of_series(&name).unwrap_or_else(|| panic!("{place}: no service declares {name}"));
            for (label, values) in matchers {
                // What Prometheus itself adds.
                if label == "job" {
                    assert!(
                        values
                            .iter()
                            .all(|it| ["registry", "invoker", "event-ingest"].contains(&it.as_str())),
                        "{place}: {values:?}"
                    );
                    continue;
                }
                if label == "le" {
                    let Kind::Histogram(bounds) = metric.kind else { panic!("{place}: {name} has no le") };
                    let bound: f64 = values[0].parse().expect("a number");
                    assert!(bounds.contains(&bound), "{place}: {name} has no bound {bound}");
                    continue;
                }
                let declared = metric.labels.iter().find(|it| it.name == label);
                let declared = declared.unwrap_or_else(|| panic!("{place}: {name} has no label {label}"));
                for value in values {
                    assert!(
                        declared.values.is_empty() || declared.values.contains(&value.as_str()),
                        "{place}: {label} of {name} is never {value}"
                    );
                }
            }
        }
    }
}

#[test]
fn every_alert_says_what_it_means_and_what_to_do() {
    let playbooks = fs::read_to_string(repository().join("docs/PLAYBOOKS.md")).expect("docs/PLAYBOOKS.md");
    let headings: Vec<&str> = playbooks
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .filter(|it| it.starts_with("Chatfn"))
        .collect();
    let alerts = Alert::all();
    for Alert { name, severity, summary, description, runbook, .. } in &alerts {
        assert!(["critical", "warning", "info"].contains(&severity.as_str()), "{name}: {severity}");
        assert!(!summary.is_empty() && !summary.ends_with('.'), "{name}: {summary}");
        assert!(description.ends_with('.'), "{name}: sentences");
        assert_eq!(*runbook, format!("docs/PLAYBOOKS.md#{}", name.to_lowercase()), "{name}");
        assert!(headings.contains(&name.as_str()), "docs/PLAYBOOKS.md has no heading {name}");
    }
    let names: Vec<&str> = alerts.iter().map(|alert| alert.name.as_str()).collect();
    assert_eq!(headings, names, "the headings of docs/PLAYBOOKS.md are the alerts, in their order");
}

#[test]
fn every_panel_says_what_it_shows() {
    let panels = Panel::all();
    let mut taken = BTreeSet::new();
    for Panel { title, description, unit, datasource, place: [x, y, width, height], queries } in &panels {
        assert!(description.ends_with('.'), "{title}: sentences");
        assert!(!unit.is_empty(), "{title} has no unit");
        assert_eq!(datasource, "${datasource}", "{title}: whoever loads it chooses the data source");
        assert!(!queries.is_empty(), "{title} asks for nothing");
        for cell in (*x..x + width).flat_map(|x| (*y..y + height).map(move |y| (x, y))) {
            assert!(cell.0 < 24 && taken.insert(cell), "{title} does not fit at {cell:?}");
        }
    }
    assert!(panels.len() > 20);
}
