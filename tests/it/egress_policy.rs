//! Which hosts a function may call is an admin's to decide; all else about it is a developer's.

use chatfn_proto::{
    invoker::v1::{
        TestInvokeRequest, TestLambda, TestSettings, invoker_service_client::InvokerServiceClient,
    },
    registry::v1::{
        CreateFunctionRequest, DeployFunctionRequest, Function, FunctionSettings, UpdateFunctionRequest,
        function_service_client::FunctionServiceClient,
    },
};
use chatfn_rpc::{
    Client, ErrorReport,
    Role::{self, Admin, Developer},
};
use chatfn_tests::{api::ACCOUNT, cluster::Cluster, eventually, identities::Identities};
use prost_types::FieldMask;
use tonic::{Code, Status};

const TEMPLATE: &str = "chat.participants_change";
const FUNCTION: &str = "accounts/acme/functions/chat.participants_change";
const CRM: &str = "crm.example.com";

/// Someone with some roles in the tests' account.
struct Person {
    functions: FunctionServiceClient<Client>,
    runs: InvokerServiceClient<Client>,
}

impl Person {
    fn with(cluster: &Cluster, identities: &Identities, roles: &[Role]) -> Self {
        let call = identities.call(&identities.token(ACCOUNT, roles));
        Self {
            functions: FunctionServiceClient::new(cluster.registry.client_as(&call)),
            runs: InvokerServiceClient::new(cluster.invoker.client_as(&call)),
        }
    }

    async fn create(&self, hosts: &[&str]) -> Result<(), Status> {
        let request = CreateFunctionRequest {
            parent: format!("accounts/{ACCOUNT}"),
            template: TEMPLATE.into(),
            function: Some(function("async function lambda() { return 1 }", hosts)),
            ..Default::default()
        };
        self.functions.clone().create_function(request).await.map(drop)
    }

    async fn update(&self, mask: &[&str], function: Function) -> Result<(), Status> {
        let update_mask = FieldMask { paths: mask.iter().map(|&path| path.to_owned()).collect() };
        let request = UpdateFunctionRequest {
            function: Some(function),
            update_mask: Some(update_mask),
            ..Default::default()
        };
        self.functions.clone().update_function(request).await.map(drop)
    }

    /// Makes a version live, or with 0 the draft; gives the number of what is live then.
    async fn deploy(&self, version: i64, validate_only: bool) -> Result<i64, Status> {
        let request =
            DeployFunctionRequest { name: FUNCTION.into(), version, validate_only, ..Default::default() };
        let response = self.functions.clone().deploy_function(request).await?.into_inner();
        Ok(response.version.expect("a version").number)
    }

    async fn test(&self, hosts: &[&str]) -> Result<(), Status> {
        let settings = TestSettings {
            allowed_hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
            ..Default::default()
        };
        let request = TestInvokeRequest {
            function: FUNCTION.into(),
            lambda: Some(TestLambda {
                source: "async function lambda() { return 2 }".into(),
                settings: Some(settings),
            }),
            ..Default::default()
        };
        self.runs.clone().test_invoke(request).await.map(drop)
    }
}

fn function(source: &str, hosts: &[&str]) -> Function {
    let allowed_hosts = hosts.iter().map(|&host| host.to_owned()).collect();
    Function {
        name: FUNCTION.into(),
        source: source.into(),
        settings: Some(FunctionSettings { allowed_hosts, ..Default::default() }),
        ..Default::default()
    }
}

/// What is told to whoever lacks a role.
#[track_caller]
fn lacks<T: std::fmt::Debug>(role: &str, field: &str, result: Result<T, Status>) -> String {
    let report = ErrorReport::from_status(&result.expect_err("it takes another role"));
    assert_eq!((report.code, report.reason.as_deref()), (Code::PermissionDenied, Some("ROLE_REQUIRED")));
    assert_eq!((report.metadata["roles"].as_str(), report.metadata["field"].as_str()), (role, field));
    report.message
}

#[tokio::test]
async fn an_admin_decides_on_hosts_and_a_developer_on_all_else() {
    const HOSTS: &str = "settings.allowed_hosts";
    let identities = Identities::make();
    let cluster = Cluster::start_secure(&identities).await;
    let person = |roles: &[Role]| Person::with(&cluster, &identities, roles);
    let (admin, developer, both) = (person(&[Admin]), person(&[Developer]), person(&[Admin, Developer]));

    let told = lacks("admin", HOSTS, developer.create(&[CRM]).await);
    assert!(told.contains("UpdateFunction"), "{told}");
    developer.create(&[]).await.expect("without hosts it is the developer's");
    lacks("admin", HOSTS, developer.update(&[HOSTS], function("", &[CRM])).await);
    lacks("admin", HOSTS, developer.update(&[], function("function lambda() {}", &[CRM])).await);
    lacks("developer", "source", admin.update(&["source"], function("function lambda() {}", &[])).await);
    lacks("developer", "source", admin.update(&["*"], function("function lambda() {}", &[CRM])).await);
    admin.update(&[HOSTS], function("", &[CRM])).await.expect("the hosts are the admin's");

    // Nor does a developer take them away, by any way of naming them.
    lacks("admin", HOSTS, developer.update(&["settings"], function("", &[])).await);
    lacks("admin", HOSTS, developer.update(&["*"], function("function lambda() {}", &[])).await);
    developer.update(&["source"], function("function lambda() {}", &[])).await.expect("the source");
    assert_eq!(developer.deploy(0, false).await.expect("what an admin has allowed"), 1);

    // Then the admin takes the host out of service, and no rollback brings it back by itself.
    admin.update(&[HOSTS], function("", &[])).await.expect("the hosts are the admin's");
    assert_eq!(developer.deploy(0, false).await.expect("fewer hosts"), 2);
    for validate_only in [true, false] {
        let told = lacks("admin", HOSTS, developer.deploy(1, validate_only).await);
        assert!(told.contains(CRM), "{told}");
    }
    assert_eq!(both.deploy(1, false).await.expect("both roles"), 1);
    assert_eq!(developer.deploy(1, false).await.expect("it is live"), 1);
    assert_eq!(developer.deploy(2, false).await.expect("fewer hosts"), 2);

    // A lambda that a test brings along may call what is live may, and no more.
    lacks("admin", "lambda.settings.allowed_hosts", developer.test(&[CRM]).await);
    both.test(&[CRM]).await.expect("both roles");
    developer.test(&[]).await.expect("no hosts");
    assert_eq!(both.deploy(1, false).await.expect("both roles"), 1);
    eventually("the invoker knows what is live", async || developer.test(&[CRM]).await.ok()).await;
    lacks("admin", "lambda.settings.allowed_hosts", developer.test(&[CRM, "other.example.com"]).await);
}
