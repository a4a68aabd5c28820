//! A change that a caller asks for: made once, however often it is asked for, and never without an entry in the audit.
//!
//! [`Mutation`] is who asks and how a repetition is recognised; [`Change`] is the transaction. What a repetition is
//! answered with, the entry of the audit and the change itself are committed together or not at all.

use chatfn_domain::{caller::Caller, name::AccountId};
use chatfn_proto::registry::v1 as wire;
use prost::Message;
use secrecy::zeroize::Zeroizing;
use sha2::{Digest as _, Sha256};
use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use uuid::Uuid;

use crate::{
    audit::Entry,
    error::{RegistryError, commit},
    store::{audit, requests},
};

/// Most answers that are kept for an account. Each may hold a source.
const MAX_ANSWERS: i64 = 1_000;

/// A request for a change.
pub(crate) trait MutationRequest: Message {
    /// Tells requests of different methods apart that have equal bytes.
    const NAME: &'static str;

    /// Takes the id out, so that what is left is what was asked for.
    fn take_request_id(&mut self) -> String;

    /// Whether the change is only to be tried.
    fn is_dry(&self) -> bool;
}

macro_rules! mutation_requests {
    ($($request:ident { is_dry: $is_dry:expr }),+ $(,)?) => {$(
        impl MutationRequest for wire::$request {
            const NAME: &'static str = stringify!($request);

            fn take_request_id(&mut self) -> String {
                std::mem::take(&mut self.request_id)
            }

            fn is_dry(&self) -> bool {
                let is_dry: fn(&Self) -> bool = $is_dry;
                is_dry(self)
            }
        }
    )+};
}

mutation_requests! {
    CreateFunctionRequest { is_dry: |it| it.validate_only },
    UpdateFunctionRequest { is_dry: |it| it.validate_only },
    DeleteFunctionRequest { is_dry: |_| false },
    DeployFunctionRequest { is_dry: |it| it.validate_only },
    UndeployFunctionRequest { is_dry: |_| false },
    SetSecretRequest { is_dry: |_| false },
    DeleteSecretRequest { is_dry: |_| false },
}

/// What recognises a request: 32 bytes made of it.
pub(crate) type Fingerprint = [u8; 32];

/// Who asks for a change, and how.
#[derive(Debug, Clone)]
pub(crate) struct Mutation {
    /// Who asks for it.
    pub(crate) caller: Caller,
    /// What a repetition has, too.
    pub(crate) request_id: Option<Uuid>,
    /// Any of these recognises the request; the first is kept.
    fingerprints: Vec<Fingerprint>,
    /// Whether the change is only tried: all of it is done, and taken back.
    pub(crate) is_dry: bool,
}

impl Mutation {
    /// What `request`, from which the id is taken, asks for on behalf of `caller`.
    pub(crate) fn of<T: MutationRequest>(caller: &Caller, request: &mut T) -> Self {
        Self::recognised_by(caller, request, |bytes| vec![Sha256::digest(bytes).into()])
    }

    /// As [`Mutation::of`], recognised by what `fingerprint` makes of the request.
    pub(crate) fn recognised_by<T: MutationRequest>(
        caller: &Caller,
        request: &mut T,
        fingerprint: impl FnOnce(&[u8]) -> Vec<Fingerprint>,
    ) -> Self {
        let is_dry = request.is_dry();
        // The contract's rules let nothing but a UUID or nothing at all through. What is tried leaves nothing to repeat.
        let request_id = Uuid::parse_str(&request.take_request_id()).ok().filter(|_| !is_dry);
        let fingerprints = request_id.map_or_else(Vec::new, |_| {
            let mut bytes = Zeroizing::new(Vec::with_capacity(T::NAME.len() + 1 + request.encoded_len()));
            bytes.extend(T::NAME.as_bytes());
            bytes.push(0);
            request.encode(&mut *bytes).expect("a vector grows");
            fingerprint(&bytes)
        });
        Self { caller: caller.clone(), request_id, fingerprints, is_dry }
    }

    /// The first answer, if this has been answered before.
    pub(crate) async fn repeated<R: Message + Default>(
        &self,
        db: &mut PgConnection,
        account: &AccountId,
    ) -> Result<Option<R>, RegistryError> {
        let Some(id) = self.request_id else { return Ok(None) };
        let Some(kept) = requests::find(db, account, self.caller.subject(), id).await? else {
            return Ok(None);
        };
        if !self.fingerprints.iter().any(|fingerprint| kept.fingerprint == fingerprint) {
            return Err(RegistryError::RequestIdReused(id));
        }
        let answer =
            R::decode(kept.response.as_slice()).map_err(|error| sqlx::Error::Decode(error.into()))?;
        Ok(Some(answer))
    }
}

