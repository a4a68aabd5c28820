//! Deadlines, cancellation and overload as a client sees them that is not ours: grpcio, driven by `interop/client.py`.

use std::{
    fmt::Write as _,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use chatfn_proto::{
    ingest::v1::{DeliveryState, StreamEventsRequest},
    invoker::v1::{InvocationEvent, InvokeRequest},
};
use chatfn_tests::{
    api::{ACCOUNT, Api, event, settings},
    cluster::Cluster,
    eventually,
    witness::Witness,
};
use prost::Message;
use serde_json::Value;
use tokio::task::spawn_blocking;

const STREAM_EVENTS: &str = "/chatfn.ingest.v1.EventIngestService/StreamEvents";
const INVOKE: &str = "/chatfn.invoker.v1.InvokerService/Invoke";

/// One call, in a process of its own.
struct Grpcio(Child);

impl Grpcio {
    fn start(case: &str, address: impl ToString, method: &str, request: Option<&[u8]>) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let python: PathBuf = root.join(".tools/py/bin/python");
        assert!(python.exists(), "grpcio is not installed: run `services/dev/setup.sh test`");
        let hex = request.map(|bytes| {
            bytes.iter().fold(String::new(), |mut hex, byte| {
                write!(hex, "{byte:02x}").expect("a String takes all");
                hex
            })
        });
        let process = Command::new(python)
            .arg(root.join("tests/interop/client.py"))
            .args([case, &address.to_string(), method])
            .args(hex)
            // Proxies are for what is not on this machine.
            .env("no_proxy", "127.0.0.1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        Self(process.expect("Python starts"))
    }

    /// What a case waits for that waits.
    fn go_on(&mut self) {
        let mut stdin = self.0.stdin.take().expect("not gone on before");
        stdin.write_all(b"\n").expect("the case is waiting");
    }

    /// What the client saw.
    async fn outcome(self) -> Value {
        let output = spawn_blocking(|| self.0.wait_with_output()).await.unwrap().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "the client failed, see above: {text}");
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("one JSON object: {text}"))
    }
}

fn of_stream(template: &str, event_id: &str) -> Vec<u8> {
    let event = Some(event(template, event_id, event_id));
    StreamEventsRequest { client_sequence: 1, event }.encode_to_vec()
}

#[tokio::test]
async fn timeout_on_sleeping_server() {
    let cluster = Cluster::start().await;
    let address = cluster.event_ingest.address();
    for case in ["timeout_on_sleeping_server", "timeout_by_the_server"] {
        // Idle from the beginning, and after an answer.
        for request in [None, Some(of_stream("chat.end", case))] {
            let seen = Grpcio::start(case, address, STREAM_EVENTS, request.as_deref()).outcome().await;
            assert_eq!(seen["code"], "DEADLINE_EXCEEDED", "{case}: {seen}");
            assert_eq!(seen["received"], u32::from(request.is_some()), "{case}: {seen}");
        }
        // The deadline was the stream's, not the event's.
        assert_eq!(Api::of(&cluster).outcome(case).await.state(), DeliveryState::NoFunction);
    }
}

#[tokio::test]
async fn cancelled_streams_leave_nothing_behind() {
    let mut cluster = Cluster::start().await;
    // One stream that is not given back, and nobody else gets in.
    cluster.event_ingest.kill();
    cluster.event_ingest.flag("rpc-max-calls", "1");
    cluster.event_ingest.start();
    cluster.event_ingest.serving().await;
    let address = cluster.event_ingest.address();
    let mut api = Api::of(&cluster);

    for round in 0..3 {
        let seen = Grpcio::start("cancel_after_begin", address, STREAM_EVENTS, None).outcome().await;
        assert_eq!((&seen["code"], &seen["received"]), (&"CANCELLED".into(), &0.into()), "{seen}");

        let id = format!("e-{round}");
        let request = of_stream("chat.end", &id);
        let first_answer = async || {
            let call = Grpcio::start("cancel_after_first_response", address, STREAM_EVENTS, Some(&request));
            let seen = call.outcome().await;
            // The one before may not have been noticed yet.
            (seen["code"] != "RESOURCE_EXHAUSTED").then_some(seen)
        };
        let seen = eventually("the cancelled stream gives its permit back", first_answer).await;
        assert_eq!((&seen["code"], &seen["received"]), (&"CANCELLED".into(), &1.into()), "{seen}");

        // What was acknowledged stays, and is recognised.
        let again = async || api.publish(event("chat.end", &id, &id)).await.ok();
        assert!(eventually("the permit is free", again).await.duplicate);
    }
}

#[tokio::test]
async fn a_cancelled_run_is_over_and_one_too_many_is_told_when_to_come_back() {
    let (mut cluster, witness) = (Cluster::start().await, Witness::start().await);
    cluster.invoker.kill();
    cluster.invoker.flag("max-runs", "1");
    cluster.invoker.start();
    cluster.invoker.serving().await;
    let mut api = Api::of(&cluster);
    let source = "async function lambda() { await fetch(`${process.env.WITNESS}/gate`); }";
    api.deploy("chat.participants_change", source, settings(&witness.host, 1)).await;
    let request = InvokeRequest {
        function: format!("accounts/{ACCOUNT}/functions/chat.participants_change"),
        event: Some(InvocationEvent {
            event_id: "e".into(),
            conversation_id: "c".into(),
            attempt: 1,
            payload_json: "{}".into(),
            ..InvocationEvent::default()
        }),
    };
    let request = request.encode_to_vec();
    let invoke = |case: &str| Grpcio::start(case, cluster.invoker.address(), INVOKE, Some(&request));

    let mut running = invoke("cancel_unary");
    witness.seen(1).await;
    let refused = invoke("unary").outcome().await;
    assert_eq!((&refused["code"], &refused["retry_info"]), (&"RESOURCE_EXHAUSTED".into(), &true.into()));

    running.go_on();
    assert_eq!(running.outcome().await["code"], "CANCELLED");
    witness.abandoned(1).await;
    witness.open_gate(1);
    let free = async || (invoke("unary").outcome().await["code"] == "OK").then_some(());
    eventually("the run's place is free", free).await;
    assert_eq!(witness.calls().len(), 2, "what was refused did not run");
}
