//! Who may call what: certificates, tokens, roles, accounts.

use std::{
    collections::BTreeMap,
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use chatfn_proto::{
    FILE_DESCRIPTOR_SET,
    ingest::v1::{
        DeliveryState, GetDeliveryRequest, PublishEventRequest,
        delivery_service_client::DeliveryServiceClient,
        event_ingest_service_client::EventIngestServiceClient,
    },
    registry::v1::FunctionSettings,
};
use chatfn_rpc::{
    Client, ErrorReport, Role,
    Service::{self, EventIngest, Invoker},
    access,
    dev_tokens::{self, SigningKey},
};
use chatfn_tests::{
    api::{self, Api, event},
    cluster::{Cluster, binary},
    eventually,
    identities::{Call, Identities},
};
use prost::Message as _;
use serde_json::json;
use tonic::{Code, Request, Status, Streaming};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

const ADMIN: &str = "admin";
const DEVELOPER: &str = "developer";
const INVOCATION: &str = "invocation";

/// What each caller may call, and nothing else: users by role, services by certificate.
const ALLOWED: &[(&str, &[&str])] = &[
    (
        ADMIN,
        &[
            "TemplateService/ListTemplates",
            "TemplateService/GetTemplate",
            "FunctionService/GetFunction",
            "FunctionService/ListFunctions",
            // For the hosts that it may call; egress_policy.rs has the rest.
            "FunctionService/UpdateFunction",
            "FunctionService/GetVersion",
            "FunctionService/ListVersions",
            "SecretService/SetSecret",
            "SecretService/GetSecret",
            "SecretService/ListSecrets",
            "SecretService/DeleteSecret",
            "DeliveryService/GetDelivery",
            "DeliveryService/ListDeliveries",
            "DeliveryService/GetConversation",
            "DeliveryService/TailDeliveries",
            "DeliveryService/Reconcile",
            "ReplayService/GetReplay",
            "ReplayService/ListReplays",
            "AuditService/ListAuditEntries",
            "DeliveryService/ResumeConversation",
            "DeliveryService/SkipEvent",
            "ReplayService/CreateReplay",
            "ReplayService/CancelReplay",
        ],
    ),
    (
        DEVELOPER,
        &[
            "TemplateService/ListTemplates",
            "TemplateService/GetTemplate",
            "FunctionService/CreateFunction",
            "FunctionService/GetFunction",
            "FunctionService/ListFunctions",
            "FunctionService/UpdateFunction",
            "FunctionService/DeleteFunction",
            "FunctionService/DeployFunction",
            "FunctionService/UndeployFunction",
            "FunctionService/GetVersion",
            "FunctionService/ListVersions",
            "SecretService/GetSecret",
            "SecretService/ListSecrets",
            "InvokerService/Invoke",
            "InvokerService/TestInvoke",
            "DeliveryService/GetDelivery",
            "DeliveryService/ListDeliveries",
            "DeliveryService/GetConversation",
            "DeliveryService/TailDeliveries",
            "DeliveryService/Reconcile",
            "ReplayService/GetReplay",
            "ReplayService/ListReplays",
            "DeliveryService/ResumeConversation",
            "DeliveryService/SkipEvent",
            "ReplayService/CreateReplay",
            "ReplayService/CancelReplay",
        ],
    ),
    (
        INVOCATION,
        &[
            "TemplateService/ListTemplates",
            "TemplateService/GetTemplate",
            "FunctionService/GetFunction",
            "FunctionService/ListFunctions",
            "FunctionService/GetVersion",
            "FunctionService/ListVersions",
            "InvokerService/Invoke",
            "EventIngestService/PublishEvent",
            "EventIngestService/PublishEvents",
            "DeliveryService/GetDelivery",
            "DeliveryService/ListDeliveries",
            "DeliveryService/GetConversation",
            "DeliveryService/TailDeliveries",
            "DeliveryService/Reconcile",
            "ReplayService/GetReplay",
            "ReplayService/ListReplays",
            "EventIngestService/StreamEvents",
        ],
    ),
    ("registry", &["InvokerService/Prepare"]),
    ("event-ingest", &["DeploymentWatchService/WatchDeployments", "InvokerService/Invoke"]),
    (
        "invoker",
        &[
            "DeploymentWatchService/WatchDeployments",
            "SecretAccessService/AccessSecret",
            "FunctionService/GetFunction",
        ],
    ),
];

/// Every method of the contract, as `package.Service/Method`.
fn methods() -> Vec<String> {
    let contract = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("the contract");
    let ours = contract.file.iter().filter(|file| file.package().starts_with("chatfn."));
    let mut methods: Vec<_> = ours
        .flat_map(|file| file.service.iter().map(move |service| (file.package(), service)))
        .flat_map(|(package, service)| {
            service.method.iter().map(move |method| format!("{package}.{}/{}", service.name(), method.name()))
        })
        .collect();
    methods.sort();
    methods
}

#[test]
fn every_method_says_who_may_call_it() {
    let missing: Vec<_> = methods().into_iter().filter(|method| access::of(method).is_none()).collect();
    assert!(
        missing.is_empty(),
        "say in services/common/rpc/src/security/access.rs, and in ALLOWED here, who may call {missing:?}"
    );
}

fn report(status: &Status) -> ErrorReport {
    ErrorReport::from_status(status)
}

/// Calls a method with an empty request; for who may call it, no more is needed.
async fn call(client: &Client, method: &str) -> Result<(), Status> {
    let mut grpc = tonic::client::Grpc::new(client.clone());
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let path = format!("/{method}").parse().expect("a path");
    let request = Request::new(futures_util::stream::iter([()]));
    let mut answers = grpc.streaming(request, path, codec).await?.into_inner();
    answers.message().await.map(drop)
}

fn client(cluster: &Cluster, method: &str, who: &Call) -> Client {
    let service = match method.split('.').nth(1) {
        Some("registry") => &cluster.registry,
        Some("invoker") => &cluster.invoker,
        _ => &cluster.event_ingest,
    };
    service.client_as(who)
}

#[tokio::test]
async fn each_role_and_each_service_may_call_what_is_its_own() {
    let identities = Identities::make();
    let cluster = Cluster::start_secure(&identities).await;
    let callers = ALLOWED.iter().map(|(who, allowed)| {
        let call = match who.parse::<Role>() {
            Ok(role) => identities.call(&identities.token(api::ACCOUNT, &[role])),
            Err(_) => identities.service(who.parse().expect("a service")),
        };
        (*who, call, *allowed)
    });
    for (who, call_as, allowed) in callers {
        for method in methods() {
            let short = method.rsplit('.').next().expect("a name");
            let client = client(&cluster, &method, &call_as);
            let answer = call(&client, &method).await;
            let refused = answer.as_ref().err().map(report);
            let reason = refused.as_ref().and_then(|refused| refused.reason.clone()).unwrap_or_default();
            let is_refused = reason == "ROLE_REQUIRED" || reason == "SERVICE_REQUIRED";
            assert_eq!(!is_refused, allowed.contains(&short), "{who} calls {method}: {answer:?}");
            if let Some(refused) = refused.filter(|_| is_refused) {
                assert_eq!(refused.code, Code::PermissionDenied);
                assert!(refused.message.contains(short), "{}", refused.message);
            }
        }
    }
    // Nobody may do anything, but ask for health.
    for method in methods() {
        let client = client(&cluster, &method, &identities.nobody());
        let refused = report(&call(&client, &method).await.expect_err("nobody"));
        assert_eq!((refused.code, refused.reason.as_deref()), (Code::Unauthenticated, Some("TOKEN_MISSING")));
        HealthClient::new(client).check(HealthCheckRequest::default()).await.expect("health is for everyone");
    }
    // Sources are for invokers, of all who may watch.
    let watch = async |who| {
        use chatfn_proto::registry::v1::{
            WatchDeploymentsRequest, WatchStart,
            deployment_watch_service_client::DeploymentWatchServiceClient,
            watch_deployments_request::Message,
        };
        let client = cluster.registry.client_as(&identities.service(who));
        let start = WatchStart { watcher: "test".into(), include_source: true, ..WatchStart::default() };
        let request = WatchDeploymentsRequest { message: Some(Message::Start(start)) };
        let requests = futures_util::stream::iter([request]);
        let mut answers =
            DeploymentWatchServiceClient::new(client).watch_deployments(requests).await?.into_inner();
        answers.message().await.map(drop)
    };
    assert!(watch(Invoker).await.is_ok());
    let refused = report(&watch(EventIngest).await.expect_err("no sources for event-ingest"));
    assert_eq!(refused.reason.as_deref(), Some("SERVICE_REQUIRED"));
}

#[tokio::test]
async fn only_tokens_that_are_in_order_are_accepted() {
    const METHOD: &str = "chatfn.registry.v1.TemplateService/ListTemplates";
    let identities = Identities::make();
    let cluster = Cluster::start_secure(&identities).await;
    let answer = async |token: &str| {
        let client = cluster.registry.client_as(&identities.call(token));
        match call(&client, METHOD).await {
            Ok(()) => "OK".to_owned(),
            Err(status) => {
                assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
                assert!(!format!("{status:?}").contains(token), "a token is never repeated");
                report(&status).reason.expect("a reason")
            }
        }
    };
    let claims = identities.claims(api::ACCOUNT, &[Role::Developer]);
    let with = |name: &str, value: serde_json::Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        identities.key.sign(&claims).expect("a token")
    };
    let good = identities.token(api::ACCOUNT, &[Role::Developer]);
    assert_eq!(answer(&good).await, "OK");
    assert_eq!(answer(&with("exp", json!(1_700_000_000))).await, "TOKEN_EXPIRED");
    assert_eq!(answer(&with("nbf", json!(4_000_000_000_u64))).await, "TOKEN_NOT_YET_VALID");
    assert_eq!(answer(&with("iss", json!("someone"))).await, "TOKEN_ISSUER_WRONG");
    assert_eq!(answer(&with("aud", json!("another"))).await, "TOKEN_AUDIENCE_WRONG");
    assert_eq!(answer(&with("account", json!(7))).await, "TOKEN_CLAIMS_INVALID");
    // Another account under the signature of this one.
    let [header, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!("three parts") };
    let other = identities.token("other", &Role::ALL);
    let others = other.split('.').nth(1).expect("three parts");
    assert_eq!(answer(&format!("{header}.{others}.{signature}")).await, "TOKEN_SIGNATURE_INVALID");
    // {"alg":"none","kid":"first"} and {"alg":"HS256","kid":"first"}.
    let none = format!("eyJhbGciOiJub25lIiwia2lkIjoiZmlyc3QifQ.{payload}.");
    assert_eq!(answer(&none).await, "TOKEN_MALFORMED");
    let symmetric = format!("eyJhbGciOiJIUzI1NiIsImtpZCI6ImZpcnN0In0.{payload}.{signature}");
    assert_eq!(answer(&symmetric).await, "TOKEN_SIGNATURE_INVALID");
    let stranger = SigningKey::generate("second").expect("a key").sign(&claims).expect("a token");
    assert_eq!(answer(&stranger).await, "TOKEN_KEY_UNKNOWN");

    // A token goes before a certificate, good or bad: a service's certificate does not make up for it.
    let Call::Service(certificate) = identities.service(Invoker) else { panic!("a certificate") };
    let watch = "chatfn.registry.v1.DeploymentWatchService/WatchDeployments";
    for (token, reason) in [("nonsense", "TOKEN_MALFORMED"), (&good, "SERVICE_REQUIRED")] {
        let both = cluster.registry.client_as(&Call::Both(certificate.clone(), token.to_owned()));
        let refused = call(&both, watch).await.expect_err("refused");
        assert_eq!(report(&refused).reason.as_deref(), Some(reason));
    }

    // Keys are exchanged without a restart.
    let second = SigningKey::generate("second").expect("a key");
    let signed_by_second = second.sign(&claims).expect("a token");
    identities.accept(&dev_tokens::key_set([&identities.key, &second]));
    eventually("tokens of the new key are accepted", async || {
        (answer(&signed_by_second).await == "OK").then_some(())
    })
    .await;
    assert_eq!(answer(&good).await, "OK");
    identities.accept(&dev_tokens::key_set([&second]));
    eventually("tokens of the old key are refused", async || {
        (answer(&good).await == "TOKEN_KEY_UNKNOWN").then_some(())
    })
    .await;
    assert_eq!(answer(&signed_by_second).await, "OK");
}

