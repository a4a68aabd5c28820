//! Malformed requests: each names the field, and nothing is written.

use std::time::Duration;

use chatfn_proto::{
    convert::to_duration,
    registry::v1::{
        CreateFunctionRequest, DeleteFunctionRequest, Function, FunctionSettings, GetFunctionRequest,
        GetVersionRequest, ListFunctionsRequest, ListVersionsRequest, RetryPolicy, UndeployFunctionRequest,
        UpdateFunctionRequest,
    },
};
use tonic::{Code, Status};

use crate::harness::{ACME, START, World, deploy_request, refused};

#[track_caller]
fn names_field<T: std::fmt::Debug>(result: Result<T, Status>, field: &str) {
    let report = refused(result, Code::InvalidArgument, "INVALID_REQUEST");
    let fields: Vec<_> = report.fields.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, [field], "{}", report.message);
    assert!(!report.fields[0].reason.is_empty(), "{field} is refused without a reason for programs");
}

/// Functions that may not be stored, each with the field that is wrong.
fn wrong_functions() -> Vec<(Function, &'static str)> {
    let settings = |settings| Function { settings: Some(settings), ..Default::default() };
    let duration = |millis| Some(to_duration(Duration::from_millis(millis)));
    let environment = |key: &str, value: &str| FunctionSettings {
        environment: [(key.to_owned(), value.to_owned())].into(),
        ..Default::default()
    };
    let hosts = |host: &str| FunctionSettings { allowed_hosts: vec![host.into()], ..Default::default() };
    let retry = |retry| FunctionSettings { retry: Some(retry), ..Default::default() };
    vec![
        (Function { source: "x".repeat(100_001), ..Default::default() }, "function.source"),
        (Function { source: "a\0b".into(), ..Default::default() }, "function.source"),
        (Function { display_name: "x".repeat(51), ..Default::default() }, "function.display_name"),
        (Function { display_name: "\0".into(), ..Default::default() }, "function.display_name"),
        (Function { description: "x".repeat(201), ..Default::default() }, "function.description"),
        (Function { description: "\0".into(), ..Default::default() }, "function.description"),
        (
            settings(FunctionSettings { timeout: duration(9), ..Default::default() }),
            "function.settings.timeout",
        ),
        (
            settings(FunctionSettings { timeout: duration(30_001), ..Default::default() }),
            "function.settings.timeout",
        ),
        (settings(FunctionSettings { memory_mib: 15, ..Default::default() }), "function.settings.memory_mib"),
        (settings(hosts("http://a.com")), "function.settings.allowed_hosts[0]"),
        (settings(hosts("\0")), "function.settings.allowed_hosts[0]"),
        (settings(environment("1A", "")), "function.settings.environment[\"1A\"]"),
        (settings(environment("A", "\0")), "function.settings.environment[\"A\"]"),
        (settings(environment("A", &"x".repeat(4_097))), "function.settings.environment[\"A\"]"),
        (
            settings(FunctionSettings {
                retry: Some(RetryPolicy {
                    initial_backoff: duration(20_000),
                    max_backoff: duration(10_000),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            "function.settings.retry",
        ),
        (
            settings(retry(RetryPolicy { max_attempts: 21, ..Default::default() })),
            "function.settings.retry.max_attempts",
        ),
        (
            settings(retry(RetryPolicy { backoff_multiplier: 0.5, ..Default::default() })),
            "function.settings.retry.backoff_multiplier",
        ),
        (
            settings(retry(RetryPolicy { backoff_multiplier: 1.125, ..Default::default() })),
            "function.settings.retry.backoff_multiplier",
        ),
        (
            settings(retry(RetryPolicy { backoff_multiplier: f64::NAN, ..Default::default() })),
            "function.settings.retry.backoff_multiplier",
        ),
        (
            settings(retry(RetryPolicy { retry_on: vec![1, 9], ..Default::default() })),
            "function.settings.retry.retry_on[1]",
        ),
        (
            settings(retry(RetryPolicy { retry_on: vec![0], ..Default::default() })),
            "function.settings.retry.retry_on[0]",
        ),
        (
            settings(retry(RetryPolicy { max_age: duration(999), ..Default::default() })),
            "function.settings.retry.max_age",
        ),
        (
            settings(retry(RetryPolicy { after_last_attempt: 3, ..Default::default() })),
            "function.settings.retry.after_last_attempt",
        ),
        (
            settings(FunctionSettings { skills: vec!["x".repeat(65)], ..Default::default() }),
            "function.settings.skills[0]",
        ),
        (
            settings(FunctionSettings { skills: vec!["\n".into()], ..Default::default() }),
            "function.settings.skills",
        ),
        (
            settings(FunctionSettings { skills: vec!["1".into(); 501], ..Default::default() }),
            "function.settings.skills",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_create_names_the_field_and_writes_nothing() {
    let world = World::start().await;
    let mut client = world.registry.functions();
    let request = |function| CreateFunctionRequest {
        parent: ACME.into(),
        template: "chat.start".into(),
        function: Some(function),
        ..Default::default()
    };
    for (function, field) in wrong_functions() {
        names_field(client.create_function(request(function)).await, field);
    }
    for (parent, template, field) in [
        ("", "chat.start", "parent"),
        ("acme", "chat.start", "parent"),
        ("accounts/a b", "chat.start", "parent"),
        (ACME, "", "template"),
        (ACME, "Chat Start", "template"),
        (ACME, "templates/chat.start", "template"),
    ] {
        names_field(world.registry.create(parent, template).await, field);
    }
    let unknown = world.registry.create(ACME, "chat.idle").await;
    refused(unknown, Code::NotFound, "TEMPLATE_NOT_FOUND");

    let request = ListFunctionsRequest { parent: ACME.into(), ..Default::default() };
    assert!(client.list_functions(request).await.unwrap().into_inner().functions.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_update_names_the_field_and_writes_nothing() {
    let world = World::start().await;
    let created = world.registry.create(ACME, "chat.start").await.unwrap();
    let mut client = world.registry.functions();
    for (function, field) in wrong_functions() {
        let function = Function { name: START.into(), ..function };
        let request =
            UpdateFunctionRequest { function: Some(function), update_mask: None, ..Default::default() };
        names_field(client.update_function(request).await, field);
    }
    for path in ["name", "etag", "state", "settings.cpu", "setings", "*"] {
        let request = UpdateFunctionRequest {
            function: Some(Function { name: START.into(), ..Default::default() }),
            update_mask: Some(prost_types::FieldMask { paths: vec!["source".into(), path.into()] }),
            ..Default::default()
        };
        names_field(client.update_function(request).await, "update_mask");
    }
    let missing = UpdateFunctionRequest::default();
    names_field(client.update_function(missing).await, "function");
    let nameless = UpdateFunctionRequest {
        function: Some(Function::default()),
        update_mask: None,
        ..Default::default()
    };
    names_field(client.update_function(nameless).await, "function.name");
    assert_eq!(world.registry.get(START).await.unwrap(), created);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_refuses_a_malformed_name() {
    let world = World::start().await;
    let mut client = world.registry.functions();
    for bad in ["", "x", "accounts/acme", "accounts/acme/functions/", "accounts/a/functions/chat.start\0"] {
        let name = || bad.to_owned();
        names_field(client.get_function(GetFunctionRequest { name: name() }).await, "name");
        let delete = DeleteFunctionRequest { name: name(), etag: String::new(), ..Default::default() };
        names_field(client.delete_function(delete).await, "name");
        names_field(client.deploy_function(deploy_request(bad)).await, "name");
        let undeploy = UndeployFunctionRequest { name: name(), etag: String::new(), ..Default::default() };
        names_field(client.undeploy_function(undeploy).await, "name");
        names_field(client.get_version(GetVersionRequest { name: name() }).await, "name");
        let list = ListVersionsRequest { parent: name(), ..Default::default() };
        names_field(client.list_versions(list).await, "parent");
    }
    for bad in [format!("{START}/versions/0"), format!("{START}/versions/x"), START.to_owned()] {
        names_field(client.get_version(GetVersionRequest { name: bad }).await, "name");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_of_lists_and_deploys_hold() {
    let world = World::start().await;
    let mut client = world.registry.functions();
    let list = |change: fn(&mut ListFunctionsRequest)| {
        let mut request = ListFunctionsRequest { parent: ACME.into(), ..Default::default() };
        change(&mut request);
        request
    };
    names_field(client.list_functions(list(|it| it.page_size = 201)).await, "page_size");
    names_field(client.list_functions(list(|it| it.page_size = -1)).await, "page_size");
    names_field(client.list_functions(list(|it| it.state = 99)).await, "state");
    names_field(client.list_functions(list(|it| it.parent.clear())).await, "parent");

    let mut deploy = deploy_request(START);
    deploy.message = "\0".into();
    names_field(client.deploy_function(deploy.clone()).await, "message");
    deploy.message = "x".repeat(201);
    names_field(client.deploy_function(deploy.clone()).await, "message");
    deploy.message.clear();
    deploy.version = -1;
    names_field(client.deploy_function(deploy).await, "version");
    assert!(world.invoker.asked().is_empty(), "no invoker was bothered");
}
