//! The public keys that tokens are signed with: a JSON Web Key Set (RFC 7517).

use std::collections::HashMap;

use jsonwebtoken::{
    Algorithm, DecodingKey, DecodingKeyKind,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse},
};

/// Most keys of a set.
const MAX_KEYS: usize = 64;

/// Shortest modulus of an RSA key, in bytes: what ring accepts.
const MIN_RSA_BYTES: usize = 2048 / 8;

/// Why a set of keys cannot be used. `key` counts from 1.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// It is not a set of keys.
    #[error(
        "the file is not a JSON Web Key Set: it must be {{\"keys\": [ … ]}} with the public keys of the issuer"
    )]
    NotASet(#[source] serde_json::Error),
    /// It holds a secret.
    #[error(
        "key {key} is private or symmetric; leave in the file the public keys of asymmetric ones alone, and replace this one"
    )]
    Private {
        /// Place of the key.
        key: usize,
    },
    /// Two keys share an id.
    #[error("key {key} has the id of an earlier one; give each an id of its own")]
    RepeatedId {
        /// Place of the second one.
        key: usize,
    },
    /// No key can check signatures.
    #[error("no key of the file can be used: {first}")]
    NoneUsable {
        /// What is wrong with the first one.
        first: String,
    },
    /// There are no keys for signatures.
    #[error("there is no key for signatures in the file")]
    Empty,
    /// There are too many.
    #[error("there are more than {MAX_KEYS} keys in the file; remove those whose tokens have expired")]
    TooMany,
}

/// A key, and the one algorithm that it is for: a token does not get to choose.
#[derive(Debug)]
pub(super) struct VerifyingKey {
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

#[derive(serde::Deserialize)]
struct RawSet {
    keys: Vec<serde_json::Value>,
}

/// Why a key of a set is left out. `key` counts from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Ignored {
    #[error("key {0} has no id (kid), by which tokens could name it")]
    NoId(usize),
    #[error(
        "key {0} cannot be used; those that can are Ed25519, P-256, P-384 and RSA keys (of 2048 bits or more), and their alg, \
         if they have one, fits"
    )]
    Unusable(usize),
}

/// What can be used of a set.
#[derive(Debug)]
pub(super) struct KeySet {
    /// By their ids, at least one.
    pub(super) keys: HashMap<String, VerifyingKey>,
    /// What was left out, as a set may have keys that its reader does not understand (RFC 7517, 5).
    pub(super) ignored: Vec<Ignored>,
}

/// Reads a set of keys.
pub(super) fn parse(json: &[u8]) -> Result<KeySet, KeysError> {
    let set: RawSet = serde_json::from_slice(json).map_err(KeysError::NotASet)?;
    if set.keys.len() > MAX_KEYS {
        return Err(KeysError::TooMany);
    }
    let (mut keys, mut ignored) = (HashMap::new(), Vec::new());
    for (index, raw) in set.keys.into_iter().enumerate() {
        let key = index + 1;
        // `d` is the private part of all kinds, `k` the whole of a symmetric key.
        if raw.get("d").is_some() || raw.get("k").is_some() {
            return Err(KeysError::Private { key });
        }
        let Ok(jwk) = serde_json::from_value::<Jwk>(raw) else {
            ignored.push(Ignored::Unusable(key));
            continue;
        };
        // Issuers publish what they encrypt with in the same set.
        if jwk.common.public_key_use.as_ref().is_some_and(|it| *it != PublicKeyUse::Signature) {
            continue;
        }
        let Some(usable) = usable(&jwk) else {
            ignored.push(Ignored::Unusable(key));
            continue;
        };
        let Some(id) = jwk.common.key_id.filter(|id| !id.is_empty()) else {
            ignored.push(Ignored::NoId(key));
            continue;
        };
        if keys.insert(id, usable).is_some() {
            return Err(KeysError::RepeatedId { key });
        }
    }
    match (keys.is_empty(), ignored.first()) {
        (false, _) => Ok(KeySet { keys, ignored }),
        (true, None) => Err(KeysError::Empty),
        (true, Some(first)) => Err(KeysError::NoneUsable { first: first.to_string() }),
    }
}

