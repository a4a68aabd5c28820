//! Secrets of accounts: set by admins, read by invokers, and encrypted wherever they rest.
//!
//! [`envelope`] encrypts, [`keys`] has the master keys, [`rotate`] replaces them, [`fingerprint`] recognises requests. Values and keys are wiped from the
//! memory that is ours once they are not needed; copies in the buffers of the network and the allocator are not.

mod envelope;
mod fingerprint;
mod keys;
mod rotate;

use std::sync::Arc;

use bytes::Bytes;
use chatfn_domain::{
    caller::Caller,
    name::{AccountId, SecretName},
};
use chatfn_pg::Background;
use chatfn_proto::registry::v1::{self as wire, AuditAction};
use chatfn_rpc::TaskGroup;
use futures_util::TryStreamExt as _;
use secrecy::{ExposeSecret as _, SecretSlice, SecretString};
use sqlx::PgPool;
use tokio::sync::watch;

use self::envelope::OpenError;
pub(crate) use self::{
    envelope::Sealed,
    keys::{KeyRing, KeysError},
};
use crate::{
    audit::{Entry, State},
    config::SecretsConfig,
    error::RegistryError,
    grpc::wire as to_wire,
    mutation::{Begun, Change, Mutation, MutationRequest},
    page::{ListKey, Page, fill},
    store::{secrets, secrets::Secret},
};

/// Most secrets of one account.
pub(crate) const MAX_SECRETS: i64 = 500;

/// What the methods for secrets work with.
#[derive(Debug, Clone)]
pub(crate) struct Secrets {
    db: PgPool,
    /// `None`: there are no keys, so values can be neither set nor read.
    keys: Option<watch::Receiver<Arc<KeyRing>>>,
}

impl Secrets {
    /// Reads the keys, and starts to follow their file and to rotate.
    pub(crate) fn start(
        config: SecretsConfig,
        background: &Background,
        tasks: &TaskGroup,
    ) -> Result<Self, KeysError> {
        let db = background.pool().clone();
        let Some(keys) = config.keys()? else {
            tracing::info!("secrets are off: no --secret-keys-file");
            return Ok(Self { db, keys: None });
        };
        tracing::info!(active = keys.active().id, retired = ?keys.retired(), "secrets are on");
        let (sender, receiver) = watch::channel(Arc::new(keys));
        if let Some(path) = config.secret_keys_file {
            tasks.spawn("secret-keys", |stop| keys::follow(path, sender, stop));
        }
        tasks.spawn("secret-rotation", |stop| rotate::rotate(background.clone(), receiver.clone(), stop));
        Ok(Self { db, keys: Some(receiver) })
    }

    /// What the request, which may hold a value, asks for.
    pub(crate) fn mutation<T: MutationRequest>(
        &self,
        caller: &Caller,
        request: &mut T,
    ) -> Result<Mutation, RegistryError> {
        let keys = self.keys()?;
        Ok(Mutation::recognised_by(caller, request, |bytes| fingerprint::fingerprints(&keys, bytes)))
    }

    /// Creates the secret or replaces its value.
    pub(crate) async fn set(
        &self,
        name: SecretName,
        value: SecretString,
        etag: &str,
        mutation: Mutation,
    ) -> Result<wire::SetSecretResponse, RegistryError> {
        let sealed = envelope::seal(&*self.keys()?, &name, value.expose_secret().as_bytes());
        drop(value);
        let mut change = match Change::begin(&self.db, &name.account, mutation).await? {
            Begun::Change(change) => change,
            Begun::Repeated(answer) => return Ok(answer),
        };
        secrets::lock_account(change.db(), &name.account).await?;
        let before = secrets::lock(change.db(), &name).await?;
        match &before {
            Some(stored) => check_etag(&name, stored, etag)?,
            None if !etag.is_empty() => return Err(RegistryError::SecretNotFound(name)),
            None if secrets::count(change.db(), &name.account).await? >= MAX_SECRETS => {
                return Err(RegistryError::SecretLimitReached(name.account));
            }
            None => {}
        }
        secrets::set(change.db(), &name, &sealed).await?;
        let secret = secrets::get(change.db(), &name).await?.ok_or(sqlx::Error::RowNotFound)?;
        let entry = Entry::new(AuditAction::SetSecret, &name)
            .before(before.as_ref().map(State::secret))
            .after(State::secret(&secret));
        let revision = secret.revision;
        let answer = wire::SetSecretResponse { secret: Some(to_wire::secret(secret)) };
        let answer = change.finish(Some(entry), answer).await?;
        tracing::info!(secret = %name, revision, "set");
        Ok(answer)
    }

