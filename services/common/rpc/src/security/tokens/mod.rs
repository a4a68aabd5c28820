//! Signed tokens (RFC 7519) of people and programs.
//!
//! A token names the key that it is signed with (`kid`), its issuer, audience and expiry, who it was issued to (`sub`),
//! an `account` (or `*`, for whoever acts for all of them) and `roles`. Nothing else in it means anything here.

pub mod dev;
mod keys;
mod ring;

use std::{collections::HashMap, sync::Arc, time::Duration};

use ::ring::digest::{SHA256, digest};
use chatfn_domain::caller::{Caller, Role, Scope};
use jsonwebtoken::{Header, Validation, decode, decode_header, errors::ErrorKind};
use moka::sync::Cache;
use tonic::Code;

pub use self::keys::KeysError;
use self::keys::{KeySet, VerifyingKey};
use super::remaining;
use crate::{ApiError, reasons};

/// Tokens that are remembered as valid, so that a signature is checked once and not at every call.
const REMEMBERED: u64 = 10_000;

/// Longest subject: it goes into logs and audits.
const MAX_SUBJECT_BYTES: usize = 256;

/// What every token must say.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) issuer: String,
    pub(super) audience: String,
    pub(super) leeway: Duration,
}

/// Checks tokens with one set of keys. Another set has another one of these, so that nothing is remembered of keys that
/// are gone.
pub(crate) struct Tokens {
    keys: HashMap<String, VerifyingKey>,
    rules: Rules,
    /// By the SHA-256 of the token.
    remembered: Cache<[u8; 32], Arc<Valid>>,
}

/// A token that was valid when it was checked; all of it but its expiry still is.
#[derive(Debug)]
pub(crate) struct Valid {
    pub(crate) caller: Caller,
    /// Seconds since 1970, as the token has it.
    expires: u64,
}

/// What is read of a token besides what the library checks.
#[derive(serde::Deserialize)]
struct Claims {
    sub: String,
    account: String,
    /// Other programs may have roles of their own in the same token.
    roles: Vec<String>,
    exp: f64,
}

impl Tokens {
    pub(super) fn load(keys: &[u8], rules: Rules) -> Result<Self, KeysError> {
        ring::install();
        let KeySet { keys, ignored } = keys::parse(keys)?;
        for ignored in ignored {
            tracing::warn!("a key of tokens is left out: {ignored}; tokens that it has signed are refused");
        }
        Ok(Self { keys, rules, remembered: Cache::new(REMEMBERED) })
    }

    /// Whose token this is.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` with the reason, and what to do. Repeats nothing of the token but the id of its key.
    pub(crate) fn check(&self, token: &str) -> Result<Arc<Valid>, ApiError> {
        let id: Option<[u8; 32]> = digest(&SHA256, token.as_bytes()).as_ref().try_into().ok();
        if let Some(valid) = id.and_then(|id| self.remembered.get(&id)) {
            return if self.remaining(&valid).is_none() { Err(expired()) } else { Ok(valid) };
        }
        let valid = Arc::new(self.verify(token)?);
        if let Some(id) = id {
            self.remembered.insert(id, Arc::clone(&valid));
        }
        Ok(valid)
    }

    /// For how long the token goes on being valid; `None` if it has expired.
    pub(crate) fn remaining(&self, valid: &Valid) -> Option<Duration> {
        remaining(valid.expires.saturating_add(self.rules.leeway.as_secs()))
    }

