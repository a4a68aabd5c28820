//! The programs as the manifests start and probe them.

use std::{collections::BTreeMap, path::PathBuf, process::Command, time::Duration};

use chatfn_rpc::HEALTH_LIMIT;
use chatfn_telemetry::{EndpointArgs, Listen, TelemetryArgs, TracesArgs};
use clap::Args as _;
use serde_json::Value;

use crate::manifests::{Overlay, SERVICES, container, environment, texts};

/// The settings that an environment is for a service, as its own parser reads them.
pub(crate) struct Settings {
    pub(crate) listen: std::net::SocketAddr,
    /// Where it is scraped, and that others may.
    pub(crate) endpoint: EndpointArgs,
    pub(crate) calls: Vec<http::Uri>,
    pub(crate) longest_shutdown: Duration,
    /// What is bounded by the longest run of a function.
    pub(crate) drain_runs: Duration,
    pub(crate) rpc: chatfn_rpc::ServerConfig,
    pub(crate) security: chatfn_rpc::SecurityConfig,
    pub(crate) traces: TracesArgs,
    /// How many connections to Postgres a replica may have.
    pub(crate) connections: u32,
    /// The invoker's.
    pub(crate) invoker: Option<chatfn_invoker::Config>,
}

impl Settings {
    /// The port at which it is scraped, by whoever reaches it.
    pub(crate) fn metrics_port(&self) -> u16 {
        match self.endpoint {
            EndpointArgs { telemetry_listen: Some(Listen::At(address)), telemetry_expose: true } => {
                assert!(address.ip().is_unspecified());
                address.port()
            }
            other => panic!("it cannot be scraped: {other:?}"),
        }
    }

    pub(crate) fn read(service: &str, environment: &BTreeMap<&str, String>) -> Self {
        match service {
            "registry" => {
                let it: chatfn_registry::Config = parse(environment);
                Self {
                    listen: it.listen,
                    endpoint: it.endpoint,
                    longest_shutdown: it.longest_shutdown(),
                    calls: vec![it.invoker],
                    connections: it.database.max_connections + it.watch_connections,
                    // It runs none.
                    drain_runs: Duration::MAX,
                    rpc: it.rpc,
                    security: it.security,
                    traces: it.traces,
                    invoker: None,
                }
            }
            "event-ingest" => {
                let it: chatfn_event_ingest::Config = parse(environment);
                it.validate().expect("the settings fit together");
                Self {
                    connections: connections_of_ingest(&it),
                    listen: it.listen,
                    endpoint: it.endpoint,
                    longest_shutdown: it.longest_shutdown(),
                    calls: vec![it.registry, it.invoker],
                    drain_runs: it.dispatch.drain_runs,
                    rpc: it.rpc,
                    security: it.security,
                    traces: it.traces,
                    invoker: None,
                }
            }
            "invoker" => {
                let it: chatfn_invoker::Config = parse(environment);
                it.validate().expect("the settings fit together");
                Self {
                    listen: it.listen,
                    endpoint: it.endpoint,
                    longest_shutdown: it.longest_shutdown(),
                    calls: vec![it.registry.clone()],
                    drain_runs: it.rpc.drain_timeout,
                    rpc: it.rpc.clone(),
                    security: it.security.clone(),
                    traces: it.traces.clone(),
                    connections: 0,
                    invoker: Some(it),
                }
            }
            other => panic!("there is no service {other}"),
        }
    }
}

/// As its `Pools` have them: two for each committer and journal writer, two for leases, one for days, two for looks at old events, and as many as are set for
/// what lanes read, and for what callers do.
fn connections_of_ingest(config: &chatfn_event_ingest::Config) -> u32 {
    let sessions = config.committers.committers + config.dispatch.journal_writers;
    2 * u32::try_from(sessions).expect("a few") + 2 + 1 + 2 + 2 * config.database.max_connections
}

