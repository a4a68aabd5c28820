//! What is in `deploy/monitoring`.

use std::{fs, path::PathBuf};

use saphyr::{LoadableYamlNode as _, Scalar, Yaml};
use serde_json::{Map, Value, json};

/// The folder of this repository.
pub(crate) fn repository() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../.."].iter().collect()
}

/// The folder `deploy/monitoring`.
pub(crate) fn folder() -> PathBuf {
    repository().join("deploy/monitoring")
}

/// A program of Prometheus: the one that was unpacked, or the one on the path.
pub(crate) fn prometheus_tool(name: &str) -> PathBuf {
    let unpacked = repository().join(".tools/prometheus/usr/bin").join(name);
    let unpacked = unpacked.canonicalize();
    unpacked.unwrap_or_else(|_| name.into())
}

/// An alert.
pub(crate) struct Alert {
    pub(crate) name: String,
    pub(crate) query: String,
    pub(crate) severity: String,
    pub(crate) summary: String,
    pub(crate) description: String,
    pub(crate) runbook: String,
}

impl Alert {
    pub(crate) fn all() -> Vec<Self> {
        let groups = read("alerts.yaml")["groups"].as_array().expect("groups").clone();
        let rules = groups.iter().flat_map(|group| group["rules"].as_array().expect("rules"));
        let all: Vec<Self> = rules
            .map(|rule| Self {
                name: text(&rule["alert"]),
                query: text(&rule["expr"]),
                severity: text(&rule["labels"]["severity"]),
                summary: text(&rule["annotations"]["summary"]),
                description: text(&rule["annotations"]["description"]),
                runbook: text(&rule["annotations"]["runbook"]),
            })
            .collect();
        assert!(!all.is_empty());
        all
    }
}

/// The tests of the alerts.
pub(crate) fn rule_tests() -> Vec<Value> {
    read("alerts.test.yaml")["tests"].as_array().expect("tests").clone()
}

/// What one place of the dashboard shows.
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) description: String,
    pub(crate) unit: String,
    pub(crate) datasource: String,
    /// Left, top, width, height.
    pub(crate) place: [u64; 4],
    pub(crate) queries: Vec<String>,
}

impl Panel {
    /// All but the rows' titles.
    pub(crate) fn all() -> Vec<Self> {
        let text_of_file = fs::read_to_string(folder().join("dashboard.json")).expect("the dashboard");
        let dashboard: Value = serde_json::from_str(&text_of_file).expect("JSON");
        let panels = dashboard["panels"].as_array().expect("panels").iter();
        panels
            .filter(|panel| panel["type"] != "row")
            .map(|panel| Self {
                title: text(&panel["title"]),
                description: text(&panel["description"]),
                unit: text(&panel["fieldConfig"]["defaults"]["unit"]),
                datasource: text(&panel["datasource"]["uid"]),
                place: ["x", "y", "w", "h"].map(|it| panel["gridPos"][it].as_u64().expect("a place")),
                queries: panel["targets"]
                    .as_array()
                    .expect("queries")
                    .iter()
                    .map(|it| text(&it["expr"]))
                    .collect(),
            })
            .collect()
    }
}

fn read(file: &str) -> Value {
    let text = fs::read_to_string(folder().join(file)).expect(file);
    let documents = Yaml::load_from_str(&text).expect("YAML");
    value(&documents[0])
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("a text: {value}")).to_owned()
}

fn value(yaml: &Yaml<'_>) -> Value {
    match yaml {
        Yaml::Value(Scalar::Integer(it)) => json!(it),
        Yaml::Value(Scalar::String(it)) => json!(it),
        Yaml::Sequence(items) => items.iter().map(value).collect(),
        Yaml::Mapping(entries) => {
            let entries = entries.iter().map(|(key, entry)| (text(&value(key)), value(entry)));
            Value::Object(entries.collect::<Map<_, _>>())
        }
        other => panic!("these files need no such YAML: {other:?}"),
    }
}
