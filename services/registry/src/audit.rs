//! Who changed what: entries of the audit, and the list of them.

use std::str::FromStr as _;

use chatfn_domain::name::{AccountId, FunctionName, SecretName};
use chatfn_proto::{
    registry::v1::{self as wire, AuditAction},
    validate::Violations,
};
use futures_util::{StreamExt as _, TryStreamExt as _};
use prost_types::Timestamp;
use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    error::RegistryError,
    grpc::wire as to_wire,
    page::{ListKey, Page, fill},
    store::{
        audit::{self, Range},
        functions::Function,
        secrets::Secret,
    },
};

/// What was done to a thing.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) action: AuditAction,
    /// Resource name of the thing.
    pub(crate) resource: String,
    pub(crate) before: Option<State>,
    pub(crate) after: Option<State>,
    pub(crate) changed_fields: Vec<&'static str>,
    pub(crate) message: String,
    /// Why it failed; empty when it did not.
    pub(crate) error_reason: &'static str,
}

impl Entry {
    /// The action, done to a thing that was and becomes nothing as yet.
    pub(crate) fn new(action: AuditAction, resource: impl ToString) -> Self {
        Self {
            action,
            resource: resource.to_string(),
            before: None,
            after: None,
            changed_fields: Vec::new(),
            message: String::new(),
            error_reason: "",
        }
    }

    /// The thing was this before.
    pub(crate) fn before(self, before: impl Into<Option<State>>) -> Self {
        Self { before: before.into(), ..self }
    }

    /// The thing is this now.
    pub(crate) fn after(self, after: impl Into<Option<State>>) -> Self {
        Self { after: after.into(), ..self }
    }
}

/// What a thing is at a time.
#[derive(Debug, Clone)]
pub(crate) struct State {
    /// Empty for secrets, whose values it would let be guessed.
    pub(crate) digest: String,
    /// 0 for drafts.
    pub(crate) version: i64,
}

impl State {
    /// The function's draft.
    pub(crate) fn draft(function: &Function) -> Self {
        Self { digest: function.draft_digest.clone(), version: 0 }
    }

    /// What is live of the function.
    pub(crate) fn live(function: &Function) -> Option<Self> {
        let digest = function.live_digest.clone().unwrap_or_default();
        function.live_version.map(|version| Self { digest, version })
    }

    /// The secret.
    pub(crate) fn secret(secret: &Secret) -> Self {
        Self { digest: String::new(), version: secret.revision }
    }
}

/// Which entries to list.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    /// The function or secret, if not empty.
    pub(crate) resource: String,
    /// The earliest time.
    pub(crate) start_time: Option<Timestamp>,
    /// What all times are before.
    pub(crate) end_time: Option<Timestamp>,
}

/// A page of an account's entries, newest first.
pub(crate) async fn list(
    db: &PgPool,
    account: &AccountId,
    filter: Filter,
    size: i32,
    token: &str,
) -> Result<Page<wire::AuditEntry>, RegistryError> {
    if !filter.resource.is_empty() {
        check_resource(account, &filter.resource)?;
    }
    let start = filter.start_time.map_or(Ok(MIN_MICROS), |time| micros("start_time", &time))?;
    let end = filter.end_time.map_or(Ok(MAX_MICROS), |time| micros("end_time", &time))?;
    let (start_text, end_text) = (start.to_string(), end.to_string());
    let key_parts = ["audit", account.as_str(), &filter.resource, &start_text, &end_text];
    let key = ListKey(&key_parts);
    let before = match key.position(token)? {
        // Nothing at the end itself is before it.
        None => (end, Uuid::nil()),
        Some(position) => parse_position(&position).ok_or(RegistryError::InvalidPageToken)?,
    };
    let range = Range { from_micros: start, before };
    let mut db = db.acquire().await?;
    let stored = if filter.resource.is_empty() {
        audit::list(&mut db, account, range).boxed()
    } else {
        audit::list_of(&mut db, account, &filter.resource, range).boxed()
    };
    let items = stored.map_ok(|entry| to_wire::audit_entry(account, entry));
    fill(key, size, items, position).await
}

/// Times that the wire type allows: from the year 1 to the end of 9999.
const MIN_MICROS: i64 = -62_135_596_800_000_000;
const MAX_MICROS: i64 = 253_402_300_800_000_000;

fn micros(field: &str, time: &Timestamp) -> Result<i64, Violations> {
    let is_valid = (0..1_000_000_000).contains(&time.nanos);
    time.seconds
        .checked_mul(1_000_000)
        .filter(|micros| is_valid && (MIN_MICROS..MAX_MICROS).contains(micros))
        .map(|micros| micros + i64::from(time.nanos / 1_000))
        .ok_or_else(|| Violations::one(field, "must be a time such as 2026-01-31T12:00:00Z"))
}

fn check_resource(account: &AccountId, resource: &str) -> Result<(), Violations> {
    let of = FunctionName::from_str(resource)
        .map(|name| name.account)
        .or_else(|_| SecretName::from_str(resource).map(|name| name.account));
    if of.is_ok_and(|of| of == *account) {
        Ok(())
    } else {
        let message = format!(
            "must be the name of a function or a secret of the account, such as accounts/{account}/functions/chat.start"
        );
        Err(Violations::one("resource", message))
    }
}

/// Where in the list an entry lies: its time and what its name ends with.
fn position(entry: &wire::AuditEntry) -> String {
    let time = entry.time.unwrap_or_default();
    let micros = time.seconds * 1_000_000 + i64::from(time.nanos / 1_000);
    let uid = entry.name.rsplit_once('/').map_or("", |(_, uid)| uid);
    format!("{micros}/{uid}")
}

fn parse_position(text: &str) -> Option<(i64, Uuid)> {
    let (micros, uid) = text.split_once('/')?;
    Some((micros.parse().ok()?, uid.parse().ok()?))
}
