//! The overlays, rendered and read.

use std::{collections::BTreeMap, path::PathBuf, process::Command};

use saphyr::{LoadableYamlNode as _, Scalar, Yaml};
use serde_json::{Map, Value, json};

/// The overlays of `deploy/overlays`.
pub(crate) const OVERLAYS: [&str; 3] = ["production", "small", "traced"];
pub(crate) const SERVICES: [&str; 3] = ["registry", "event-ingest", "invoker"];

/// The folder `deploy`.
pub(crate) fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../../deploy"].iter().collect()
}

/// One overlay as it is applied.
pub(crate) struct Overlay {
    pub(crate) name: &'static str,
    objects: Vec<Value>,
}

impl Overlay {
    pub(crate) fn all() -> [Self; OVERLAYS.len()] {
        OVERLAYS.map(|name| {
            let render =
                Command::new("kubectl").arg("kustomize").arg(folder().join("overlays").join(name)).output();
            let render = render.expect("kubectl runs; `make tools` installs it into .tools/py/bin");
            assert!(render.status.success(), "{name}: {}", String::from_utf8_lossy(&render.stderr));
            let text = String::from_utf8(render.stdout).expect("YAML is UTF-8");
            let documents = Yaml::load_from_str(&text).expect("kubectl prints YAML");
            Self { name, objects: documents.iter().map(value).collect() }
        })
    }

    /// All objects.
    pub(crate) fn objects(&self) -> &[Value] {
        &self.objects
    }

    /// All objects of a kind.
    pub(crate) fn of(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.objects.iter().filter(move |object| object["kind"] == kind)
    }

    /// The object of this kind and name.
    pub(crate) fn get(&self, kind: &str, name: &str) -> &Value {
        let found = self.of(kind).find(|object| object["metadata"]["name"] == name);
        found.unwrap_or_else(|| panic!("{}: there is no {kind} {name}", self.name))
    }

    /// All that have pods, by name.
    pub(crate) fn workloads(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.objects
            .iter()
            .filter(|object| object["spec"]["template"]["spec"]["containers"].is_array())
            .map(|object| (text(&object["metadata"]["name"]), &object["spec"]["template"]["spec"]))
    }

    /// The pods of a deployment.
    pub(crate) fn pod(&self, name: &str) -> &Value {
        &self.get("Deployment", name)["spec"]["template"]["spec"]
    }
}

/// The one container of a pod.
pub(crate) fn container(pod: &Value) -> &Value {
    let containers = list(&pod["containers"]);
    assert_eq!(containers.len(), 1);
    &containers[0]
}

/// The environment of a container. What a Secret or ConfigMap holds is not known here, and is `<from NAME>`.
pub(crate) fn environment(container: &Value) -> BTreeMap<&str, String> {
    let entries = list(&container["env"]).iter().map(|entry| {
        let value = match &entry["valueFrom"] {
            Value::Null => text(&entry["value"]).to_owned(),
            from => {
                let reference =
                    [&from["secretKeyRef"], &from["configMapKeyRef"]].into_iter().find(|it| it.is_object());
                format!("<from {}>", text(&reference.expect("a Secret or ConfigMap")["name"]))
            }
        };
        (text(&entry["name"]), value)
    });
    let environment: BTreeMap<_, _> = entries.collect();
    assert_eq!(environment.len(), list(&container["env"]).len(), "a variable is there twice");
    environment
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is not a text"))
}

pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub(crate) fn texts(value: &Value) -> Vec<&str> {
    list(value).iter().map(text).collect()
}

fn value(yaml: &Yaml<'_>) -> Value {
    match yaml {
        Yaml::Value(Scalar::Null) => Value::Null,
        Yaml::Value(Scalar::Boolean(it)) => json!(it),
        Yaml::Value(Scalar::Integer(it)) => json!(it),
        Yaml::Value(Scalar::FloatingPoint(it)) => json!(it.into_inner()),
        Yaml::Value(Scalar::String(it)) => json!(it),
        Yaml::Sequence(items) => items.iter().map(value).collect(),
        Yaml::Mapping(entries) => {
            let entries = entries.iter().map(|(key, entry)| (text(&value(key)).to_owned(), value(entry)));
            Value::Object(entries.collect::<Map<_, _>>())
        }
        other => panic!("Kubernetes knows no such YAML: {other:?}"),
    }
}
