//! The secrets that lambdas read.
//!
//! Promises: a run reads secrets of its own account and of no other; a secret that was changed or deleted is so for
//! every later read that begins 250 ms after; while the registry is away, the value that was read last serves on
//! for an hour; reads of one secret that coincide are one call of the registry. Values are wiped when they are dropped
//! here, are never shown by `Debug`, and are taken out of the reports of the runs that read them (`redact.rs`).

mod cache;
mod escapes;
mod forms;
mod needles;
mod questions;
mod read;
mod redact;
mod turns;

use std::{panic::resume_unwind, time::Duration};

use chatfn_domain::{
    name::{AccountId, NameError, SecretName},
    reasons::{Reason, runs},
};
use chatfn_proto::{
    invoker::v1::RunReport,
    registry::v1::{AccessSecretRequest, secret_access_service_client::SecretAccessServiceClient},
};
use chatfn_rpc::{Client, ErrorReport, RequestExt as _};
use secrecy::SecretString;
use tokio::time::Instant;
use tonic::{Code, Request, Status};

use self::{cache::Cache, needles::Needles, questions::Questions, turns::Turns};
pub(crate) use self::{read::SecretsRead, redact::ReportLimits};
use crate::rate::RateLimits;

/// Questions to the registry per second of one account. Secrets that are read all the time are asked for five times per
/// second, so this is enough for forty of them.
const ASKED_PER_SECOND: u32 = 200;
/// Questions to the registry at once; one account has at most three quarters of them.
const MAX_ASKING: usize = 64;
/// Bytes of values and texts that are searched without leaving the thread, in less than a millisecond.
const SEARCHED_AT_ONCE: usize = 16 << 10;

/// Why there is no value. The text is for the author of the lambda: it says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SecretError {
    /// No secret can have this key.
    #[error("the first argument of readSecret {0}")]
    InvalidKey(#[from] NameError),
    /// The account has none of this key.
    #[error("there is no secret {0}; an admin of the account creates it, with SecretService.SetSecret")]
    NotFound(SecretName),
    /// The lambda did not want to wait any longer.
    #[error("the secret could not be read within {0:?}; try again, or give readSecret a longer timeout")]
    TimedOut(Duration),
    /// The registry cannot be reached, and no value is remembered.
    #[error("the secret cannot be read at the moment ({0}); try again")]
    Unavailable(String),
    /// The registry does not give secrets to this invoker.
    #[error("the registry refuses to give the secret: {0}")]
    Refused(String),
    /// The run has read as many as it may.
    #[error("a run may ask for at most {0} different secrets")]
    TooMany(usize),
    /// The account asks more than it may.
    #[error(
        "more than {0} questions for secrets per second of this account; read less often, and without useCache: false"
    )]
    TooOften(u32),
}

impl SecretError {
    /// The stable reason, which guest/prelude/86-toolbelt-secrets.js translates.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::InvalidKey(_) => runs::SECRET_KEY_INVALID,
            Self::NotFound(_) => runs::SECRET_NOT_FOUND,
            Self::TimedOut(_) => runs::SECRET_TIMED_OUT,
            Self::Unavailable(_) => runs::SECRETS_UNAVAILABLE,
            Self::Refused(_) => runs::SECRET_REFUSED,
            Self::TooMany(_) => runs::TOO_MANY_SECRETS,
            Self::TooOften(_) => runs::RATE_LIMITED,
        }
    }
}

/// The secrets of all accounts, read from the registry.
pub(crate) struct Secrets {
    registry: Client,
    cache: Cache,
    rates: RateLimits<AccountId>,
    questions: Questions,
    /// Of large reports, to be searched.
    turns: Turns,
}

impl Secrets {
    /// Connects when the first secret is read.
    pub(crate) fn new(registry: Client) -> Self {
        Self {
            registry,
            cache: Cache::new(),
            rates: RateLimits::new(ASKED_PER_SECOND),
            questions: Questions::new(MAX_ASKING),
            turns: Turns::new(),
        }
    }

    /// The value of a secret. Without `use_cache` one that the registry gives after this call began, unless its account
    /// asks too often. Cancel safe.
    ///
    /// # Errors
    /// See [`SecretError`].
    pub(crate) async fn read(&self, name: &SecretName, use_cache: bool) -> Result<cache::Value, SecretError> {
        self.cache.read(name, use_cache, || self.admit(&name.account), |limit| self.ask(name, limit)).await
    }

    /// Leave to ask the registry once.
    fn admit(&self, account: &AccountId) -> Result<(), SecretError> {
        let rates = &self.rates;
        if rates.take(account, Instant::now()) {
            Ok(())
        } else {
            Err(SecretError::TooOften(rates.per_second()))
        }
    }

    /// Takes what a run of an account has read out of its report, in a thread for such work when that takes a while.
    /// Cancel safe.
    pub(crate) async fn redact(
        &self,
        account: &AccountId,
        read: &SecretsRead,
        mut report: RunReport,
        limits: ReportLimits,
    ) -> RunReport {
        let bytes = read.bytes();
        if bytes == 0 {
            return report;
        }
        if bytes + redact::searched_bytes(&report) <= SEARCHED_AT_ONCE {
            redact::redact(&Needles::of(&read.values()), &mut report, limits);
            return report;
        }
        let turn = self.turns.take(account).await;
        let values = read.values();
        let search = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            redact::redact(&Needles::of(&values), &mut report, limits);
            report
        });
        // A report that could not be searched must not be seen.
        search.await.unwrap_or_else(|error| resume_unwind(error.into_panic()))
    }

    /// Asks the registry, within `limit` of which waiting for leave is a part.
    async fn ask(&self, name: &SecretName, limit: Duration) -> Result<SecretString, SecretError> {
        let _question = self.questions.begin(&name.account).await;
        let request = Request::new(AccessSecretRequest { name: name.to_string() }).with_timeout(limit);
        let answer = SecretAccessServiceClient::new(self.registry.clone()).access_secret(request).await;
        let value = answer.map_err(|status| to_error(name, &status))?.into_inner().value;
        String::from_utf8(value.into())
            .map(SecretString::from)
            .map_err(|_| SecretError::Unavailable("its value is not text".to_owned()))
    }
}

fn to_error(name: &SecretName, status: &Status) -> SecretError {
    let message = ErrorReport::from_status(status).message;
    match status.code() {
        Code::NotFound => SecretError::NotFound(name.clone()),
        Code::PermissionDenied | Code::Unauthenticated | Code::FailedPrecondition | Code::InvalidArgument => {
            SecretError::Refused(message)
        }
        _ => SecretError::Unavailable(message),
    }
}
