//! Encryption of a value by a data key of its own, and of that by a master key.
//!
//! XChaCha20-Poly1305 for both. A data key is random and encrypts one value, so its nonce could be anything. A
//! master key wraps one data key for every value that is set and every secret that is rotated; its nonces are 192
//! random bits, of which 2^80 could be drawn before two are equal with a probability of 2^-32, so there is no count
//! to keep, whatever the number of processes that share the key. (With the 96 bits of AES-GCM it would be 2^32.)
//!
//! What is authenticated beside the ciphertext says whose it is: what one row holds does not decrypt in another.

use chacha20poly1305::{
    Key, KeyInit as _, XChaCha20Poly1305, XNonce,
    aead::{Aead as _, Payload},
};
use chatfn_domain::name::SecretName;
use secrecy::{ExposeSecret as _, SecretBox, SecretSlice};

use super::keys::{KEY_BYTES, KeyRing, MasterKey};

const NONCE_BYTES: usize = 24;

/// An encrypted value, as it is stored. Holds nothing that needs to be kept secret.
#[derive(Debug)]
pub(crate) struct Sealed {
    /// The master key that wraps the data key.
    pub(crate) key_id: String,
    /// The data key, encrypted by the master key.
    pub(crate) wrapped_key: Vec<u8>,
    /// The value, encrypted by the data key.
    pub(crate) ciphertext: Vec<u8>,
}

/// Why a value cannot be had. Says nothing of how far decryption came.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OpenError {
    /// The master key is not configured.
    #[error("the master key {0} is not configured")]
    KeyMissing(String),
    /// It was changed, belongs to another secret, or is by another key of the same id.
    #[error("what is stored does not decrypt")]
    Damaged,
}

/// Encrypts a value for `name`, with the active key.
pub(crate) fn seal(keys: &KeyRing, name: &SecretName, value: &[u8]) -> Sealed {
    let data_key = SecretBox::init_with_mut(random);
    let master = keys.active();
    Sealed {
        key_id: master.id.clone(),
        wrapped_key: encrypt(&master.key, &wrap_context(name, &master.id), data_key.expose_secret()),
        ciphertext: encrypt(&data_key, &value_context(name), value),
    }
}

/// The value of `name`.
pub(crate) fn open(keys: &KeyRing, name: &SecretName, sealed: &Sealed) -> Result<SecretSlice<u8>, OpenError> {
    let data_key = unwrap(keys, name, &sealed.key_id, &sealed.wrapped_key)?;
    decrypt(&data_key, &value_context(name), &sealed.ciphertext)
}

/// The data key of `name`, wrapped by the active key instead of `key_id`.
pub(crate) fn rewrap(
    keys: &KeyRing,
    name: &SecretName,
    key_id: &str,
    wrapped_key: &[u8],
) -> Result<Vec<u8>, OpenError> {
    let data_key = unwrap(keys, name, key_id, wrapped_key)?;
    let MasterKey { id, key } = keys.active();
    Ok(encrypt(key, &wrap_context(name, id), data_key.expose_secret()))
}

fn unwrap(
    keys: &KeyRing,
    name: &SecretName,
    key_id: &str,
    wrapped_key: &[u8],
) -> Result<SecretBox<[u8; KEY_BYTES]>, OpenError> {
    let master = keys.get(key_id).ok_or_else(|| OpenError::KeyMissing(key_id.to_owned()))?;
    let bytes = decrypt(&master.key, &wrap_context(name, key_id), wrapped_key)?;
    let bytes: &[u8; KEY_BYTES] = bytes.expose_secret().try_into().map_err(|_| OpenError::Damaged)?;
    Ok(SecretBox::init_with_mut(|key: &mut [u8; KEY_BYTES]| key.copy_from_slice(bytes)))
}

fn value_context(name: &SecretName) -> Vec<u8> {
    context(&["chatfn secret value 1", name.account.as_str(), name.key.as_str()])
}

fn wrap_context(name: &SecretName, key_id: &str) -> Vec<u8> {
    context(&["chatfn secret data key 1", name.account.as_str(), name.key.as_str(), key_id])
}

/// `parts`, each after its length, so that no two lists give the same bytes.
fn context(parts: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend((part.len() as u64).to_be_bytes());
        bytes.extend(part.as_bytes());
    }
    bytes
}

/// A random nonce, then the ciphertext with its tag.
fn encrypt(key: &SecretBox<[u8; KEY_BYTES]>, context: &[u8], plain: &[u8]) -> Vec<u8> {
    let mut nonce = [0; NONCE_BYTES];
    random(&mut nonce);
    let payload = Payload { msg: plain, aad: context };
    let encrypted = cipher(key).encrypt(&XNonce::from(nonce), payload).expect("a value is far below 256 GiB");
    [nonce.as_slice(), &encrypted].concat()
}

