//! A template of the operator's own, from its folder to a run.

use std::{fs, path::Path};

use chatfn_proto::ingest::v1::{DeliveryState, event::PayloadKind};
use chatfn_rpc::ErrorReport;
use chatfn_tests::{
    api::{Api, event, result, settings},
    cluster::Cluster,
    eventually,
};

const TEMPLATE: &str = "acme.parcel_shipped";

fn write_template(folder: &Path) {
    let folder = folder.join(TEMPLATE);
    fs::create_dir(&folder).unwrap();
    let write = |file: &str, text: &str| fs::write(folder.join(file), text).unwrap();
    write(
        "template.json",
        r#"{"display_name": "Parcel Shipped", "firing": "repeated", "description": ["x"]}"#,
    );
    write("schema.json", r#"{"type": "object", "required": ["parcel"]}"#);
    write("sample.json", r#"{"parcel": "P-1"}"#);
    write("starter.js", "async function lambda(input) { return input.payload.parcel; }");
}

#[tokio::test]
async fn an_operators_template_is_used_everywhere() {
    let mut cluster = Cluster::start().await;
    let mut api = Api::of(&cluster);
    let mut parcel = event(TEMPLATE, "e-1", "c-1");
    parcel.payload_kind = Some(PayloadKind::PayloadJson(r#"{"parcel": "P-7"}"#.into()));
    let unknown = ErrorReport::from_status(&api.publish(parcel.clone()).await.unwrap_err());
    assert_eq!(unknown.reason.as_deref(), Some("TEMPLATE_NOT_FOUND"));

    // Read at the start: a registry that runs is told nothing new.
    let folder = tempfile::tempdir().unwrap();
    write_template(folder.path());
    cluster.registry.stop().await;
    cluster.registry.flag("templates", &folder.path().display().to_string());
    cluster.registry.start();
    cluster.registry.serving().await;
    let source = "async function lambda(input) { return input.payload.parcel; }";
    api.deploy(TEMPLATE, source, settings("127.0.0.1", 1)).await;
    api.publish(parcel).await.unwrap();
    assert_eq!(result(&api.outcome("e-1").await), "P-7");
    let mut bad = event(TEMPLATE, "e-2", "c-1");
    bad.payload_kind = Some(PayloadKind::PayloadJson("{}".into()));
    let refused = ErrorReport::from_status(&api.publish(bad).await.unwrap_err());
    assert_eq!(refused.reason.as_deref(), Some("PAYLOAD_SCHEMA"));

    // A template that is taken away is gone for ingest, too; the others stay.
    cluster.registry.stop().await;
    fs::remove_dir_all(folder.path().join(TEMPLATE)).unwrap();
    cluster.registry.start();
    cluster.registry.serving().await;
    eventually("ingest hears of it", async || {
        let refused = ErrorReport::from_status(&api.publish(event(TEMPLATE, "e-3", "c-1")).await.err()?);
        (refused.reason.as_deref() == Some("TEMPLATE_NOT_FOUND")).then_some(())
    })
    .await;
    assert_eq!(api.run("chat.start", "e-4").await.state(), DeliveryState::NoFunction);
}
