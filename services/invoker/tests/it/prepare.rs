//! Whether a source could be deployed.

use chatfn_proto::invoker::v1::{BuildErrorKind, prepare_response::Outcome};
use tonic::Code;

use crate::service::Service;

#[tokio::test]
async fn a_source_that_is_fine_is_measured() {
    let service = Service::start([], &[]).await;
    let outcome = service.prepare("let n = 0; async function lambda() { return n++; }", 0).await.unwrap();
    let Outcome::Prepared(prepared) = outcome else { panic!("{outcome:?}") };
    assert!(prepared.size_bytes > 0, "{prepared:?}");
    assert!(prepared.duration.is_some());
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
        ("require('fs'); async function lambda() {}", BuildErrorKind::UnknownModule, 0, 0),
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
