//! The binary as an operator starts it: confined, and still of use.

use std::{fs, net::SocketAddr, path::Path, process::Stdio, time::Duration};

use chatfn_deployments::{Deployments, SnapshotFile, WatchConfig};
use chatfn_engine::ResetPath;
use chatfn_rpc::{ClientConfig, connect};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStderr, Command},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    PATIENCE,
    confine::landlock,
    dns::{Entry::At, NameServer},
    egress_tls::{Authority, VALID},
    registry::Registry,
    service::{LOCAL, Service, result, version},
};

/// It calls nobody.
const NO_HOSTS: &[&str] = &[];

/// An invoker in a process of its own, until the test ends.
struct Process {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
    /// What it has logged so far.
    logged: Vec<Value>,
}

impl Process {
    fn start(flags: &[&str]) -> Self {
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("engine-cache");
        Self::of(
            Command::new(env!("CARGO_BIN_EXE_chatfn-invoker"))
                .arg(format!("--cache-dir={}", cache.display()))
                .args([
                    "--listen=127.0.0.1:0",
                    "--telemetry-listen=127.0.0.1:0",
                    "--max-runs=8",
                    "--log-format=json",
                ])
                .args(flags),
        )
    }

    fn of(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, log, logged: Vec::new() }
    }

    /// Waits for a line with this field.
    async fn until_logged(&mut self, field: &str) -> Value {
        let found = async {
            loop {
                if let Some(line) = self.logged.iter().find(|line| line.get(field).is_some()) {
                    return line.clone();
                }
                let line = self.log.next_line().await.unwrap();
                let line = line.unwrap_or_else(|| panic!("it ended: {:?}", self.logged));
                self.logged.push(serde_json::from_str(&line).unwrap_or(Value::String(line)));
            }
        };
        timeout(4 * PATIENCE, found).await.unwrap_or_else(|_| panic!("no {field}"))
    }

    async fn service(&mut self) -> Service {
        let line = self.until_logged("net.addr").await;
        Service::at(line["net.addr"].as_str().unwrap().parse::<SocketAddr>().unwrap())
    }

    /// A line of each thread's status in the kernel.
    fn of_each_thread(&self, field: &str) -> Vec<String> {
        let tasks = format!("/proc/{}/task", self.child.id().unwrap());
        let statuses = fs::read_dir(tasks).unwrap().filter_map(|task| {
            // A thread may have ended meanwhile.
            fs::read_to_string(task.unwrap().path().join("status")).ok()
        });
        let value = |status: String| {
            let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
            line.map(|value| value.trim().to_owned())
        };
        statuses.filter_map(value).collect()
    }
}

#[tokio::test]
async fn a_confined_invoker_serves() {
    let authority = Authority::new();
    let crm = authority.server("crm.example", VALID).await;
    let names = NameServer::start().await;
    names.add("crm.example", &[At("127.0.0.1")]);
    names.add("inside.example", &[At("127.0.0.2")]);
    let source = format!(
        "async function lambda() {{
           const answer = await fetch('https://{}/');
           const refused = await fetch('https://{}/').catch((error) => error.code);
           return [await answer.text(), refused];
         }}",
        crm.at("crm.example"),
        crm.at("inside.example"),
    );
    let mut registry = Registry::start().await;
    let mode = if landlock() { "enforce" } else { "best-effort" };
    let mut process = Process::start(&[
        &format!("--confinement={mode}"),
        // By its name, which the C library resolves.
        &format!("--registry={}", registry.uri.replace("127.0.0.1", "localhost")),
        &format!("--egress-name-server={}", names.address),
        &format!("--egress-ca-file={}", authority.file().display()),
        LOCAL,
    ]);
    let service = process.service().await;
    let live = version(1, &source, &[crm.at("crm.example"), crm.at("inside.example")]);
    registry.snapshot(&live).await;
    for event in ["e-1", "e-2", "e-3"] {
        let report = service.invoke(event).await.unwrap();
        assert_eq!(result(&report), json!(["secure", "ADDRESS_NOT_ALLOWED"]));
    }

    let confined = process.until_logged("confinement.landlock_abi").await;
    assert_eq!(confined["confinement.seccomp"], true);
    assert_eq!(confined["confinement.landlock_abi"].as_i64().unwrap() > 0, landlock());
    let level = if landlock() { "INFO" } else { "WARN" };
    assert_eq!(confined["level"], level, "{confined}");
    let filtered = process.of_each_thread("Seccomp");
    assert!(filtered.len() > 1 && filtered.iter().all(|mode| mode == "2"), "{filtered:?}");
    let fixed = process.of_each_thread("NoNewPrivs");
    assert!(fixed.iter().all(|fixed| fixed == "1"), "{fixed:?}");

    let engine = process.until_logged("engine.reset_path").await;
    // Confined, it finds out the same as this process.
    assert_eq!(engine["engine.reset_path"], ResetPath::of_this_machine().as_str());

    // Signals arrive, and the end is an orderly one.
    let id = i32::try_from(process.child.id().unwrap()).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), nix::sys::signal::Signal::SIGTERM).unwrap();
    let status = timeout(PATIENCE, process.child.wait()).await.expect("it ends").unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn a_confined_invoker_starts_without_the_registry_from_its_file_and_says_how_old_that_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = SnapshotFile { path: folder.path().join("live"), max_bytes: 1 << 20, keep: true };
    let mut registry = Registry::start().await;
    let stop = CancellationToken::new();
    let watch = WatchConfig {
        registry: connect(ClientConfig::new(registry.uri.parse().unwrap())).unwrap(),
        watcher: "invoker",
        include_source: true,
        snapshot: Some(file.clone()),
    };
    let _deployments = Deployments::spawn(watch, stop.clone());
    registry.snapshot(&version(3, "async function lambda() { return 'from a file' }", NO_HOSTS)).await;
    let written = async {
        while !file.path.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, written).await.expect("it is written");
    stop.cancel();
    registry.stop();

    let flag = format!("--snapshot-file={}", file.path.display());
    let mut process = Process::start(&["--registry=http://127.0.0.1:1", &flag]);
    let service = process.service().await;
    let stale = process.until_logged("deployments.age_s").await;
    assert_eq!(stale["level"], "WARN", "{stale}");
    assert!(stale["deployments.age_s"].is_u64(), "{stale}");
    assert_eq!(result(&service.invoke("e-1").await.unwrap()), "from a file");
    assert_eq!(service.serving().await, Some(true));
    assert_eq!(process.until_logged("confinement.landlock_abi").await["confinement.seccomp"], true);
}