/// How a stream ends, whatever comes before.
pub(crate) async fn end<T>(stream: &mut Streaming<T>) -> Status {
    loop {
        match stream.message().await {
            Ok(message) => assert!(message.is_some(), "it ends with a reason"),
            Err(status) => return status,
        }
    }
}

/// A stream goes on for as long as its caller may call, and no longer.
#[tokio::test]
async fn a_stream_ends_when_its_token_expires() {
    use chatfn_proto::ingest::v1::{StreamEventsRequest, TailDeliveriesRequest};
    use chatfn_rpc::RequestExt as _;

    let identities = Identities::make();
    let cluster = Cluster::start_secure(&identities).await;
    // A token that has expired is taken for half a minute more, so this one is for a few seconds.
    let soon = || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let mut claims = identities.claims(api::ACCOUNT, &Role::ALL);
        claims["exp"] = json!(now - 26);
        let token = identities.key.sign(&claims).expect("a token");
        cluster.event_ingest.client_as(&identities.call(&token))
    };
    // On a slow machine it may have expired before it is used.
    let mut tail = eventually("the deliveries are tailed", async || {
        let request =
            TailDeliveriesRequest { parent: format!("accounts/{}", api::ACCOUNT), ..Default::default() };
        let request = Request::new(request).without_deadline();
        DeliveryServiceClient::new(soon()).tail_deliveries(request).await.ok()
    })
    .await
    .into_inner();
    let mut events = eventually("events are streamed", async || {
        let nothing = Request::new(futures_util::stream::pending::<StreamEventsRequest>()).without_deadline();
        EventIngestServiceClient::new(soon()).stream_events(nothing).await.ok()
    })
    .await
    .into_inner();
    for end in [end(&mut events).await, end(&mut tail).await] {
        let end = report(&end);
        assert_eq!((end.code, end.reason.as_deref()), (Code::Unauthenticated, Some("TOKEN_EXPIRED")));
    }
}

