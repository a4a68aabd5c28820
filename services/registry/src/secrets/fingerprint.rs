//! Recognises a request that holds a value without keeping anything by which the value could be guessed.

use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::ExposeSecret as _;
use sha2::Sha256;

use super::keys::{KeyRing, MasterKey};
use crate::mutation::Fingerprint;

/// Keeps this use of a master key apart from all others.
const LABEL: &[u8] = b"chatfn/registry/request-fingerprint/1";

/// Fingerprints of a request under every key, the active one first: a repetition may come after the keys were changed. A
/// plain hash would let whoever reads the database try all short values.
pub(super) fn fingerprints(keys: &KeyRing, request: &[u8]) -> Vec<Fingerprint> {
    keys.iter().map(|key| fingerprint(key, request)).collect()
}

fn fingerprint(key: &MasterKey, request: &[u8]) -> Fingerprint {
    let subkey = mac(key.key.expose_secret(), LABEL);
    mac(&subkey, request)
}

fn mac(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repetition_is_recognised_after_a_rotation_and_by_nobody_without_the_key() {
        let key = |id: &str, byte: &str| format!("{id}: {}=\n", byte.repeat(43));
        let before = KeyRing::parse(&key("a", "A")).unwrap();
        let after = KeyRing::parse(&(key("b", "8") + &key("a", "A"))).unwrap();
        let others = KeyRing::parse(&key("a", "w")).unwrap();
        let kept = fingerprints(&before, b"request")[0];
        assert_eq!(fingerprints(&after, b"request")[1], kept);
        assert_ne!(fingerprints(&after, b"request")[0], kept);
        assert_ne!(fingerprints(&others, b"request")[0], kept);
        assert_ne!(fingerprints(&before, b"another")[0], kept);
    }
}
