//! Whether a source could be deployed.

use std::sync::Arc;

use chatfn_proto::invoker::v1::{BuildErrorKind, prepare_response::Outcome};
use chatfn_rpc::ErrorReport;
use tokio::{task::JoinSet, time::timeout};
use tonic::Code;

use crate::{
    FUNCTION, PATIENCE,
    service::{Service, result, version},
};

#[tokio::test]
async fn a_source_that_is_fine_is_measured() {
    let service = Service::start([], &[]).await;
    let outcome = service.prepare("let n = 0; async function lambda() { return n++; }", 0).await.unwrap();
    let Outcome::Prepared(prepared) = outcome else { panic!("{outcome:?}") };
    assert!(prepared.size_bytes > 0, "{prepared:?}");
    assert!(prepared.duration.is_some());
    assert!(prepared.warnings.is_empty(), "{prepared:?}");
}

#[tokio::test]
async fn what_is_seldom_meant_is_warned_of() {
    let service = Service::start([], &[]).await;
    let source = "const begun = new Date(); async function lambda() { return begun; }";
    let outcome = service.prepare(source, 0).await.unwrap();
    let Outcome::Prepared(prepared) = outcome else { panic!("{outcome:?}") };
    assert!(matches!(&*prepared.warnings, [clock] if clock.contains("reads the clock")), "{prepared:?}");
}

#[tokio::test]
async fn a_source_that_is_not_fine_is_explained() {
    let service = Service::start([], &[]).await;
    for (source, kind, line, column) in [
        ("async function lambda() {\n  const = 1;\n}", BuildErrorKind::Syntax, 2, 9),
        (
            "\nthrow new TypeError('at once');\nasync function lambda() {}",
            BuildErrorKind::TopLevelThrow,
            2,
            11,
        ),
        ("const lambda = 1;", BuildErrorKind::NoLambda, 0, 0),
        ("require('fs'); async function lambda() {}", BuildErrorKind::UnknownModule, 1, 9),
        ("while (true) {} async function lambda() {}", BuildErrorKind::Timeout, 0, 0),
        (
            "const all = []; while (true) all.push('x'.repeat(1 << 20) + all.length); async function lambda() {}",
            BuildErrorKind::OutOfMemory,
            0,
            0,
        ),
    ] {
        let outcome = service.prepare(source, 16).await.unwrap();
        let Outcome::BuildError(error) = outcome else { panic!("{source}: {outcome:?}") };
        assert_eq!(error.kind(), kind, "{source}: {error:?}");
        assert_eq!((error.line, error.column), (line, column), "{source}: {error:?}");
        assert!(!error.message.is_empty());
        assert_eq!(error.stack.is_empty(), kind != BuildErrorKind::TopLevelThrow, "{error:?}");
    }
    let forbidden = "async function lambda() {}\nfetch('https://crm.example');";
    let outcome = service.prepare(forbidden, 0).await.unwrap();
    let Outcome::BuildError(error) = outcome else { panic!("{outcome:?}") };
    assert_eq!((error.kind(), error.line), (BuildErrorKind::ForbiddenAtTopLevel, 2), "{error:?}");
}

#[tokio::test]
async fn a_malformed_request_is_no_answer_about_a_source() {
    let service = Service::start([], &[]).await;
    for (source, memory_mib, field) in
        [(String::new(), 0, "source"), ("x".repeat(100_001), 0, "source"), ("x".to_owned(), 15, "memory_mib")]
    {
        let error = service.prepare(source, memory_mib).await.unwrap_err();
        assert_eq!((error.code, error.reason.as_deref()), (Code::InvalidArgument, Some("INVALID_REQUEST")));
        assert_eq!(error.fields[0].field, field);
    }
}

#[tokio::test]
async fn preparations_are_bounded_and_starve_no_run() {
    let live = version(1, "async function lambda() { return 1; }", &[""; 0]);
    let service = Arc::new(Service::start([live], &["--max-prepares=1"]).await);
    // One under way, eight that wait, and one too many. Each takes a second.
    let mut preparing = JoinSet::new();
    for account in 0..10 {
        let service = Arc::clone(&service);
        let function = format!("accounts/a{account}/functions/chat.start");
        preparing.spawn(async move { service.prepare_as(&function, "while (true) {}", 0).await });
    }
    let refused = until_refused(&mut preparing).await;
    assert_eq!((refused.code, refused.reason.as_deref()), (Code::ResourceExhausted, Some("OVERLOADED")));
    assert_eq!(result(&service.invoke("e-1").await.unwrap()), 1);
}

#[tokio::test]
async fn preparations_are_divided_among_accounts() {
    let service = Arc::new(Service::start([], &["--max-prepares=1"]).await);
    // Requests that name no function are of one account, too.
    for function in [FUNCTION, ""] {
        let mut preparing = JoinSet::new();
        for _ in 0..8 {
            let service = Arc::clone(&service);
            preparing.spawn(async move { service.prepare_as(function, "while (true) {}", 0).await });
        }
        let refused = until_refused(&mut preparing).await;
        assert_eq!(
            (refused.code, refused.reason.as_deref()),
            (Code::ResourceExhausted, Some("ACCOUNT_BUSY"))
        );
        let other = "accounts/other/functions/chat.start";
        service.prepare_as(other, "function lambda() {}", 0).await.expect("there is room for others");
        while preparing.join_next().await.is_some() {}
    }
    let refused = service.prepare_as("accounts/acme", "function lambda() {}", 0).await.unwrap_err();
    assert_eq!((refused.code, &*refused.fields[0].field), (Code::InvalidArgument, "function"));
}

type Prepared = Result<Outcome, ErrorReport>;

async fn until_refused(preparing: &mut JoinSet<Prepared>) -> ErrorReport {
    let refused = async {
        loop {
            if let Err(error) = preparing.join_next().await.expect("one is refused").unwrap() {
                break error;
            }
        }
    };
    timeout(PATIENCE, refused).await.unwrap()
}