    fn verify(&self, token: &str) -> Result<Valid, ApiError> {
        let header = decode_header(token).map_err(|_| malformed())?;
        let VerifyingKey { algorithm, key } = self.key(&header)?;
        if header.alg != *algorithm {
            return Err(signature());
        }
        let mut validation = Validation::new(*algorithm);
        validation.set_issuer(&[&self.rules.issuer]);
        validation.set_audience(&[&self.rules.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.validate_nbf = true;
        validation.leeway = self.rules.leeway.as_secs();
        let claims =
            decode::<Claims>(token, key, &validation).map_err(|error| self.refused(error.kind()))?.claims;
        let scope = match claims.account.as_str() {
            "*" => Scope::AllAccounts,
            account => Scope::Account(account.parse().map_err(|_| self.claims("account"))?),
        };
        if claims.sub.is_empty()
            || claims.sub.len() > MAX_SUBJECT_BYTES
            || claims.sub.chars().any(char::is_control)
        {
            return Err(self.claims("sub"));
        }
        let roles = claims.roles.iter().filter_map(|role| role.parse::<Role>().ok());
        Ok(Valid {
            caller: Caller::user(&claims.sub, scope, roles),
            // In range: the library has compared it.
            expires: claims.exp as u64,
        })
    }

    fn key(&self, header: &Header) -> Result<&VerifyingKey, ApiError> {
        // Extensions that a recipient must understand (RFC 7515, 4.1.11): none are.
        if header.crit.is_some() {
            return Err(malformed());
        }
        let id = header.kid.as_deref().unwrap_or_default();
        self.keys.get(id).ok_or_else(|| {
            unauthenticated(
                reasons::TOKEN_KEY_UNKNOWN,
                format!(
                    "the token names the key {id:?}, which is not among those of --token-keys; get a new token, or have the \
                     issuer's current keys put there"
                ),
            )
        })
    }

    fn refused(&self, kind: &ErrorKind) -> ApiError {
        match kind {
            ErrorKind::ExpiredSignature => expired(),
            ErrorKind::ImmatureSignature => unauthenticated(
                reasons::TOKEN_NOT_YET_VALID,
                "the token is not valid yet (nbf); wait, or set the clocks right",
            ),
            ErrorKind::InvalidIssuer => unauthenticated(
                reasons::TOKEN_ISSUER_WRONG,
                format!("the token is of another issuer; get one of {:?}", self.rules.issuer),
            ),
            ErrorKind::InvalidAudience => unauthenticated(
                reasons::TOKEN_AUDIENCE_WRONG,
                format!("the token is for another audience; get one for {:?}", self.rules.audience),
            ),
            ErrorKind::MissingRequiredClaim(claim) | ErrorKind::InvalidClaimFormat(claim) => {
                self.claims(claim)
            }
            ErrorKind::Json(_) => self.claims("account, roles or exp"),
            ErrorKind::InvalidSignature | ErrorKind::InvalidAlgorithm | ErrorKind::InvalidKeyFormat => {
                signature()
            }
            _ => malformed(),
        }
    }

    fn claims(&self, which: &str) -> ApiError {
        unauthenticated(
            reasons::TOKEN_CLAIMS_INVALID,
            format!(
                "the token lacks a valid {which}; it must have iss ({:?}), aud ({:?}), exp, sub (1 to {MAX_SUBJECT_BYTES} \
                 bytes), account (an account, or * for all) and roles (a list of admin, developer, invocation)",
                self.rules.issuer, self.rules.audience
            ),
        )
    }
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("keys", &self.keys.keys()).finish_non_exhaustive()
    }
}

fn unauthenticated(reason: reasons::Reason, message: impl Into<String>) -> ApiError {
    ApiError::new(Code::Unauthenticated, reason, message)
}

fn malformed() -> ApiError {
    unauthenticated(
        reasons::TOKEN_MALFORMED,
        "what follows `authorization: Bearer` is not a signed JSON Web Token; send one as its issuer gave it",
    )
}

fn signature() -> ApiError {
    unauthenticated(
        reasons::TOKEN_SIGNATURE_INVALID,
        "the token's signature is not that of the key and algorithm that it names; get a new one from its issuer",
    )
}

/// What the holder of a token that has expired is told.
pub(crate) fn expired() -> ApiError {
    unauthenticated(reasons::TOKEN_EXPIRED, "the token has expired (exp); get a new one from its issuer")
}

#[cfg(test)]
mod tests;
