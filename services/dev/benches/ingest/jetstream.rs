//! What a peer does: JetStream, which is told to flush before it acknowledges.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use async_nats::jetstream::{self, stream};
use tempfile::TempDir;

use crate::measure::{PAYLOAD, throughput};

/// Publishers, each of which waits for its acknowledgement.
const PUBLISHERS: usize = 64;
/// Longest wait for the server.
const START: Duration = Duration::from_secs(20);

pub(crate) struct JetStream {
    context: jetstream::Context,
    _server: Server,
    _folder: TempDir,
}

impl JetStream {
    /// Starts a server, if this machine has one.
    ///
    /// # Errors
    /// It has none, or it does not start; with what to do.
    pub(crate) async fn start() -> Result<Self, String> {
        let program = find().ok_or("no nats-server: `make bench-ingest` installs it into .tools/")?;
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let port = free_port().map_err(|error| error.to_string())?;
        let config = folder.path().join("nats.conf");
        let settings = format!(
            "listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: {:?}, sync_interval: always }}\n",
            folder.path().join("store"),
        );
        std::fs::write(&config, settings).map_err(|error| error.to_string())?;
        let _server = Command::new(&program)
            .arg("--config")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map(Server)
            .map_err(|error| format!("{} cannot be started: {error}", program.display()))?;
        let client = connect(port).await.map_err(|error| format!("nats-server does not answer: {error}"))?;
        let context = jetstream::new(client);
        let stream = stream::Config {
            name: "bench".to_owned(),
            subjects: vec!["bench".to_owned()],
            ..stream::Config::default()
        };
        context.create_stream(stream).await.map_err(|error| error.to_string())?;
        Ok(Self { context, _server, _folder: folder })
    }

    /// Acknowledged messages per second.
    pub(crate) async fn publish(&self, messages: usize) -> f64 {
        let each = messages / PUBLISHERS;
        throughput(PUBLISHERS, each, |_| {
            let context = self.context.clone();
            async move {
                for _ in 0..each {
                    let sent = context.publish("bench", PAYLOAD.into()).await.expect("it is sent");
                    sent.await.expect("an acknowledgement");
                }
            }
        })
        .await
    }
}

/// The process, which ends when dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn connect(port: u16) -> Result<async_nats::Client, async_nats::ConnectError> {
    let begun = Instant::now();
    loop {
        match async_nats::connect(format!("127.0.0.1:{port}")).await {
            Err(_) if begun.elapsed() < START => tokio::time::sleep(Duration::from_millis(50)).await,
            connected => return connected,
        }
    }
}

fn find() -> Option<PathBuf> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/py/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::iter::once(tools).chain(std::env::split_paths(&path));
    places.map(|place| place.join("nats-server")).find(|program| program.exists())
}

fn free_port() -> std::io::Result<u16> {
    std::net::TcpListener::bind("127.0.0.1:0")?.local_addr().map(|address| address.port())
}