/// Each variable must be one that the program reads, and each setting that it insists on must be among them: what this
/// test's own environment holds does not count.
fn parse<C: clap::Parser>(environment: &BTreeMap<&str, String>) -> C {
    let mut command = C::command();
    // Some programs flatten these beside the service's settings, others have them among these.
    if command.get_arguments().all(|it| it.get_id() != "log_format") {
        command = TelemetryArgs::augment_args(command);
    }
    command.build();
    let flags: BTreeMap<_, _> = command
        .get_arguments()
        .filter_map(|it| Some((it.get_env()?.to_str()?.to_owned(), it.get_long()?.to_owned())))
        .collect();
    for argument in command.get_arguments().filter(|it| it.is_required_set()) {
        let variable =
            argument.get_env().and_then(|it| it.to_str()).expect("a container sets it by a variable");
        assert!(environment.contains_key(variable), "{} needs {variable}", command.get_name());
    }
    let arguments = environment.iter().map(|(variable, value)| {
        let flag = flags.get(*variable);
        let flag = flag.unwrap_or_else(|| panic!("{} reads no variable {variable}", command.get_name()));
        format!("--{flag}={value}")
    });
    let arguments: Vec<_> = std::iter::once("program".to_owned()).chain(arguments).collect();
    let matches = command.clone().try_get_matches_from(arguments).unwrap_or_else(|error| panic!("{error}"));
    C::from_arg_matches(&matches).unwrap_or_else(|error| panic!("{error}"))
}

/// A program beside the one that runs this test.
fn program(name: &str) -> PathBuf {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_chatfn-dev")).with_file_name(name);
    assert!(program.exists(), "{} is not built: run `make test`", program.display());
    program
}

/// Whether a program knows a sub-command with these flags.
fn knows(command: &[&str]) -> bool {
    let asked = Command::new(program(command[0]))
        .args(&command[1..])
        .arg("--help")
        .env("DATABASE_URL", "unused")
        .output();
    asked.expect("the program runs").status.success()
}

#[test]
fn probes_ask_by_what_the_programs_know() {
    for overlay in Overlay::all() {
        for service in SERVICES {
            let container = container(overlay.pod(service));
            let name = format!("chatfn-{service}");
            assert_eq!(texts(&container["command"]), [name.as_str()], "{}", overlay.name);
            assert!(container["args"].is_null(), "settings are variables: the probes need them, too");
            let asks = |probe: &str| texts(&container[probe]["exec"]["command"]);
            assert_eq!(asks("startupProbe"), [&name, "health", "--live"]);
            assert_eq!(asks("livenessProbe"), [&name, "health", "--live"]);
            assert_eq!(asks("readinessProbe"), [&name, "health"]);
            for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
                assert!(knows(&asks(probe)), "{service} {probe}");
                assert!(
                    seconds(&container[probe]["timeoutSeconds"]) > HEALTH_LIMIT,
                    "its answer would be cut off"
                );
            }
        }
    }
    assert!(!knows(&["chatfn-registry", "health", "--no-such-flag"]), "or nothing was proved");
}

#[test]
fn the_database_is_migrated_by_what_migrates_it() {
    for overlay in Overlay::all() {
        let migrate = container(&overlay.get("Job", "migrate")["spec"]["template"]["spec"]);
        let command = texts(&migrate["command"]);
        assert_eq!(command, ["chatfn-db", "migrate"]);
        assert!(knows(&command));
        assert_eq!(environment(migrate).keys().copied().collect::<Vec<_>>(), ["DATABASE_URL"]);
        let help = Command::new(program("chatfn-db")).args(["migrate", "--help"]).output().unwrap();
        assert!(String::from_utf8_lossy(&help.stdout).contains("[env: DATABASE_URL"));
    }
}

/// The README's commands roll a release out step by step, by this label.
#[test]
fn a_label_selects_what_is_rolled_out_at_a_time() {
    let readme = std::fs::read_to_string(crate::manifests::folder().join("README.md")).unwrap();
    assert!(readme.contains("for s in registry invoker event-ingest; do"), "who is asked before who asks");
    assert!(readme.contains("for s in event-ingest invoker registry; do"), "and back the other way");
    for overlay in Overlay::all() {
        let labelled = |name: &str| -> Vec<_> {
            let objects = overlay.objects().iter();
            let of_it = objects.filter(|it| it["metadata"]["labels"]["app.kubernetes.io/name"] == name);
            of_it.map(|it| (it["kind"].as_str(), it["metadata"]["name"].as_str())).collect()
        };
        assert_eq!(labelled("migrate"), [(Some("Job"), Some("migrate"))]);
        for service in SERVICES {
            assert_eq!(labelled(service), [(Some("Deployment"), Some(service))], "{}", overlay.name);
        }
    }
}

pub(crate) fn seconds(value: &Value) -> Duration {
    Duration::from_secs(value.as_u64().unwrap_or_else(|| panic!("{value} is not a number of seconds")))
}
