use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use chatfn_domain::caller::{Identity, Role};
use serde_json::{Value, json};

use super::{
    Rules, Tokens,
    dev::{self, SigningKey},
};
use crate::ErrorReport;

fn rules() -> Rules {
    Rules { issuer: "issuer".into(), audience: "chatfn".into(), leeway: Duration::from_secs(30) }
}

fn tokens(keys: &[&SigningKey]) -> Tokens {
    Tokens::load(dev::key_set(keys.iter().copied()).as_bytes(), rules()).expect("a key set")
}

fn claims() -> Value {
    dev::claims("issuer", "chatfn", "jane", "acme", &[Role::Developer], Duration::from_secs(60))
}

/// The claims with these changed; null removes one.
fn with(changes: Value) -> Value {
    let mut claims = claims();
    for (name, value) in changes.as_object().expect("an object") {
        match value {
            Value::Null => claims.as_object_mut().and_then(|claims| claims.remove(name)),
            value => claims.as_object_mut().and_then(|claims| claims.insert(name.clone(), value.clone())),
        };
    }
    claims
}

fn reason(tokens: &Tokens, token: &str) -> String {
    let report = ErrorReport::from_status(&tokens.check(token).expect_err("refused").into());
    assert_eq!(report.code, tonic::Code::Unauthenticated);
    assert!(!report.message.contains(token) || token.len() < 4, "{}", report.message);
    report.reason.expect("a reason")
}

fn part(json: &Value) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(json.to_string())
}

#[test]
fn a_token_says_who_calls() {
    let key = SigningKey::generate("k1").expect("a key");
    let tokens = tokens(&[&key]);
    let token = key.sign(&with(json!({"roles": ["admin", "owner of another program"]}))).expect("a token");
    // The second time it is remembered.
    for _ in 0..2 {
        let caller = &tokens.check(&token).expect("valid").caller;
        assert_eq!(caller.subject(), "jane");
        assert!(caller.has_role(Role::Admin) && !caller.has_role(Role::Developer));
        assert!(caller.may_name("acme") && !caller.may_name("other"));
    }
    let platform = key.sign(&with(json!({"account": "*", "aud": ["x", "chatfn"]}))).expect("a token");
    let caller = &tokens.check(&platform).expect("valid").caller;
    assert!(caller.may_name("other") && matches!(caller.identity(), Identity::User { .. }));
}

#[test]
fn every_claim_counts() {
    let key = SigningKey::generate("k1").expect("a key");
    let tokens = tokens(&[&key]);
    let now = jsonwebtoken::get_current_timestamp();
    for (changes, expected) in [
        (json!({"exp": now - 31}), "TOKEN_EXPIRED"),
        (json!({"exp": 0}), "TOKEN_EXPIRED"),
        (json!({"exp": -1}), "TOKEN_CLAIMS_INVALID"),
        (json!({"exp": "2999-01-01"}), "TOKEN_CLAIMS_INVALID"),
        (json!({"exp": null}), "TOKEN_CLAIMS_INVALID"),
        (json!({"nbf": now + 3600}), "TOKEN_NOT_YET_VALID"),
        (json!({"nbf": "soon"}), "TOKEN_CLAIMS_INVALID"),
        (json!({"iss": "someone"}), "TOKEN_ISSUER_WRONG"),
        (json!({"iss": null}), "TOKEN_CLAIMS_INVALID"),
        (json!({"aud": "another"}), "TOKEN_AUDIENCE_WRONG"),
        (json!({"aud": ["another", "third"]}), "TOKEN_AUDIENCE_WRONG"),
        (json!({"aud": null}), "TOKEN_CLAIMS_INVALID"),
        (json!({"sub": ""}), "TOKEN_CLAIMS_INVALID"),
        (json!({"sub": "a\nb"}), "TOKEN_CLAIMS_INVALID"),
        (json!({"sub": null}), "TOKEN_CLAIMS_INVALID"),
        (json!({"account": ""}), "TOKEN_CLAIMS_INVALID"),
        (json!({"account": "accounts/acme"}), "TOKEN_CLAIMS_INVALID"),
        (json!({"account": ["acme", "other"]}), "TOKEN_CLAIMS_INVALID"),
        (json!({"account": null}), "TOKEN_CLAIMS_INVALID"),
        (json!({"roles": "admin"}), "TOKEN_CLAIMS_INVALID"),
        (json!({"roles": null}), "TOKEN_CLAIMS_INVALID"),
    ] {
        let token = key.sign(&with(changes.clone())).expect("a token");
        assert_eq!(reason(&tokens, &token), expected, "{changes}");
    }
    // Clocks differ a little.
    let token = key.sign(&with(json!({"exp": now - 5, "nbf": now + 5}))).expect("a token");
    assert!(tokens.check(&token).is_ok());
}

