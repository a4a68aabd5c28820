//! What the log says about calls: its field names are part of the interface to operators.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use chatfn_rpc::{ApiError, ErrorReport, RequestExt, TraceParent};
use tonic::Request;
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::support::{Probe, eventually, note, start, unary};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn lines_with(&self, needle: &str) -> Vec<String> {
        let bytes = self.0.lock().expect("not poisoned").clone();
        let text = String::from_utf8(bytes).expect("UTF-8");
        text.lines().filter(|line| line.contains(needle)).map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn each_call_is_reported_once_and_an_internal_error_with_its_causes() {
    let log = Log::default();
    let writer = log.clone();
    let json = fmt::layer().json().with_writer(move || writer.clone());
    let only_ours = EnvFilter::new("chatfn_rpc=debug");
    // Global, since a scoped one is lost on callsites that the thread of another test meets first; so the
    // lines are told apart by their trace.
    tracing_subscriber::registry().with(only_ours).with(json).try_init().expect("the only one to log");
    tracing::callsite::rebuild_interest_cache();

    let server = start(Probe::new().unary(|request| async move {
        match request.get_ref().text.as_str() {
            "fail" => Err(ApiError::internal(io::Error::other("the disk is on fire")).into()),
            _ => Ok(request.into_inner()),
        }
    }))
    .await;
    let client = server.client();
    let trace = TraceParent::generate();
    let request =
        |text: &str| Request::new(note(text)).with_timeout(Duration::from_secs(50)).with_trace(trace);

    unary(&client, request("fine")).await.expect("an answer");
    let failed = unary(&client, request("fail")).await.expect_err("fails");
    let id = ErrorReport::from_status(&failed).metadata["error_id"].clone();

    let ended =
        eventually(async || Some(log.lines_with("call ended")).filter(|lines| lines.len() == 2)).await;
    for (line, code) in ended.iter().zip(["OK", "INTERNAL"]) {
        let code = format!(r#""rpc.code":"{code}""#);
        for part in [
            code.as_str(),
            r#""rpc.duration_ms":"#,
            r#""rpc.service":"chatfn.test.v1.Probe""#,
            r#""rpc.method":"Unary""#,
            r#""trace.id":""#,
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
    }
    let causes = log.lines_with(&id);
    assert_eq!(causes.len(), 1, "logged once");
    assert!(causes[0].contains("the disk is on fire") && causes[0].contains("rpc.method"), "{}", causes[0]);
}