/// A change, begun, or what it was answered with before.
pub(crate) enum Begun<R> {
    /// To be made.
    Change(Change),
    /// Made before.
    Repeated(R),
}

/// The transaction of a change. Dropping it takes everything back.
pub(crate) struct Change {
    db: Transaction<'static, Postgres>,
    account: AccountId,
    mutation: Mutation,
}

impl Change {
    /// Begins the change. If the same request is being answered just now, waits until that is over.
    pub(crate) async fn begin<R: Message + Default>(
        db: &PgPool,
        account: &AccountId,
        mutation: Mutation,
    ) -> Result<Begun<R>, RegistryError> {
        let mut db = db.begin().await?;
        if let (Some(id), Some(fingerprint)) = (mutation.request_id, mutation.fingerprints.first()) {
            // An answer that is old enough may be removed between the two statements: then this is no repetition.
            while !requests::claim(&mut db, account, mutation.caller.subject(), id, fingerprint).await? {
                if let Some(answer) = mutation.repeated(&mut db, account).await? {
                    return Ok(Begun::Repeated(answer));
                }
            }
            requests::keep_newest(&mut db, account, MAX_ANSWERS).await?;
        }
        Ok(Begun::Change(Self { db, account: account.clone(), mutation }))
    }

    /// The connection, inside the transaction.
    pub(crate) fn db(&mut self) -> &mut PgConnection {
        &mut self.db
    }

    /// Whether the change is only tried.
    pub(crate) fn is_dry(&self) -> bool {
        self.mutation.is_dry
    }

    /// Who makes it.
    pub(crate) fn caller(&self) -> &Caller {
        &self.mutation.caller
    }

    /// Commits the change with its `entry`, `None` if nothing was changed, and keeps the answer for repetitions. What
    /// is only tried is taken back.
    pub(crate) async fn finish<R: Message>(
        mut self,
        entry: Option<Entry>,
        answer: R,
    ) -> Result<R, RegistryError> {
        if let Some(entry) = entry {
            audit::insert(&mut self.db, &self.account, &self.mutation, &entry).await?;
        }
        if let Some(id) = self.mutation.request_id {
            let bytes = answer.encode_to_vec();
            let caller = self.mutation.caller.subject();
            requests::answer(&mut self.db, &self.account, caller, id, &bytes).await?;
        }
        if self.mutation.is_dry {
            self.db.rollback().await?;
        } else {
            commit(self.db).await?;
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "6f1c7a0e-5d3b-4c8e-9a51-0c2d6e7f8a90";

    fn create(environment: &[(&str, &str)]) -> wire::CreateFunctionRequest {
        let environment =
            environment.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        let settings = wire::FunctionSettings { environment, ..Default::default() };
        wire::CreateFunctionRequest {
            function: Some(wire::Function { settings: Some(settings), ..Default::default() }),
            request_id: ID.to_owned(),
            ..Default::default()
        }
    }

    fn of<T: MutationRequest>(mut request: T) -> Mutation {
        Mutation::of(&Caller::anonymous(), &mut request)
    }

    #[test]
    fn equal_requests_have_equal_fingerprints_and_others_have_not() {
        let request = || create(&[("A", "1"), ("B", "2"), ("C", "3")]);
        assert_eq!(
            of(request()).fingerprints,
            of(create(&[("C", "3"), ("B", "2"), ("A", "1")])).fingerprints
        );
        assert_ne!(of(request()).fingerprints, of(create(&[("A", "1")])).fingerprints);
        let other_id = wire::CreateFunctionRequest { request_id: ID.replace('6', "7"), ..request() };
        assert_eq!(of(other_id).fingerprints, of(request()).fingerprints);

        let delete = wire::DeleteFunctionRequest { request_id: ID.to_owned(), ..Default::default() };
        let undeploy = wire::UndeployFunctionRequest { request_id: ID.to_owned(), ..Default::default() };
        assert_ne!(of(delete).fingerprints, of(undeploy).fingerprints, "another method, of the same bytes");
    }

    #[test]
    fn what_is_only_tried_is_not_kept() {
        let dry = wire::CreateFunctionRequest { validate_only: true, ..create(&[]) };
        assert_eq!(of(dry).request_id, None);
        assert!(of(create(&[])).request_id.is_some());
    }
}