/// What is told of a thing, with its name taken out.
fn told(status: &Status, name: &str) -> BTreeMap<&'static str, String> {
    let report = report(status);
    let resource = report.resource.clone().map(|it| format!("{} {}", it.resource_type, it.name));
    let text = |text: String| text.replace(name, "NAME");
    BTreeMap::from([
        ("code", format!("{:?}", report.code)),
        ("reason", report.reason.unwrap_or_default()),
        ("message", text(report.message)),
        ("metadata", text(format!("{:?}", report.metadata))),
        ("resource", text(resource.unwrap_or_default())),
    ])
}

#[tokio::test]
async fn what_belongs_to_another_account_does_not_exist() {
    use chatfn_proto::{
        ingest::v1::*,
        invoker::v1::{self as invoker, invoker_service_client::InvokerServiceClient},
        registry::v1::{secret_service_client::SecretServiceClient, *},
    };

    let identities = Identities::make();
    let cluster = Cluster::start_secure(&identities).await;
    let template = "chat.participants_change";
    // The tests' account has a function, a secret and a delivery.
    let mut owner = Api::of(&cluster);
    owner.deploy(template, "async function lambda() { return 1 }", FunctionSettings::default()).await;
    assert_eq!(owner.run(template, "e-1").await.state(), DeliveryState::Succeeded);

    let stranger = identities.call(&identities.token("stranger", &Role::ALL));
    let registry = cluster.registry.client_as(&stranger);
    let (functions, secrets) = (
        function_service_client::FunctionServiceClient::new(registry.clone()),
        SecretServiceClient::new(registry.clone()),
    );
    let deliveries =
        delivery_service_client::DeliveryServiceClient::new(cluster.event_ingest.client_as(&stranger));
    let runs = InvokerServiceClient::new(cluster.invoker.client_as(&stranger));

    // Each question about a thing of another account, and about one of its own that is not there.
    for account in [api::ACCOUNT, "nobody"] {
        macro_rules! same {
            ($client:expr, $method:ident, $kind:literal, $id:expr, $request:expr) => {{
                let request = $request;
                let mut seen = Vec::new();
                for account in [account, "stranger"] {
                    let name = format!("accounts/{account}/{}/{}", $kind, $id);
                    let status = $client.clone().$method(request(name.clone())).await.expect_err(&name);
                    assert_eq!(status.code(), Code::NotFound, "{name}: {status:?}");
                    seen.push(told(&status, &name));
                }
                assert_eq!(seen[0], seen[1], "{} tells whether it exists", stringify!($method));
            }};
        }
        same!(functions, get_function, "functions", template, |name| GetFunctionRequest { name });
        same!(functions, delete_function, "functions", template, |name| DeleteFunctionRequest {
            name,
            ..Default::default()
        });
        same!(functions, deploy_function, "functions", template, |name| DeployFunctionRequest {
            name,
            ..Default::default()
        });
        same!(functions, undeploy_function, "functions", template, |name| UndeployFunctionRequest {
            name,
            ..Default::default()
        });
        same!(functions, update_function, "functions", template, |name| UpdateFunctionRequest {
            function: Some(Function {
                name,
                source: "async function lambda() {}".into(),
                ..Default::default()
            }),
            ..Default::default()
        });
        same!(functions, list_versions, "functions", template, |name| ListVersionsRequest {
            parent: name,
            ..Default::default()
        });
        let version = format!("{template}/versions/1");
        same!(functions, get_version, "functions", version, |name| GetVersionRequest { name });
        same!(secrets, get_secret, "secrets", "key", |name| GetSecretRequest { name });
        same!(deliveries, get_delivery, "deliveries", "e-1", |name| GetDeliveryRequest { name });
        same!(runs, invoke, "functions", template, |name| invoker::InvokeRequest {
            function: name,
            event: Some(invoker::InvocationEvent {
                event_id: "e".into(),
                conversation_id: "c".into(),
                attempt: 1,
                payload_json: "{}".into(),
                ..Default::default()
            }),
        });
        same!(runs, test_invoke, "functions", template, |name| invoker::TestInvokeRequest {
            function: name,
            ..Default::default()
        });
        // An account as such: nothing is created or listed there.
        let parent = format!("accounts/{account}");
        let refused = [
            functions
                .clone()
                .list_functions(ListFunctionsRequest { parent: parent.clone(), ..Default::default() })
                .await
                .err(),
            functions
                .clone()
                .create_function(CreateFunctionRequest {
                    parent: parent.clone(),
                    template: "chat.end".into(),
                    ..Default::default()
                })
                .await
                .err(),
            secrets
                .clone()
                .list_secrets(ListSecretsRequest { parent: parent.clone(), ..Default::default() })
                .await
                .err(),
            deliveries
                .clone()
                .list_deliveries(ListDeliveriesRequest { parent: parent.clone(), ..Default::default() })
                .await
                .err(),
        ];
        for refused in refused {
            let refused = report(&refused.expect("refused"));
            assert_eq!(
                (refused.code, refused.reason.as_deref()),
                (Code::NotFound, Some("ACCOUNT_NOT_FOUND"))
            );
        }
    }
    // Nothing has been changed.
    assert_eq!(owner.run(template, "e-2").await.state(), DeliveryState::Succeeded);
    // Whoever acts for all accounts sees them all.
    let platform = identities.call(&identities.token("*", &[Role::Invocation]));
    let mut platform =
        event_ingest_service_client::EventIngestServiceClient::new(cluster.event_ingest.client_as(&platform));
    let publish = |event| PublishEventRequest { event: Some(event) };
    platform.publish_event(publish(event(template, "e-3", "c-3"))).await.expect("for any account");
    let mut stranger =
        event_ingest_service_client::EventIngestServiceClient::new(cluster.event_ingest.client_as(&stranger));
    let refused =
        stranger.publish_event(publish(event(template, "e-4", "c-4"))).await.expect_err("not its account");
    assert_eq!(report(&refused).reason.as_deref(), Some("ACCOUNT_NOT_FOUND"));
    let batch = PublishEventsRequest { events: vec![event(template, "e-5", "c-5")] };
    let results = stranger.publish_events(batch).await.expect("each by itself").into_inner().results;
    assert!(
        matches!(&results[0].result, Some(publish_result::Result::Error(error)) if error.code == Code::NotFound as i32)
    );
    assert_eq!(owner.outcome("e-3").await.state(), DeliveryState::Succeeded);
}