/// The processes that one has started.
fn children(parent: u32) -> Vec<i32> {
    let of = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.ok()?.path();
        // A process may have ended meanwhile.
        let status = fs::read_to_string(path.join("status")).ok()?;
        let is_child = status.lines().any(|line| line == format!("PPid:\t{parent}"));
        is_child.then(|| path.file_name()?.to_str()?.parse().ok()).flatten()
    };
    fs::read_dir("/proc").unwrap().filter_map(of).collect()
}

/// A terminal sends its Ctrl-C to a whole process group. The keeper is not of the invoker's: it ends after it, not before.
#[tokio::test]
async fn the_keeper_of_the_snapshot_file_is_not_ended_with_a_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let flag = format!("--snapshot-file={}", folder.path().join("live").display());
    let mut process = Process::start(&["--registry=http://127.0.0.1:1", &flag]);
    process.service().await;
    let invoker = process.child.id().unwrap();
    let keepers = children(invoker);
    assert_eq!(keepers.len(), 1, "{keepers:?}");
    let keeper = nix::unistd::Pid::from_raw(keepers[0]);
    assert_eq!(nix::unistd::getpgid(Some(keeper)), Ok(keeper));

    process.child.kill().await.unwrap();
    let ended = async {
        // One that has ended and was not waited for has no arguments any more.
        while fs::read(format!("/proc/{keeper}/cmdline")).is_ok_and(|arguments| !arguments.is_empty()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, ended).await.expect("it ends with its invoker");
}

#[tokio::test]
async fn who_wants_no_confinement_reads_that_there_is_none() {
    let mut process = Process::start(&["--confinement=off"]);
    process.service().await;
    let messages: Vec<_> = process.logged.iter().filter_map(|line| line["message"].as_str()).collect();
    assert!(messages.contains(&"this process is not confined: --confinement=off"), "{messages:?}");
    assert!(process.of_each_thread("Seccomp").iter().all(|mode| mode == "0"));
}

#[tokio::test]
async fn the_engine_can_be_compiled_before_anything_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("engine");
    let compile = async || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chatfn-invoker"));
        let output = command.arg("--cache-dir").arg(&cache).arg("compile-engine").output().await.unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let (succeeded, said) = compile().await;
    assert!(succeeded && said.contains("is now in"), "{said}");
    let (succeeded, said) = compile().await;
    assert!(succeeded && said.contains("was in"), "{said}");

    // A service that finds it there serves from it.
    let cache = format!("--cache-dir={}", cache.display());
    let mut command = Command::new(env!("CARGO_BIN_EXE_chatfn-invoker"));
    command.arg(cache).args([
        "--listen=127.0.0.1:0",
        "--telemetry-listen=off",
        "--max-runs=8",
        "--log-format=json",
    ]);
    let mut process = Process::of(&mut command);
    assert_eq!(process.until_logged("engine.from_cache").await["engine.from_cache"], true);
}
