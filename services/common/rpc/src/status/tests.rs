use std::io;

use proptest::prelude::*;

use super::*;

/// Size of the response headers that carry the status.
fn header_bytes(status: &Status) -> usize {
    let response = status.clone().into_http::<()>();
    response.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}

#[test]
fn every_detail_survives_the_wire() {
    let error = ApiError::permission_denied(reasons::ROLE_REQUIRED, "the field is not yours to change")
        .field("event.payload", "is missing \"conversation\"")
        .field("event.event_id", "must be a UUID")
        .precondition("DEPLOYED", "functions/a", "deploy it first")
        .resource("function", "functions/a")
        .metadata("field", "settings")
        .retry_after(Duration::from_millis(1500));
    let status = Status::from(error);
    let response = status.into_http::<()>();
    let report = ErrorReport::from_status(&Status::from_header_map(response.headers()).expect("a status"));

    assert_eq!(report.code, Code::PermissionDenied);
    assert_eq!(report.reason.as_deref(), Some("ROLE_REQUIRED"));
    assert_eq!(report.message, "the field is not yours to change");
    assert_eq!(report.fields.len(), 2);
    assert_eq!(report.fields[0].field, "event.payload");
    assert_eq!(report.preconditions[0].kind, "DEPLOYED");
    assert_eq!(report.resource.map(|r| r.name).as_deref(), Some("functions/a"));
    assert_eq!(report.metadata["field"], "settings");
    assert_eq!(report.retry_after, Some(Duration::from_millis(1500)));
    assert_eq!(response.headers()["grpc-retry-pushback-ms"], "1500");
}

#[test]
fn foreign_errors_have_no_reason() {
    let report = ErrorReport::from_status(&Status::unavailable("somebody else's"));
    assert_eq!(report.reason, None);
    let other = Status::with_error_details(
        Code::Unavailable,
        "x",
        ErrorDetails::with_error_info("SERVER_BUSY", "example.com", std::collections::HashMap::new()),
    );
    assert_eq!(ErrorReport::from_status(&other).reason, None);
}

#[test]
fn internal_errors_are_opaque() {
    let error = ApiError::internal(io::Error::other("password=hunter2"));
    let status = Status::from(error);
    let report = ErrorReport::from_status(&status);
    assert_eq!(report.code, Code::Internal);
    assert!(!format!("{status:?}").contains("hunter2"));
    let id = &report.metadata["error_id"];
    assert!(report.message.contains(id.as_str()), "the text carries the id that the log has");
}

#[test]
fn surplus_violations_are_counted() {
    let mut error = ApiError::invalid_argument(reasons::INVALID_REQUEST, "many fields are wrong");
    for at in 0..500 {
        error = error.field(format!("events[{at}].payload"), "must be an object");
    }
    let report = ErrorReport::from_status(&error.into());
    let (last, listed) = report.fields.split_last().expect("violations");
    assert!(listed.len() > 5);
    assert_eq!(last.description, format!("… and {} more", 500 - listed.len()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn headers_stay_bounded(
        message in "\\PC{0,4000}",
        texts in proptest::collection::vec("\\PC{0,400}", 0..40),
    ) {
        let mut error = ApiError::permission_denied(reasons::ROLE_REQUIRED, message).resource("x".repeat(9999), "é".repeat(9999));
        for text in texts {
            error = error
                .field(text.clone(), text.clone())
                .precondition(text.clone(), text.clone(), text.clone())
                .metadata("field", text);
        }
        prop_assert!(header_bytes(&error.into()) < 6 * 1024);
    }
}