#[test]
fn a_token_is_valid_until_its_expiry_and_the_leeway() {
    let key = SigningKey::generate("k1").expect("a key");
    let tokens = tokens(&[&key]);
    let now = jsonwebtoken::get_current_timestamp();
    for (expires, least, most) in [(now + 60, 80, 91), (now + 4_000_000_000, 4_000_000_000, u64::MAX)] {
        let token = key.sign(&with(json!({"exp": expires}))).expect("a token");
        let valid = tokens.check(&token).expect("valid");
        let left = tokens.remaining(&valid).expect("some is left").as_secs();
        assert!((least..=most).contains(&left), "{left}");
    }
}

#[test]
fn the_key_decides_on_the_algorithm() {
    let key = SigningKey::generate("k1").expect("a key");
    let tokens = tokens(&[&key]);
    let jwk = key.jwk();
    let public = BASE64_URL_SAFE_NO_PAD.decode(jwk["x"].as_str().expect("x")).expect("base64");
    let hmac = ::ring::hmac::Key::new(::ring::hmac::HMAC_SHA256, &public);
    for (algorithm, expected) in [
        ("none", "TOKEN_MALFORMED"),
        ("HS256", "TOKEN_SIGNATURE_INVALID"),
        ("RS256", "TOKEN_SIGNATURE_INVALID"),
        ("ES256", "TOKEN_SIGNATURE_INVALID"),
    ] {
        let signed = format!("{}.{}", part(&json!({"alg": algorithm, "kid": "k1"})), part(&claims()));
        let signature = BASE64_URL_SAFE_NO_PAD.encode(::ring::hmac::sign(&hmac, signed.as_bytes()));
        assert_eq!(reason(&tokens, &format!("{signed}.{signature}")), expected, "{algorithm}");
        assert!(tokens.check(&format!("{signed}.")).is_err(), "{algorithm} without a signature");
    }
}

#[test]
fn what_was_changed_or_is_no_token_is_refused() {
    let (key, other) =
        (SigningKey::generate("k1").expect("a key"), SigningKey::generate("k1").expect("a key"));
    let tokens = tokens(&[&key]);
    let token = key.sign(&claims()).expect("a token");
    let [header, _, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!("three parts") };
    let raised = part(&with(json!({"account": "*"})));
    assert_eq!(reason(&tokens, &format!("{header}.{raised}.{signature}")), "TOKEN_SIGNATURE_INVALID");
    assert_eq!(reason(&tokens, &other.sign(&claims()).expect("a token")), "TOKEN_SIGNATURE_INVALID");

    let unknown = SigningKey::generate("k2").expect("a key").sign(&claims()).expect("a token");
    assert_eq!(reason(&tokens, &unknown), "TOKEN_KEY_UNKNOWN");
    let unnamed = format!("{}.{}.{signature}", part(&json!({"alg": "EdDSA"})), part(&claims()));
    assert_eq!(reason(&tokens, &unnamed), "TOKEN_KEY_UNKNOWN");
    // Its own key, embedded: nobody's.
    let embedded = part(&json!({"alg": "EdDSA", "kid": "k2", "jwk": key.jwk()}));
    assert_eq!(reason(&tokens, &format!("{embedded}.{}.{signature}", part(&claims()))), "TOKEN_KEY_UNKNOWN");
    let critical = part(&json!({"alg": "EdDSA", "kid": "k1", "crit": ["b64"], "b64": false}));
    assert_eq!(reason(&tokens, &format!("{critical}.{}.{signature}", part(&claims()))), "TOKEN_MALFORMED");
    for text in ["", ".", "..", "...", "a.b.c", "é.é.é", &token[1..], &format!("{token}.x")] {
        assert!(reason(&tokens, text).starts_with("TOKEN_"), "{text}");
    }
}

