//! The templates of the events, and the functions that run for them.

use std::{fs, path::Path, time::Duration};

use chatfn_proto::{
    convert::to_duration,
    registry::v1::{
        AfterLastAttempt, CreateFunctionRequest, DeployFunctionRequest, Function, FunctionSettings,
        RetryPolicy, function_service_client::FunctionServiceClient,
    },
};
use chatfn_rpc::Client;

use super::{ACCOUNTS, PATIENCE};
use crate::{history::Template, process::until};

/// Writes the folder of templates.
pub(super) fn templates(folder: &Path) -> anyhow::Result<()> {
    for template in Template::ALL {
        let folder = folder.join(template.name());
        fs::create_dir_all(&folder)?;
        let firing = if template == Template::Once { "once_per_conversation" } else { "repeated" };
        let about =
            format!(r#"{{"display_name": "Faults", "firing": "{firing}", "description": ["A test."]}}"#);
        for (file, text) in [
            ("template.json", about.as_str()),
            (
                "schema.json",
                r#"{"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"}"#,
            ),
            ("sample.json", r#"{"kind": "good", "mark": ""}"#),
            ("starter.js", "async function lambda(input, context) {}\n"),
        ] {
            fs::write(folder.join(file), text)?;
        }
    }
    Ok(())
}

/// Deploys the functions of all accounts, and waits until each is live everywhere.
pub(super) async fn deploy(registry: Client, witness: &str) -> anyhow::Result<()> {
    let mut functions = FunctionServiceClient::new(registry);
    for (account, canary) in ACCOUNTS {
        for template in Template::ALL {
            let after_last_attempt = match template {
                Template::Halting => AfterLastAttempt::Halt,
                _ => AfterLastAttempt::Skip,
            };
            let settings = FunctionSettings {
                allowed_hosts: vec![witness.to_owned()],
                environment: [
                    ("WITNESS".to_owned(), format!("http://{witness}")),
                    ("CANARY".to_owned(), canary.to_owned()),
                ]
                .into(),
                timeout: Some(to_duration(Duration::from_secs(2))),
                retry: Some(RetryPolicy {
                    max_attempts: template.max_attempts(),
                    after_last_attempt: after_last_attempt.into(),
                    initial_backoff: Some(to_duration(Duration::from_millis(50))),
                    max_backoff: Some(to_duration(Duration::from_millis(500))),
                    ..RetryPolicy::default()
                }),
                ..FunctionSettings::default()
            };
            let source = include_str!("../lambda.js").to_owned();
            let function = Function { source, settings: Some(settings), ..Function::default() };
            let request = CreateFunctionRequest {
                parent: format!("accounts/{account}"),
                template: template.name().to_owned(),
                function: Some(function),
                ..CreateFunctionRequest::default()
            };
            functions.create_function(request).await?;
            let name = format!("accounts/{account}/functions/{}", template.name());
            // Deploying again changes nothing, and tells how far the deployment has reached.
            until("the deployment is known everywhere", PATIENCE, async || {
                let request =
                    DeployFunctionRequest { name: name.clone(), ..DeployFunctionRequest::default() };
                let propagation = functions.deploy_function(request).await.ok();
                let propagation = propagation.and_then(|it| it.into_inner().propagation);
                Ok(propagation.filter(|it| it.watchers >= 3 && it.acknowledged == it.watchers))
            })
            .await?;
        }
    }
    Ok(())
}
