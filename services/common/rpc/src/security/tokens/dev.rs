//! Makes keys and tokens, for a cluster on a laptop and for tests. Production has an identity provider.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use chatfn_domain::caller::Role;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use serde_json::{Value, json};

/// An Ed25519 key that signs tokens. `Debug` shows its id alone.
pub struct SigningKey {
    id: String,
    /// PKCS #8.
    private: Vec<u8>,
    public: Vec<u8>,
}

/// A key cannot be made or read, or a token cannot be signed.
#[derive(Debug, thiserror::Error)]
#[error("the key is not an Ed25519 key in PKCS #8, or the system has no randomness")]
pub struct SigningError;

impl SigningKey {
    /// A new key.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn generate(id: &str) -> Result<Self, SigningError> {
        let private = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| SigningError)?;
        Self::from_pkcs8(id, private.as_ref())
    }

    /// The key of this PKCS #8 document (DER).
    ///
    /// # Errors
    /// It is not one of Ed25519.
    pub fn from_pkcs8(id: &str, private: &[u8]) -> Result<Self, SigningError> {
        super::ring::install();
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(private).map_err(|_| SigningError)?;
        Ok(Self { id: id.to_owned(), private: private.to_vec(), public: pair.public_key().as_ref().to_vec() })
    }

    /// The private key as a PKCS #8 document (DER).
    pub fn pkcs8(&self) -> &[u8] {
        &self.private
    }

    /// The public key, as a set of keys holds it.
    pub fn jwk(&self) -> Value {
        let x = BASE64_URL_SAFE_NO_PAD.encode(&self.public);
        json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": self.id, "x": x})
    }

    /// A token with exactly these claims.
    ///
    /// # Errors
    /// The claims cannot be written as JSON.
    pub fn sign(&self, claims: &Value) -> Result<String, SigningError> {
        let header = Header { kid: Some(self.id.clone()), ..Header::new(Algorithm::EdDSA) };
        encode(&header, claims, &EncodingKey::from_ed_der(&self.private)).map_err(|_| SigningError)
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The set of these keys, as `--token-keys` reads it.
pub fn key_set<'a>(keys: impl IntoIterator<Item = &'a SigningKey>) -> String {
    json!({"keys": keys.into_iter().map(SigningKey::jwk).collect::<Vec<_>>()}).to_string()
}

/// The claims of a token that is valid from now on.
pub fn claims(
    issuer: &str,
    audience: &str,
    subject: &str,
    account: &str,
    roles: &[Role],
    valid_for: Duration,
) -> Value {
    let now = get_current_timestamp();
    json!({
        "iss": issuer, "aud": audience, "sub": subject, "iat": now, "exp": now + valid_for.as_secs(),
        "account": account, "roles": roles.iter().map(|role| role.as_str()).collect::<Vec<_>>(),
    })
}
