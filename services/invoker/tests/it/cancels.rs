//! Ten thousand callers that go away: nothing of their runs stays.

use std::{sync::Arc, time::Duration};

use chatfn_domain::settings::FunctionSettings;
use chatfn_proto::invoker::v1::InvokeRequest;
use tokio::{runtime::Handle, sync::Semaphore, time::timeout};
use tokio_util::task::AbortOnDropHandle;
use tonic::Request;

use crate::{
    FUNCTION, PATIENCE,
    service::{LOCAL, Service, of, request, result, with_settings},
    witness::{Answer, Witness},
};

const CANCELS: usize = 10_000;
/// Callers at once; twice as many as may run, so that refusals are among what is cancelled.
const CALLERS: usize = 64;
/// Of the 32 runs at once, one account gets so many; the others are kept for others.
const OF_ONE_ACCOUNT: usize = 24;
/// So many does it get with another one.
const OF_TWO_ACCOUNTS: usize = 30;
/// So many of the cancelled must have been runs that waited outside.
const ABANDONED: usize = 100;
/// A caller goes away after this time at the latest; on a machine that is slow, few have begun to run by then.
const LONGEST: Duration = Duration::from_millis(5);
/// After so many, whatever is kept for good is there.
const WARM: usize = 1_000;
/// What the allocator may keep. One sandbox is more, and so is a kilobyte of each call.
const ALLOWED_GROWTH: usize = 8 << 20;

/// Busy for good in the interpreter or in a built-in function, waiting outside, for a timer or for another function.
const SOURCE: &str = "
const { Toolbelt } = require('lp-faas-toolbelt');
async function lambda(_, { eventId }) {
  switch (eventId) {
    case 'loop': for (;;);
    case 'regex': return /^(a+)+$/.test('a'.repeat(60) + 'b');
    case 'fetch': return (await fetch(`${process.env.SILENT}/`)).status;
    case 'timer': return await new Promise((done) => setTimeout(done, 20000));
    case 'child': return await Toolbelt.OrchestratorClient().invoke([{ uuid: 'chat.end', payload: {} }], 20000);
  }
  return 'done';
}";
const OTHER: &str = "accounts/other/functions/chat.start";
const CHILD: &str = "async function lambda() { await fetch(`${process.env.SILENT}/`); }";
const KINDS: [&str; 6] = ["loop", "regex", "fetch", "timer", "child", "done"];

/// What a process has.
#[derive(Debug, Clone, Copy)]
struct Holdings {
    tasks: usize,
    files: usize,
    memory: usize,
}

impl Holdings {
    fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        let kib: usize = resident.trim().trim_end_matches(" kB").parse().unwrap();
        Self {
            tasks: Handle::current().metrics().num_alive_tasks(),
            files: std::fs::read_dir("/proc/self/fd").unwrap().count(),
            memory: kib * 1024,
        }
    }
}

/// Cancels so many calls, each after another while, `longest` at most: some before they are sent, some in the middle, some too late.
async fn cancel(service: &Arc<Service>, count: usize, longest: Duration) {
    let places = Arc::new(Semaphore::new(CALLERS));
    for number in 0..count {
        let place = Arc::clone(&places).acquire_owned().await.unwrap();
        let service = Arc::clone(service);
        tokio::spawn(async move {
            let kind = KINDS[number % KINDS.len()];
            let after = longest.mul_f64((number * 7919 % 5_000) as f64 / 5_000.0);
            let _ = timeout(after, service.invoke(kind)).await;
            drop(place);
        });
    }
    let all = places.acquire_many(u32::try_from(CALLERS).unwrap());
    let _all = timeout(4 * PATIENCE, all).await.expect("every call ends").unwrap();
}

fn calling(function: &str) -> InvokeRequest {
    InvokeRequest { function: function.into(), ..request("fetch") }
}

/// Waits until nothing runs: no lambda waits outside, and as many may run as ever.
async fn settle(service: &Arc<Service>, silent: &Witness) {
    silent.until(|seen| seen.in_flight == 0).await;
    let mut callers = Vec::new();
    for (function, until) in [(FUNCTION, OF_ONE_ACCOUNT), (OTHER, OF_TWO_ACCOUNTS)] {
        while callers.len() < until {
            let (service, call) = (Arc::clone(service), calling(function));
            // Refused as long as something still has its place.
            callers.push(AbortOnDropHandle::new(tokio::spawn(async move {
                while service.call(Request::new(call.clone())).await.is_err() {}
            })));
        }
        silent.until(|seen| seen.in_flight == until).await;
    }
    drop(callers);
    silent.until(|seen| seen.in_flight == 0).await;
    let done = async { while !service.invoke("done").await.is_ok_and(|report| result(&report) == "done") {} };
    timeout(PATIENCE, done).await.expect("a run is possible");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_cancelled_calls_leave_nothing_behind() {
    let silent = Witness::start(|_| Answer::never()).await;
    let host = silent.at("127.0.0.1");
    let settings = FunctionSettings {
        timeout: PATIENCE,
        allowed_hosts: vec![host.parse().unwrap()],
        environment: [("SILENT".to_owned(), format!("http://{host}"))].into(),
        ..FunctionSettings::default()
    };
    let live = [
        with_settings(1, SOURCE, settings.clone()),
        of(OTHER, with_settings(1, SOURCE, settings.clone())),
        of("accounts/acme/functions/chat.end", with_settings(2, CHILD, settings)),
    ];
    let service = Arc::new(
        Service::start(live, &[LOCAL, "--max-runs=32", "--rpc-max-calls=256", "--egress-rate=100000"]).await,
    );

    cancel(&service, WARM, LONGEST).await;
    settle(&service, &silent).await;
    let before = Holdings::now();
    let abandoned = silent.seen().abandoned;
    cancel(&service, CANCELS, LONGEST).await;
    // Runs must be among what is cancelled, and not refusals alone.
    let mut longest = LONGEST;
    while silent.seen().abandoned < abandoned + ABANDONED {
        longest *= 2;
        cancel(&service, WARM, longest).await;
    }
    settle(&service, &silent).await;
    let is_back = |now: &Holdings| {
        now.tasks <= before.tasks && now.files <= before.files && now.memory <= before.memory + ALLOWED_GROWTH
    };
    let back = async {
        // Connections and tasks end a little after the calls that they were for.
        while !is_back(&Holdings::now()) {
            tokio::task::yield_now().await;
        }
    };
    let waited = timeout(PATIENCE, back).await;
    println!(
        "{before:?} before, {:?} after; {} calls reached outside",
        Holdings::now(),
        silent.seen().connections
    );
    assert!(waited.is_ok(), "{before:?} before, {:?} after", Holdings::now());
}