fn decrypt(
    key: &SecretBox<[u8; KEY_BYTES]>,
    context: &[u8],
    encrypted: &[u8],
) -> Result<SecretSlice<u8>, OpenError> {
    let (nonce, encrypted) = encrypted.split_first_chunk::<NONCE_BYTES>().ok_or(OpenError::Damaged)?;
    let payload = Payload { msg: encrypted, aad: context };
    let plain = cipher(key).decrypt(&XNonce::from(*nonce), payload).map_err(|_| OpenError::Damaged)?;
    Ok(plain.into())
}

/// Wipes its copy of the key when it is dropped.
fn cipher(key: &SecretBox<[u8; KEY_BYTES]>) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(<&Key>::from(key.expose_secret()))
}

fn random<const N: usize>(bytes: &mut [u8; N]) {
    getrandom::fill(bytes).expect("the operating system gives randomness");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> SecretName {
        text.parse().unwrap()
    }

    fn keys(ids: &[&str]) -> KeyRing {
        super::super::keys::testing::ring(ids)
    }

    fn opened(keys: &KeyRing, owner: &SecretName, sealed: &Sealed) -> Result<String, OpenError> {
        open(keys, owner, sealed).map(|value| String::from_utf8(value.expose_secret().to_vec()).unwrap())
    }

    #[test]
    fn what_is_sealed_opens_for_its_owner_alone() {
        let (keys, owner) = (keys(&["a"]), name("accounts/acme/secrets/crm"));
        let sealed = seal(&keys, &owner, b"hunter2");
        assert_eq!(opened(&keys, &owner, &sealed).unwrap(), "hunter2");
        for other in ["accounts/acme/secrets/crm2", "accounts/acm/secrets/ecrm", "accounts/other/secrets/crm"]
        {
            assert_eq!(opened(&keys, &name(other), &sealed), Err(OpenError::Damaged), "{other}");
        }
        let again = seal(&keys, &owner, b"hunter2");
        assert_ne!((&sealed.wrapped_key, &sealed.ciphertext), (&again.wrapped_key, &again.ciphertext));
        let mixed = Sealed { ciphertext: again.ciphertext, ..sealed };
        assert_eq!(
            opened(&keys, &owner, &mixed),
            Err(OpenError::Damaged),
            "a value under another's data key"
        );
    }

    #[test]
    fn no_bit_can_be_changed() {
        let (keys, owner) = (keys(&["a"]), name("accounts/acme/secrets/crm"));
        let sealed = seal(&keys, &owner, b"x");
        for (at, is_key) in (0..sealed.wrapped_key.len())
            .map(|at| (at, true))
            .chain((0..sealed.ciphertext.len()).map(|at| (at, false)))
        {
            let mut changed = Sealed {
                key_id: "a".into(),
                wrapped_key: sealed.wrapped_key.clone(),
                ciphertext: sealed.ciphertext.clone(),
            };
            let bytes = if is_key { &mut changed.wrapped_key } else { &mut changed.ciphertext };
            bytes[at] ^= 1;
            assert_eq!(opened(&keys, &owner, &changed), Err(OpenError::Damaged), "byte {at}");
        }
        let short = Sealed { key_id: "a".into(), wrapped_key: vec![0; 23], ciphertext: vec![] };
        assert_eq!(opened(&keys, &owner, &short), Err(OpenError::Damaged));
    }

    #[test]
    fn a_rewrapped_value_needs_the_new_key_alone() {
        let owner = name("accounts/acme/secrets/crm");
        let (old, new) = (keys(&["a"]), keys(&["b"]));
        let sealed = seal(&old, &owner, b"hunter2");
        assert_eq!(opened(&new, &owner, &sealed), Err(OpenError::KeyMissing("a".into())));
        let wrapped_key = rewrap(&keys(&["b", "a"]), &owner, "a", &sealed.wrapped_key).unwrap();
        let rotated = Sealed { key_id: "b".into(), wrapped_key, ..sealed };
        assert_eq!(opened(&new, &owner, &rotated).unwrap(), "hunter2");
        assert_eq!(opened(&old, &owner, &rotated), Err(OpenError::KeyMissing("b".into())));
    }

    #[test]
    fn the_id_of_the_key_is_bound_as_well() {
        let owner = name("accounts/acme/secrets/crm");
        let sealed = seal(&keys(&["a"]), &owner, b"hunter2");
        // The same bytes under another id.
        let renamed = super::super::keys::testing::renamed("a", "z");
        assert_eq!(
            opened(&renamed, &owner, &Sealed { key_id: "z".into(), ..sealed }),
            Err(OpenError::Damaged)
        );
    }
}