/// Signed by OpenSSL, and valid until the year 2100.
#[test]
fn rsa_and_curves_of_nist_are_understood() {
    let keys = json!({"keys": [
        {"kty": "RSA", "kid": "rsa", "e": "AQAB", "n": MODULUS},
        {"kty": "RSA", "kid": "rsa-pss", "alg": "PS256", "e": "AQAB", "n": MODULUS},
        {"kty": "EC", "kid": "ec", "crv": "P-256", "x": "oYZryoc2zAOGjJgnczefXS-vVoWlSu9jipT73URa4EE", "y": "AClKH-MIHBF7Mc6RV2KKj78qCPtDQC6VVWutNa3LgSQ"},
    ]});
    let tokens = Tokens::load(keys.to_string().as_bytes(), rules()).expect("a key set");
    for (id, algorithm, signature) in
        [("rsa", "RS256", RS256), ("rsa-pss", "PS256", PS256), ("ec", "ES256", ES256)]
    {
        let header = BASE64_URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{algorithm}","kid":"{id}"}}"#));
        let token = format!("{header}.{PAYLOAD}.{signature}");
        assert_eq!(tokens.check(&token).expect(algorithm).caller.subject(), "jane");
        let (other, start) =
            (if algorithm == "ES256" { RS256 } else { ES256 }, &token[..token.len() - signature.len()]);
        assert_eq!(reason(&tokens, &format!("{start}{other}")), "TOKEN_SIGNATURE_INVALID");
    }
    // A key of several algorithms is for the one that its set names.
    let header = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"PS256","kid":"rsa"}"#);
    assert_eq!(reason(&tokens, &format!("{header}.{PAYLOAD}.{PS256}")), "TOKEN_SIGNATURE_INVALID");
}

const PAYLOAD: &str = "eyJpc3MiOiJpc3N1ZXIiLCJhdWQiOiJjaGF0Zm4iLCJzdWIiOiJqYW5lIiwiZXhwIjo0MTAyNDQ0ODAwLCJhY2NvdW50IjoiYWNtZSIsInJvbGVzIjpbImRldmVsb3BlciJdfQ";
const MODULUS: &str = "v_Qt8BNQbd_gQitj92NGh67PjisbdsVMm78_QbxGjM9_IzlDr-nHqaSzaCoAD-yfyYRFzBhUZfEXoxqBZKGkD2XaCVSo9tpwrB4reiyhzl3ieLPQOsZ8Cp1DsVYuNwvl4Ctp4_rmzy-WvfM4BaAc6PZWXuFI4EKnVOL1HhBHi37g_eLtH660wbIV45Z1QWRFPEFB3L1D0bD-ZmYbBdmd1Ry7blPU_E8d3jVBSLutoFFBRLiaf1SGO7zywbIktHejXVOtzreOQAm6THi-a7MVNJgOpheGUmc1cgFNKmpNKVohtcR8qN5gSZEY-rdrbNdAoslBHDqyG7E9PYxXvY0sTw";
const RS256: &str = "BswmwSLhqc8U08CRJQaD8YcsAbrog7qeRu03gn3ExgN_fyK_aw8rbeNZqXijpNosp7MzTGG36vbk_enrhmU_7C4nKlxNJo6xvF5d3tN7eRjfyHkn1fI_7Ij3Q5qFjbRuY7FeRLjAChJGL3OsAzFOc4-mJeX925SJxiGyVTZIXDvqKQjulmb2IKL0FXsjcC43g3dKF2Nmwvkc_be_8u6pHkWXDFGwJSMUJOrnWVtY9YJk4AsYeqxL9sbsBvymXS2ZTdSCmBcOmQtjyrGGNzbR9GdBEKlqwdTK6fxzoDOsZWzCtzY8JIYMUnT2H5cQ_V6QJm515Bqpac6KCits3hChSQ";
const PS256: &str = "qaDbZugSDuF1sQYTdHZaxnyuJ_J16KGD0DWmzGycCIsVjmHVKwEuMqGe9kKocSMfq_OxPiqz1ilimFYAETEf7QUzpvIWUgjKhAmV0MpEEfJtYOn93bO0tSmPLrYXXMOpiEuWWrQTSS6ZRoKvPnAp0vVdkkctvGJgp8TOqKYpZpIlvtYNMEkssYLQxYzZbugJYL6d2wyOUdhEhlnNhMDwZYHY6EivcldTFwWCGYGFIeIuiNMHl_6dssJpuxnpUGC1MAZ2xKsZc5sA1ODlm6NaH7DizUVAQSBXScEClYNM98PCit7t7YiZF7brpwl8xugP3cvk1dylCucJznWovEST0g";
const ES256: &str = "2E5PouXwlUGl-a643WOuQs0CQkrER4KeRMPmzDO_tK6PjGuj7JX1-Qx2DSRyRm_MOqNZE7MUSH1ekpDDeKQNwQ";
