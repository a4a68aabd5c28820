//! A real Prometheus that scrapes a cluster, with the alerts of `deploy/monitoring`.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{cluster::Cluster, eventually};

/// A Prometheus. It is killed, and forgets all, when it is dropped.
pub struct Prometheus {
    /// Where it answers.
    pub address: SocketAddr,
    process: Child,
    _folder: TempDir,
}

/// A series at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value; may be NaN.
    pub value: f64,
}

/// An alert as it was loaded.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// Its condition.
    pub query: String,
}

impl Prometheus {
    /// Starts one that scrapes the three services of a cluster each second, and waits until it serves.
    ///
    /// # Panics
    /// When there is no Prometheus: `services/dev/setup.sh test` unpacks one.
    pub async fn start(cluster: &Cluster) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let targets = [
            ("registry", cluster.registry.metrics()),
            ("invoker", cluster.invoker.metrics()),
            ("event-ingest", cluster.event_ingest.metrics()),
        ];
        let rules = monitoring().join("alerts.yaml");
        let mut config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\nrule_files: ['{}']\nscrape_configs:\n",
            rules.display()
        );
        for (job, address) in targets {
            let _ = writeln!(config, "- {{job_name: {job}, static_configs: [{{targets: ['{address}']}}]}}");
        }
        let path = folder.path().join("prometheus.yaml");
        fs::write(&path, config).expect("the folder can be written");
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("an address");
        drop(free);
        let process = Command::new(program())
            .arg(format!("--config.file={}", path.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=warn")
            .stdin(Stdio::null())
            .spawn()
            .expect("prometheus starts; `services/dev/setup.sh test` unpacks it into .tools");
        let prometheus = Self { address, process, _folder: folder };
        eventually("Prometheus serves", async || {
            let (status, _) = prometheus.get("/-/ready").await?;
            (status == 200).then_some(())
        })
        .await;
        prometheus
    }

    /// What a query gives now.
    ///
    /// # Panics
    /// When Prometheus refuses it.
    pub async fn query(&self, query: &str) -> Vec<Sample> {
        let encoded = query.bytes().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "%{byte:02X}");
            text
        });
        let answer = self.data(&format!("/api/v1/query?query={encoded}"), query).await;
        assert_eq!(answer["resultType"], "vector", "{query}");
        let samples = answer["result"].as_array().expect("samples").iter();
        samples
            .map(|sample| Sample {
                labels: serde_json::from_value(sample["metric"].clone()).expect("labels"),
                value: sample["value"][1].as_str().and_then(|it| it.parse().ok()).expect("a number"),
            })
            .collect()
    }

    /// The alerts that it watches.
    pub async fn rules(&self) -> Vec<Rule> {
        let answer = self.data("/api/v1/rules?type=alert", "rules").await;
        let groups = answer["groups"].as_array().expect("groups").iter();
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        groups
            .flat_map(|group| group["rules"].as_array().expect("rules"))
            .map(|rule| Rule { name: text(&rule["name"]), query: text(&rule["query"]) })
            .collect()
    }

    /// The summaries of what fires under this name now.
    pub async fn firing(&self, name: &str) -> Vec<String> {
        let answer = self.data("/api/v1/alerts", "alerts").await;
        let alerts = answer["alerts"].as_array().expect("alerts").iter();
        alerts
            .filter(|alert| alert["state"] == "firing" && alert["labels"]["alertname"] == name)
            .map(|alert| alert["annotations"]["summary"].as_str().expect("a summary").to_owned())
            .collect()
    }

    async fn data(&self, path: &str, what: &str) -> Value {
        let (status, body) = self.get(path).await.expect("Prometheus answers");
        assert_eq!(status, 200, "{what}: {body}");
        let mut answer: Value = serde_json::from_str(&body).expect("JSON");
        answer["data"].take()
    }

    /// Status and body of an answer; nothing if it does not listen.
    async fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(self.address).await.ok()?;
        // Of this version, so that the body is what comes until the end.
        let request = format!("GET {path} HTTP/1.0\r\nhost: {}\r\n\r\n", self.address);
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The folder `deploy/monitoring`.
pub fn monitoring() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/monitoring");
    folder.canonicalize().expect("deploy/monitoring")
}

/// The one that was unpacked, or the one on the path.
fn program() -> PathBuf {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/prometheus/usr/bin/prometheus");
    unpacked.canonicalize().unwrap_or_else(|_| "prometheus".into())
}