#[tokio::test]
async fn a_cluster_does_its_job_under_tls() {
    let identities = Identities::make();
    let cluster = Cluster::start_secure(&identities).await;
    let mut api = Api::of(&cluster);
    let template = "chat.participants_change";
    api.deploy(template, "async function lambda() { return 'one' }", FunctionSettings::default()).await;
    assert_eq!(api.run(template, "before").await.state(), DeliveryState::Succeeded);

    // The draft reaches the invoker by its own certificate.
    use chatfn_proto::invoker::v1::{TestInvokeRequest, invoker_service_client::InvokerServiceClient};
    let request = TestInvokeRequest {
        function: format!("accounts/{}/functions/{template}", api::ACCOUNT),
        ..Default::default()
    };
    let tested =
        InvokerServiceClient::new(cluster.invoker.client()).test_invoke(request).await.expect("a test");
    assert!(tested.into_inner().outcome.is_some());

    // Plain text is not understood, and certificates of an authority of one's own are not accepted.
    let plain =
        call(&cluster.registry.client_as(&Call::Plain), "chatfn.registry.v1.TemplateService/ListTemplates")
            .await;
    assert_eq!(plain.expect_err("plain text").code(), Code::Unavailable);
    let Call::Trusting(authorities, _) = identities.nobody() else { panic!("TLS") };
    let forged = Identities::make();
    std::fs::write(forged.path("ca.crt"), authorities).expect("the folder can be written");
    let forged = cluster.registry.client_as(&forged.service(Service::Invoker));
    let refused = call(&forged, "chatfn.registry.v1.SecretAccessService/AccessSecret").await;
    assert_eq!(refused.expect_err("a forged certificate").code(), Code::Unavailable);
}

