//! How soon what an admin does takes effect where lambdas run.

use std::time::{Duration, Instant};

use chatfn_proto::registry::v1::{
    DeleteSecretRequest, FunctionSettings, SetSecretRequest, secret_service_client::SecretServiceClient,
};
use serde_json::{Value, json};
use tonic::Code;

use crate::{
    measure::{median, microseconds, milliseconds, quantile, rounded},
    world::{World, result},
};

/// Changes per kind and round.
const CHANGES: usize = 40;
const RUNS: usize = 200;

/// Nobody listens there, so a call that is allowed fails at once, otherwise than one that is refused.
const HOST: &str = "127.0.0.1:9";

const CALLS: &str = "
async function lambda() {
  try { await fetch('http://127.0.0.1:9/'); } catch (error) { return String(error.message).includes('allowed_hosts'); }
}";

const READS: &str = "
const { Toolbelt } = require('lp-faas-toolbelt');
async function lambda() {
  return Toolbelt.SecretClient().readSecret('key').then(() => false, () => true);
}";

/// See the table on the front page.
pub(crate) async fn measure(rounds: usize) -> Value {
    let world = World::start().await;
    world.create().await;
    let mut of_all = [const { vec![] }; 7];
    let mut number = 0;
    for round in 1..=rounds {
        let (mut live, mut sent_live, mut deploys) = (vec![], vec![], vec![]);
        let (mut gone, mut revoked, mut deleted) = (vec![], vec![], vec![]);
        for _ in 0..CHANGES {
            number += 1;
            world.edit(returns(number), FunctionSettings::default()).await;
            let sent = Instant::now();
            world.deploy().await;
            let answered = Instant::now();
            until(async || result(&world.invoke().await.expect("it is live")) == number).await;
            live.push(milliseconds(answered.elapsed()));
            sent_live.push(milliseconds(sent.elapsed()));
            deploys.push(milliseconds(answered - sent));

            world.undeploy().await;
            gone.push(
                after(async || world.invoke().await.is_err_and(|it| it.code() == Code::NotFound)).await,
            );
            revoked.push(revoke_host(&world).await);
            deleted.push(delete_secret(&world).await);
        }
        world.edit(returns(0), FunctionSettings::default()).await;
        world.deploy().await;
        let mut invokes = vec![];
        for _ in 0..RUNS {
            invokes.push(microseconds(async { _ = world.invoke().await.expect("it runs") }).await);
        }
        eprintln!("live, round {round}: p99 {:.1} ms after a deploy", quantile(&live, 0.99));
        let figures = [
            quantile(&live, 0.99),
            quantile(&sent_live, 0.99),
            quantile(&deploys, 0.5),
            quantile(&gone, 0.99),
            quantile(&revoked, 0.99),
            quantile(&deleted, 0.99),
            quantile(&invokes, 0.5) / 1e3,
        ];
        for (all, figure) in of_all.iter_mut().zip(figures) {
            all.push(figure);
        }
    }
    let [live, sent_live, deploys, gone, revoked, deleted, invokes] = of_all;
    json!({
        "deploy_to_live_p99_ms": median(&live),
        "deploy_to_live_limit_ms": 250,
        "deploy_sent_to_live_p99_ms": median(&sent_live),
        "deploy_p50_ms": median(&deploys),
        "undeploy_to_gone_p99_ms": median(&gone),
        "host_revoked_p99_ms": median(&revoked),
        "secret_deleted_p99_ms": median(&deleted),
        "invoke_p50_ms": rounded(median(&invokes)),
    })
}

fn returns(number: i32) -> String {
    format!("async function lambda() {{ return {number}; }}")
}

async fn revoke_host(world: &World) -> f64 {
    let settings = |hosts: &[&str]| FunctionSettings {
        allowed_hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
        ..FunctionSettings::default()
    };
    world.edit(CALLS.to_owned(), settings(&[HOST])).await;
    world.deploy().await;
    until(async || result(&world.invoke().await.expect("it is live")) == false).await;
    world.edit(CALLS.to_owned(), settings(&[])).await;
    world.deploy().await;
    after(async || result(&world.invoke().await.expect("it is live")) == true).await
}

async fn delete_secret(world: &World) -> f64 {
    let mut secrets = SecretServiceClient::new(world.registry.clone());
    let set = SetSecretRequest {
        parent: "accounts/bench".into(),
        key: "key".into(),
        value: "value".into(),
        ..SetSecretRequest::default()
    };
    secrets.set_secret(set).await.expect("it is set");
    world.edit(READS.to_owned(), FunctionSettings::default()).await;
    world.deploy().await;
    until(async || result(&world.invoke().await.expect("it is live")) == false).await;
    let name = "accounts/bench/secrets/key".to_owned();
    secrets.delete_secret(DeleteSecretRequest { name, ..Default::default() }).await.expect("it is deleted");
    after(async || result(&world.invoke().await.expect("it is live")) == true).await
}

/// Runs until `is_so`: nothing else tells what runs.
async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < Duration::from_secs(30), "it never takes effect");
    }
}

/// The milliseconds until `is_so`.
async fn after(is_so: impl AsyncFnMut() -> bool) -> f64 {
    let begun = Instant::now();
    until(is_so).await;
    milliseconds(begun.elapsed())
}
