//! Rows as messages of the contract.

use chatfn_domain::{
    function::FunctionState,
    name::{AccountId, FunctionName},
};
use chatfn_proto::{
    convert::from_settings,
    registry::v1::{self as wire, watch_deployments_response::Change},
};

use crate::store::{audit, deployments, functions, secrets, timestamp, versions};

/// The function.
pub(crate) fn function(row: functions::Function) -> wire::Function {
    let state = match row.state() {
        FunctionState::Draft => wire::FunctionState::Draft,
        FunctionState::Productive => wire::FunctionState::Productive,
        FunctionState::Modified => wire::FunctionState::Modified,
    };
    wire::Function {
        etag: row.etag(),
        name: function_name(&row.account, &row.template),
        display_name: row.display_name,
        description: row.description,
        source: row.source,
        settings: Some(from_settings(&row.settings)),
        state: state.into(),
        draft_digest: row.draft_digest,
        live_version: row.live_version.unwrap_or(0),
        build_error: row.build_error.map(|error| error.0.into()),
        create_time: Some(timestamp(row.create_micros)),
        update_time: Some(timestamp(row.update_micros)),
    }
}

/// The version.
pub(crate) fn version(function: &FunctionName, row: versions::Version) -> wire::Version {
    wire::Version {
        name: format!("{function}/versions/{}", row.number),
        number: row.number,
        source: row.source,
        settings: Some(from_settings(&row.settings)),
        digest: row.digest,
        message: row.message,
        create_time: Some(timestamp(row.create_micros)),
        author: row.author,
    }
}

/// The secret, without its value.
pub(crate) fn secret(row: secrets::Secret) -> wire::Secret {
    wire::Secret {
        etag: row.etag(),
        name: format!("accounts/{}/secrets/{}", row.account, row.key),
        key: row.key,
        revision: row.revision,
        create_time: Some(timestamp(row.create_micros)),
        update_time: Some(timestamp(row.update_micros)),
    }
}

/// What is live of a function: a deployment, or that there is none any more.
pub(crate) fn change(row: &deployments::Deployment, include_source: bool) -> Change {
    let function = function_name(&row.account, &row.template);
    let Some(version) = row.version else {
        return Change::Removed(wire::DeploymentRemoved { function });
    };
    Change::Deployment(wire::Deployment {
        function,
        version,
        digest: row.digest.clone().unwrap_or_default(),
        settings: row.settings.as_ref().map(|settings| from_settings(settings)),
        source: if include_source { row.source.clone().unwrap_or_default() } else { String::new() },
        deploy_time: Some(timestamp(row.change_micros)),
    })
}

/// The entry of the account's audit.
pub(crate) fn audit_entry(account: &AccountId, row: audit::StoredEntry) -> wire::AuditEntry {
    let state = |digest: Option<String>, version: Option<i64>| {
        version.map(|version| wire::AuditState { digest: digest.unwrap_or_default(), version })
    };
    // An action that an older release does not know is left unspecified.
    let action = wire::AuditAction::from_str_name(&row.action).unwrap_or_default();
    wire::AuditEntry {
        name: format!("accounts/{account}/auditEntries/{}", row.uid),
        time: Some(timestamp(row.entry_micros)),
        caller: row.caller,
        action: action.into(),
        resource: row.resource,
        before: state(row.before_digest, row.before_version),
        after: state(row.after_digest, row.after_version),
        changed_fields: row.changed_fields,
        message: row.message,
        request_id: row.request_id.map_or_else(String::new, |id| id.to_string()),
        error_reason: row.error_reason,
    }
}

fn function_name(account: &str, template: &str) -> String {
    format!("accounts/{account}/functions/{template}")
}