fn usable(jwk: &Jwk) -> Option<VerifyingKey> {
    let key = DecodingKey::from_jwk(jwk).ok()?;
    let length = match key.kind() {
        DecodingKeyKind::SecretOrDer(bytes) => bytes.len(),
        DecodingKeyKind::RsaModulusExponent { n, .. } => n.len(),
    };
    let (default, fits) = match &jwk.algorithm {
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, length == 32)
        }
        AlgorithmParameters::EllipticCurve(point) => match point.curve {
            EllipticCurve::P256 => (Algorithm::ES256, length == 65),
            EllipticCurve::P384 => (Algorithm::ES384, length == 97),
            _ => return None,
        },
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, length >= MIN_RSA_BYTES),
        _ => return None,
    };
    let algorithm = match jwk.common.key_algorithm {
        None => default,
        Some(named) => Algorithm::try_from(named).ok()?,
    };
    // RSA keys have several algorithms, the others the one of their curve.
    let agrees = algorithm == default || matches!(jwk.algorithm, AlgorithmParameters::RSA(_));
    (fits && agrees && algorithm.family() == key.family()).then_some(VerifyingKey { algorithm, key })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED: &str = r#""kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo""#;

    fn set(keys: &[&str]) -> Result<KeySet, KeysError> {
        let keys: Vec<_> = keys.iter().map(|key| format!("{{{key}}}")).collect();
        parse(format!(r#"{{"keys":[{}]}}"#, keys.join(",")).as_bytes())
    }

    #[test]
    fn a_key_has_one_algorithm() {
        let keys = set(&[
            &format!(r#""kid":"a",{ED}"#),
            &format!(r#""kid":"b","alg":"EdDSA","use":"sig",{ED}"#),
            &format!(r#""kid":"c","use":"enc",{ED}"#),
        ])
        .expect("two keys for signatures");
        assert_eq!((keys.keys.len(), keys.ignored.len()), (2, 0));
        assert!(keys.keys.values().all(|key| key.algorithm == Algorithm::EdDSA));
    }

    #[test]
    fn a_key_that_is_not_understood_does_not_take_the_others_out_of_use() {
        let good = format!(r#""kid":"good",{ED}"#);
        let later = r#""kid":"later","kty":"AKP","alg":"ML-DSA-44","pub":"AAAA""#;
        for (other, expected) in [
            (later, Ignored::Unusable(2)),
            (r#""kid":"a","kty":"OKP","crv":"Ed448","x":"AAAA""#, Ignored::Unusable(2)),
            (r#""kid":"a","kty":"EC","crv":"P-521","x":"AAAA","y":"AAAA""#, Ignored::Unusable(2)),
            // Tokens of such an algorithm are of nobody here.
            (&format!(r#""kid":"a","alg":"HS256",{ED}"#), Ignored::Unusable(2)),
            (ED, Ignored::NoId(2)),
        ] {
            let read = set(&[&good, other]).expect("one key is good");
            assert_eq!(read.keys.keys().collect::<Vec<_>>(), ["good"], "{other}");
            assert_eq!(read.ignored, [expected], "{other}");
        }
        let private = r#""kid":"a","kty":"oct","k":"aHVudGVyMg""#;
        assert!(
            matches!(set(&[&good, private]), Err(KeysError::Private { key: 2 })),
            "it is in the open now"
        );
    }

    #[test]
    fn what_cannot_be_used_is_refused_without_being_repeated() {
        let short = "AQAB".repeat(40);
        for (keys, says) in [
            (vec![], "no key for signatures"),
            (vec![ED.to_owned()], "key 1 has no id"),
            (vec![format!(r#""kid":"",{ED}"#)], "key 1 has no id"),
            (vec![format!(r#""kid":"a",{ED}"#), format!(r#""kid":"a",{ED}"#)], "key 2 has the id"),
            (vec![format!(r#""kid":"a","d":"hunter2",{ED}"#)], "key 1 is private"),
            (vec![r#""kid":"a","kty":"oct","k":"aHVudGVyMg""#.to_owned()], "key 1 is private or symmetric"),
            (vec![format!(r#""kid":"a","alg":"HS256",{ED}"#)], "key 1 cannot be used"),
            (vec![format!(r#""kid":"a","alg":"RS256",{ED}"#)], "key 1 cannot be used"),
            (vec![format!(r#""kid":"a","alg":"none",{ED}"#)], "key 1 cannot be used"),
            (vec![r#""kid":"a","kty":"OKP","crv":"Ed25519","x":"AAAA""#.to_owned()], "key 1 cannot be used"),
            (
                vec![r#""kid":"a","kty":"EC","crv":"P-256","x":"AAAA","y":"AAAA""#.to_owned()],
                "key 1 cannot be used",
            ),
            (vec![format!(r#""kid":"a","kty":"RSA","e":"AQAB","n":"{short}""#)], "key 1 cannot be used"),
            (vec![r#""kid":"a","kty":"XYZ""#.to_owned()], "key 1 cannot be used"),
            (vec!["\"kid\":\"a\"".to_owned(); 65], "more than 64"),
        ] {
            let keys: Vec<_> = keys.iter().map(String::as_str).collect();
            let error = set(&keys).expect_err(says).to_string();
            assert!(error.contains(says) && !error.contains("hunter2"), "{error}");
        }
        for text in ["", "[]", "{}", r#"{"keys":1}"#, "-----BEGIN PUBLIC KEY-----"] {
            let error = parse(text.as_bytes()).expect_err(text);
            assert!(matches!(error, KeysError::NotASet(_)), "{text}");
        }
    }
}
