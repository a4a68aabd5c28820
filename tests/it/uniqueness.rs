//! One function per account and template, whoever asks and however many at once.

use chatfn_proto::registry::v1::{CreateFunctionRequest, DeleteFunctionRequest};
use chatfn_rpc::ErrorReport;
use chatfn_tests::{api::Api, cluster::Cluster};
use tonic::Code;

#[tokio::test]
async fn of_64_creates_at_once_exactly_one_succeeds() {
    let cluster = Cluster::start().await;
    let api = Api::of(&cluster);
    let request = CreateFunctionRequest {
        parent: "accounts/acme".into(),
        template: "chat.start".into(),
        function: None,
    };
    for round in 0..3 {
        let creates = (0..64).map(|_| {
            let (mut functions, request) = (api.functions.clone(), request.clone());
            tokio::spawn(async move { functions.create_function(request).await })
        });
        let (mut created, mut refused) = (0, 0);
        for create in creates.collect::<Vec<_>>() {
            match create.await.unwrap() {
                Ok(_) => created += 1,
                Err(status) => {
                    let report = ErrorReport::from_status(&status);
                    assert_eq!(
                        (report.code, report.reason.as_deref()),
                        (Code::AlreadyExists, Some("FUNCTION_EXISTS"))
                    );
                    assert_eq!(report.resource.unwrap().name, "accounts/acme/functions/chat.start");
                    refused += 1;
                }
            }
        }
        assert_eq!((created, refused), (1, 63), "round {round}");
        let name = "accounts/acme/functions/chat.start".into();
        api.functions
            .clone()
            .delete_function(DeleteFunctionRequest { name, etag: String::new() })
            .await
            .unwrap();
    }
}