    /// What there is to know about the secret, but not its value.
    pub(crate) async fn get(&self, name: SecretName) -> Result<Secret, RegistryError> {
        let mut db = self.db.acquire().await?;
        secrets::get(&mut db, &name).await?.ok_or(RegistryError::SecretNotFound(name))
    }

    /// A page of an account's secrets.
    pub(crate) async fn list(
        &self,
        account: &AccountId,
        size: i32,
        token: &str,
    ) -> Result<Page<wire::Secret>, RegistryError> {
        let key_parts = ["secrets", account.as_str()];
        let key = ListKey(&key_parts);
        let after = key.position(token)?.unwrap_or_default();
        let mut db = self.db.acquire().await?;
        let items = secrets::list(&mut db, account, &after).map_ok(to_wire::secret);
        fill(key, size, items, |secret| secret.key.clone()).await
    }

    /// Deletes the secret.
    pub(crate) async fn delete(
        &self,
        name: SecretName,
        etag: &str,
        mutation: Mutation,
    ) -> Result<wire::DeleteSecretResponse, RegistryError> {
        let mut change = match Change::begin(&self.db, &name.account, mutation).await? {
            Begun::Change(change) => change,
            Begun::Repeated(answer) => return Ok(answer),
        };
        let Some(stored) = secrets::lock(change.db(), &name).await? else {
            return Err(RegistryError::SecretNotFound(name));
        };
        check_etag(&name, &stored, etag)?;
        secrets::delete(change.db(), &name).await?;
        let entry = Entry::new(AuditAction::DeleteSecret, &name).before(State::secret(&stored));
        let answer = change.finish(Some(entry), wire::DeleteSecretResponse {}).await?;
        tracing::info!(secret = %name, "deleted");
        Ok(answer)
    }

    /// The secret's value and revision.
    pub(crate) async fn access(&self, name: SecretName) -> Result<(Bytes, i64), RegistryError> {
        let keys = self.keys()?;
        let Some((sealed, revision)) = secrets::sealed(&self.db, &name).await? else {
            return Err(RegistryError::SecretNotFound(name));
        };
        match envelope::open(&keys, &name, &sealed) {
            Ok(value) => Ok((Bytes::from_owner(Plain(value)), revision)),
            Err(OpenError::KeyMissing(key_id)) => {
                Err(RegistryError::SecretKeyMissing { secret: name, key_id })
            }
            Err(OpenError::Damaged) => {
                Err(RegistryError::SecretDamaged { secret: name, key_id: sealed.key_id })
            }
        }
    }

    fn keys(&self) -> Result<Arc<KeyRing>, RegistryError> {
        self.keys.as_ref().map(|keys| Arc::clone(&keys.borrow())).ok_or(RegistryError::SecretsDisabled)
    }
}

/// A value on its way to an invoker; wiped once the last reference is gone.
struct Plain(SecretSlice<u8>);

impl AsRef<[u8]> for Plain {
    fn as_ref(&self) -> &[u8] {
        self.0.expose_secret()
    }
}

fn check_etag(name: &SecretName, stored: &Secret, etag: &str) -> Result<(), RegistryError> {
    let current = stored.etag();
    if etag.is_empty() || etag == current {
        Ok(())
    } else {
        Err(RegistryError::SecretChanged { secret: name.clone(), current })
    }
}