#[tokio::test]
async fn authorities_and_certificates_are_exchanged_without_a_failing_call() {
    let identities = Identities::make();
    let cluster = Cluster::start_secure(&identities).await;
    let mut api = Api::of(&cluster);
    let template = "chat.participants_change";
    api.deploy(template, "async function lambda() { return 'one' }", FunctionSettings::default()).await;

    let (old, next) = (identities.read("ca.crt"), Identities::make());
    let new = next.read("ca.crt");
    let both = [&old[..], &new].concat();
    let services = [&cluster.registry, &cluster.invoker, &cluster.event_ingest];
    let knows = async |call: &Call| {
        for service in services {
            let probe = HealthClient::new(service.client_as(call)).check(HealthCheckRequest::default()).await;
            if probe.is_err() {
                return None;
            }
        }
        Some(())
    };

    // All the while events are published on a connection that was there before, and on new ones.
    let trusting = |authorities: &[u8]| {
        Call::Trusting(authorities.to_vec(), Some(identities.token(api::ACCOUNT, &Role::ALL)))
    };
    let (existing, anew) = (cluster.event_ingest.client(), trusting(&both));
    let published = std::cell::Cell::new(0);
    let publishing = async {
        loop {
            for client in [existing.clone(), cluster.event_ingest.client_as(&anew)] {
                let event = event(template, &format!("e-{}", published.get()), "c-1");
                let request = PublishEventRequest { event: Some(event) };
                EventIngestServiceClient::new(client).publish_event(request).await.expect("no call fails");
                published.set(published.get() + 1);
            }
        }
    };
    let exchanging = async {
        // First everyone trusts both authorities,
        identities.replace("ca.crt", &both);
        next.replace("ca.crt", &both);
        let stranger = next.service(Service::Invoker);
        eventually("certificates of both authorities are accepted", async || knows(&stranger).await).await;
        let leftover = identities.service(Service::Invoker);
        // then certificates are of the new one,
        for service in ["registry", "invoker", "event-ingest"] {
            for file in [format!("{service}.key"), format!("{service}.crt")] {
                identities.replace(&file, &next.read(&file));
            }
        }
        eventually("the new certificates are in use", async || knows(&trusting(&new)).await).await;
        leftover
    };
    let leftover = tokio::select! {
        () = publishing => unreachable!("it has no end"),
        leftover = exchanging => leftover,
    };
    // and at last the old one is trusted no more.
    assert!(knows(&leftover).await.is_some(), "both authorities are trusted");
    assert!(knows(&trusting(&old)).await.is_none(), "certificates of the old one are in use");
    identities.replace("ca.crt", &new);
    eventually("certificates of the old authority are refused", async || {
        knows(&leftover).await.is_none().then_some(())
    })
    .await;
    // What was published has run, so the services have reached each other all along.
    let name = format!("accounts/{}/deliveries/e-{}", api::ACCOUNT, published.get() - 1);
    let mut deliveries = DeliveryServiceClient::new(cluster.event_ingest.client_as(&trusting(&new)));
    eventually("the last event has run", async || {
        let request = GetDeliveryRequest { name: name.clone() };
        let delivery = deliveries.get_delivery(request).await.expect("it is known").into_inner().delivery?;
        (delivery.state() == DeliveryState::Succeeded).then_some(())
    })
    .await;
}

#[test]
fn a_service_that_would_be_open_to_others_does_not_start() {
    let identities = Identities::make();
    let says = |service: &str, flags: &[String]| {
        let output = Command::new(binary(service))
            .args((service != "invoker").then_some("--database-url=postgres://nobody@127.0.0.1:1/none"))
            .args(["--listen=127.0.0.1:0"].into_iter().filter(|_| !flags[0].starts_with("--listen")))
            .args(flags)
            .output()
            .expect("the binary runs");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    for service in ["registry", "event-ingest", "invoker"] {
        let error = says(service, &["--listen=0.0.0.0:0".to_owned()]);
        assert!(error.contains("refusing to listen on 0.0.0.0:0") && error.contains("--tls-cert"), "{error}");
        let flags = identities.flags(service);
        let error = says(service, &flags[..2]);
        assert!(error.contains("--tls-ca is not set, and goes together with --tls-cert"), "{error}");
        let error = says(service, &flags[3..]);
        assert!(error.contains("--token-keys needs --tls-cert"), "{error}");
        // The certificate of another service.
        let other = if service == "registry" { "invoker" } else { "registry" };
        let error = says(service, &identities.flags(other));
        assert!(error.contains(&format!("spiffe://chatfn/{service}")), "{error}");
    }
}
