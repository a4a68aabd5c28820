//! Creating, reading, editing, listing, deleting.

use std::time::Duration;

use chatfn_proto::{
    convert::to_duration,
    registry::v1::{
        CreateFunctionRequest, DeleteFunctionRequest, Function, FunctionSettings, FunctionState,
        ListFunctionsRequest, ListFunctionsResponse, UpdateFunctionRequest,
    },
};
use prost_types::FieldMask;
use tonic::{Code, Status};

use crate::harness::{ACME, Registry, START, World, refused};

async fn update(registry: &Registry, function: Function, paths: &[&str]) -> Result<Function, Status> {
    let mask = FieldMask { paths: paths.iter().map(|&path| path.to_owned()).collect() };
    let request =
        UpdateFunctionRequest { function: Some(function), update_mask: Some(mask), ..Default::default() };
    Ok(registry.functions().update_function(request).await?.into_inner().function.unwrap())
}

async fn list(registry: &Registry, request: ListFunctionsRequest) -> Result<ListFunctionsResponse, Status> {
    Ok(registry.functions().list_functions(request).await?.into_inner())
}

fn list_acme() -> ListFunctionsRequest {
    ListFunctionsRequest { parent: ACME.into(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_starts_as_its_templates_starter() {
    let world = World::start().await;
    let created = world.registry.create(ACME, "chat.start").await.unwrap();
    assert_eq!(created.name, START);
    assert_eq!(created.display_name, "Chat Start");
    assert!(created.source.contains("function lambda("));
    assert_eq!(created.state(), FunctionState::Draft);
    assert_eq!(created.live_version, 0);
    assert_eq!(created.draft_digest.len(), 64);
    let settings = created.settings.clone().unwrap();
    assert_eq!(settings.timeout, Some(to_duration(Duration::from_secs(1))));
    assert_eq!((settings.memory_mib, settings.retry.unwrap().max_attempts), (64, 3));
    assert!(created.create_time.is_some() && created.create_time == created.update_time);
    assert_eq!(world.registry.get(START).await.unwrap(), created);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_given_is_kept() {
    let world = World::start().await;
    let given = Function {
        // Output only, so of no account.
        name: "accounts/other/functions/chat.end".into(),
        etag: "x".into(),
        display_name: "Grüße".into(),
        description: "Opens a case.".into(),
        source: "async function lambda() { return '😀'; }".into(),
        settings: Some(FunctionSettings {
            allowed_hosts: vec!["*.Example.com:8443".into()],
            environment: [("CRM_URL".to_owned(), "https://crm.example.com".to_owned())].into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let request = CreateFunctionRequest {
        parent: ACME.into(),
        template: "chat.start".into(),
        function: Some(given.clone()),
        ..Default::default()
    };
    world.registry.functions().create_function(request).await.unwrap();
    let got = world.registry.get(START).await.unwrap();
    assert_eq!(got.name, START);
    assert_eq!(
        (&got.display_name, &got.description, &got.source),
        (&given.display_name, &given.description, &given.source)
    );
    let settings = got.settings.unwrap();
    assert_eq!(settings.allowed_hosts, ["*.example.com:8443"]);
    assert_eq!(settings.environment, given.settings.unwrap().environment);
    assert_ne!(got.etag, "x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_has_one_function_per_template() {
    let world = World::start().await;
    let created = world.registry.create(ACME, "chat.start").await.unwrap();
    let again = world.registry.create(ACME, "chat.start").await;
    let report = refused(again, Code::AlreadyExists, "FUNCTION_EXISTS");
    assert_eq!(report.resource.unwrap().name, START);
    assert_eq!(world.registry.get(START).await.unwrap(), created);
    // Another template, or another account, is another matter.
    world.registry.create(ACME, "chat.end").await.unwrap();
    world.registry.create("accounts/umbrella", "chat.start").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_changes_what_the_mask_names() {
    let world = World::start().await;
    let created = world.registry.create(ACME, "chat.start").await.unwrap();
    let edit = Function {
        name: START.into(),
        etag: created.etag.clone(),
        source: "function lambda() {}".into(),
        description: "not named".into(),
        settings: Some(FunctionSettings {
            timeout: Some(to_duration(Duration::from_millis(1500))),
            memory_mib: 128,
            ..Default::default()
        }),
        ..Default::default()
    };
    let updated = update(&world.registry, edit, &["source", "settings.timeout"]).await.unwrap();
    assert_eq!(updated.source, "function lambda() {}");
    assert_eq!(updated.description, "");
    let settings = updated.settings.clone().unwrap();
    assert_eq!(settings.timeout, Some(to_duration(Duration::from_millis(1500))));
    assert_eq!(settings.memory_mib, 64);
    assert_ne!(updated.etag, created.etag);
    assert_ne!(updated.draft_digest, created.draft_digest);
    assert_eq!(world.registry.get(START).await.unwrap(), updated);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_that_changes_nothing_leaves_the_etag() {
    let world = World::start().await;
    let created = world.registry.create(ACME, "chat.start").await.unwrap();
    let same = update(&world.registry, created.clone(), &["source", "settings"]).await.unwrap();
    assert_eq!(same, created);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_etag_is_told_the_current_one() {
    let world = World::start().await;
    let created = world.registry.create(ACME, "chat.start").await.unwrap();
    let current = world.registry.edit(START, "function lambda() { return 1; }").await;
    let stale = Function { source: "function lambda() { return 2; }".into(), ..created.clone() };
    let report = refused(update(&world.registry, stale, &["source"]).await, Code::Aborted, "ETAG_MISMATCH");
    assert_eq!(report.metadata["current_etag"], current.etag);
    let delete = DeleteFunctionRequest { name: START.into(), etag: created.etag, ..Default::default() };
    let refusal = world.registry.functions().delete_function(delete).await;
    refused(refusal, Code::Aborted, "ETAG_MISMATCH");
    assert_eq!(world.registry.get(START).await.unwrap(), current);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_exist_is_not_found() {
    let world = World::start().await;
    let registry = &world.registry;
    refused(registry.get(START).await, Code::NotFound, "FUNCTION_NOT_FOUND");
    refused(registry.delete(START).await, Code::NotFound, "FUNCTION_NOT_FOUND");
    refused(registry.deploy(START).await, Code::NotFound, "FUNCTION_NOT_FOUND");
    refused(registry.undeploy(START).await, Code::NotFound, "FUNCTION_NOT_FOUND");
    let edit = Function { name: START.into(), ..Default::default() };
    let report = refused(update(registry, edit, &["settings"]).await, Code::NotFound, "FUNCTION_NOT_FOUND");
    assert_eq!(report.resource.unwrap().name, START);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_function_can_be_created_again_and_is_another() {
    let world = World::start().await;
    let first = world.registry.create(ACME, "chat.start").await.unwrap();
    world.registry.delete(START).await.unwrap();
    refused(world.registry.delete(START).await, Code::NotFound, "FUNCTION_NOT_FOUND");
    let second = world.registry.create(ACME, "chat.start").await.unwrap();
    assert_eq!(second.draft_digest, first.draft_digest);
    assert_ne!(second.etag, first.etag, "an etag of the deleted function must not fit");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_hold_every_function_once_in_order() {
    let world = World::start().await;
    let templates = ["chat.start", "chat.end", "chat.participants_change", "chat.in_queue"];
    for template in templates {
        world.registry.create(ACME, template).await.unwrap();
    }
    world.registry.create("accounts/acme2", "chat.start").await.unwrap();
    for page_size in [1, 2, 3, 4, 0] {
        let mut names = Vec::new();
        let mut request = ListFunctionsRequest { page_size, ..list_acme() };
        loop {
            let page = list(&world.registry, request.clone()).await.unwrap();
            assert!(page.functions.iter().all(|function| function.source.is_empty()));
            names.extend(page.functions.into_iter().map(|function| function.name));
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        let sorted = ["chat.end", "chat.in_queue", "chat.participants_change", "chat.start"]
            .map(|template| format!("{ACME}/functions/{template}"));
        assert_eq!(names, sorted, "pages of {page_size}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_holds_for_its_list_only() {
    let world = World::start().await;
    world.registry.create(ACME, "chat.start").await.unwrap();
    world.registry.create(ACME, "chat.end").await.unwrap();
    let page = list(&world.registry, ListFunctionsRequest { page_size: 1, ..list_acme() }).await.unwrap();
    let token = page.next_page_token;
    assert!(!token.is_empty());
    for request in [
        ListFunctionsRequest { parent: "accounts/umbrella".into(), page_token: token.clone(), ..list_acme() },
        ListFunctionsRequest { state: FunctionState::Draft.into(), page_token: token.clone(), ..list_acme() },
        ListFunctionsRequest { page_token: token.replace(&token[..4], "0000"), ..list_acme() },
        ListFunctionsRequest { page_token: "x".into(), ..list_acme() },
    ] {
        refused(list(&world.registry, request).await, Code::InvalidArgument, "INVALID_PAGE_TOKEN");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_can_be_filtered_by_state() {
    let world = World::start().await;
    for template in ["chat.start", "chat.end", "chat.in_queue"] {
        world.registry.create(ACME, template).await.unwrap();
    }
    let name = |template: &str| format!("{ACME}/functions/{template}");
    world.registry.deploy(&name("chat.start")).await.unwrap();
    world.registry.deploy(&name("chat.end")).await.unwrap();
    world.registry.edit(&name("chat.end"), "function lambda() {}").await;
    for (state, template) in [
        (FunctionState::Productive, "chat.start"),
        (FunctionState::Modified, "chat.end"),
        (FunctionState::Draft, "chat.in_queue"),
    ] {
        let request = ListFunctionsRequest { state: state.into(), ..list_acme() };
        let page = list(&world.registry, request).await.unwrap();
        let found: Vec<_> = page.functions.iter().map(|it| (it.name.clone(), it.state())).collect();
        assert_eq!(found, [(name(template), state)]);
        assert_eq!(page.next_page_token, "");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_can_be_filtered_by_template() {
    let world = World::start().await;
    for template in ["chat.start", "chat.end", "chat.in_queue"] {
        world.registry.create(ACME, template).await.unwrap();
    }
    let listed = async |template: &str, page_size| {
        let request = ListFunctionsRequest { template: template.into(), page_size, ..list_acme() };
        let page = list(&world.registry, request).await.unwrap();
        (page.functions.into_iter().map(|it| it.name).collect::<Vec<_>>(), page.next_page_token)
    };
    assert_eq!(listed("chat.start", 0).await, (vec![START.to_owned()], String::new()));
    assert_eq!(listed("chat.*", 0).await.0.len(), 3);
    assert!(listed("survey.*", 0).await.0.is_empty());
    assert!(listed("chat.participants_change", 0).await.0.is_empty());

    let (_, token) = listed("chat.*", 1).await;
    let unfiltered = ListFunctionsRequest { page_token: token, ..list_acme() };
    refused(list(&world.registry, unfiltered).await, Code::InvalidArgument, "INVALID_PAGE_TOKEN");
    for malformed in ["chat", "*", "chat.in*x", "Chat.*"] {
        let request = ListFunctionsRequest { template: malformed.into(), ..list_acme() };
        refused(list(&world.registry, request).await, Code::InvalidArgument, "INVALID_REQUEST");
    }
}
