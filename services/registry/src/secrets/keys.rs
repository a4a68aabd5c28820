//! Master keys: from a file, which is read again when it changes, or from the environment.

use std::{
    convert::Infallible,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use secrecy::{ExposeSecret as _, SecretBox, SecretString, zeroize::Zeroizing};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Bytes of a key.
pub(crate) const KEY_BYTES: usize = 32;

/// Most keys at a time.
const MAX_KEYS: usize = 16;

/// How often the file is looked at. Reading it is the one way that works for every kind of mount.
const RELOAD: Duration = Duration::from_secs(2);

/// The master keys that are configured, never empty.
#[derive(Debug)]
pub(crate) struct KeyRing(Vec<MasterKey>);

/// A key that wraps data keys.
#[derive(Debug)]
pub(crate) struct MasterKey {
    pub(crate) id: String,
    pub(crate) key: SecretBox<[u8; KEY_BYTES]>,
}

/// The keys cannot be used. Repeats nothing of what was read: it may be a key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeysError {
    #[error("the file of the secrets' keys cannot be read: {}", .path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "line {line} of the secrets' keys is not `<id>: <32 bytes in base64>`, the id 1 to 64 letters, digits, _ and -; \
         make a key with `openssl rand -base64 32`"
    )]
    Malformed { line: usize },
    #[error(
        "line {line} of the secrets' keys has the id of an earlier line; every key needs an id of its own"
    )]
    Repeated { line: usize },
    #[error("there is no key among the secrets' keys; the first line must be `<id>: <32 bytes in base64>`")]
    Empty,
    #[error("there are more than {MAX_KEYS} keys for secrets; remove those that no secret needs any more")]
    TooMany,
}

impl KeyRing {
    /// Reads lines `<id>: <32 bytes in base64>`; the first key is the active one. Empty lines and those that
    /// begin with `#` are left out.
    pub(crate) fn parse(text: &str) -> Result<Self, KeysError> {
        let mut keys: Vec<MasterKey> = Vec::new();
        for (index, text) in text.lines().enumerate() {
            let (line, text) = (index + 1, text.trim());
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let key = parse_line(text).ok_or(KeysError::Malformed { line })?;
            if keys.iter().any(|earlier| earlier.id == key.id) {
                return Err(KeysError::Repeated { line });
            }
            keys.push(key);
        }
        match keys.len() {
            0 => Err(KeysError::Empty),
            1..=MAX_KEYS => Ok(Self(keys)),
            _ => Err(KeysError::TooMany),
        }
    }

    /// The keys of a file.
    pub(crate) fn read(path: &Path) -> Result<Self, KeysError> {
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(SecretString::from(text).expose_secret()),
            Err(source) => Err(KeysError::Unreadable { path: path.to_path_buf(), source }),
        }
    }

    /// The key that new values are encrypted with.
    pub(crate) fn active(&self) -> &MasterKey {
        &self.0[0]
    }

    /// All keys, the active one first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &MasterKey> {
        self.0.iter()
    }

    /// The key of this id.
    pub(crate) fn get(&self, id: &str) -> Option<&MasterKey> {
        self.0.iter().find(|key| key.id == id)
    }

    /// Ids of the keys that are kept for what is not rotated yet.
    pub(crate) fn retired(&self) -> Vec<String> {
        self.0[1..].iter().map(|key| key.id.clone()).collect()
    }

    fn equals(&self, other: &Self) -> bool {
        let same =
            |(a, b): (&MasterKey, &MasterKey)| a.id == b.id && a.key.expose_secret() == b.key.expose_secret();
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(same)
    }
}

fn parse_line(text: &str) -> Option<MasterKey> {
    let (id, key) = text.split_once(':')?;
    let is_id = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if !(1..=64).contains(&id.len()) || !id.bytes().all(is_id) {
        return None;
    }
    // Room for one more group than a key has: a longer text does not fit and is refused.
    let mut decoded = Zeroizing::new([0; KEY_BYTES + 4]);
    let length = BASE64_STANDARD.decode_slice(key.trim(), decoded.as_mut()).ok()?;
    (length == KEY_BYTES).then(|| MasterKey {
        id: id.to_owned(),
        key: SecretBox::init_with_mut(|key: &mut [u8; KEY_BYTES]| key.copy_from_slice(&decoded[..KEY_BYTES])),
    })
}

/// Reads the file again and again until `stop` fires, and puts what it says into `keys` when that has changed. A
/// file that cannot be used leaves the keys as they are.
pub(crate) async fn follow(
    path: PathBuf,
    keys: watch::Sender<Arc<KeyRing>>,
    stop: CancellationToken,
) -> Result<(), Infallible> {
    let mut is_failing = false;
    while stop.run_until_cancelled(tokio::time::sleep(RELOAD)).await.is_some() {
        match KeyRing::read(&path) {
            Ok(read) => {
                is_failing = false;
                if !keys.borrow().equals(&read) {
                    tracing::info!(active = read.active().id, retired = ?read.retired(), "the keys of secrets have changed");
                    keys.send_replace(Arc::new(read));
                }
            }
            Err(error) if !is_failing => {
                is_failing = true;
                let error = chatfn_pg::error::describe(&error);
                tracing::error!(
                    error,
                    "the keys of secrets cannot be read again: those that were read last stay in use"
                );
            }
            Err(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    fn line(id: &str, seed: &str) -> String {
        format!("{id}: {}\n", BASE64_STANDARD.encode([seed.as_bytes()[0]; KEY_BYTES]))
    }

    /// Keys of these ids, each always the same.
    pub(crate) fn ring(ids: &[&str]) -> KeyRing {
        KeyRing::parse(&ids.iter().map(|id| line(id, id)).collect::<String>()).unwrap()
    }

    /// The key `id`, under the id `new`.
    pub(crate) fn renamed(id: &str, new: &str) -> KeyRing {
        KeyRing::parse(&line(new, id)).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    #[test]
    fn the_first_key_is_active() {
        let keys = KeyRing::parse(&format!("# newest first\n\n2026-11: {KEY}\r\n  old:{KEY}\n")).unwrap();
        assert_eq!((keys.active().id.as_str(), keys.retired()), ("2026-11", vec!["old".to_owned()]));
        assert_eq!(keys.get("old").unwrap().key.expose_secret()[31], 31);
    }

    #[test]
    fn what_cannot_be_used_is_refused_without_being_repeated() {
        let many: String = (0..17).map(|id| format!("{id}: {KEY}\n")).collect();
        for (text, says) in [
            (String::new(), "no key"),
            ("# a comment\n".into(), "no key"),
            (KEY.into(), "line 1"),
            (format!("a: {KEY}\nb: {}", &KEY[4..]), "line 2"),
            (format!("a: AAAA{KEY}"), "line 1"),
            (format!("a: {KEY}{KEY}"), "line 1"),
            (format!("a b: {KEY}"), "line 1"),
            (format!(": {KEY}"), "line 1"),
            (format!("a: {KEY}\na: {KEY}"), "line 2"),
            (many, "16"),
        ] {
            let error = format!("{0} {0:?}", KeyRing::parse(&text).unwrap_err());
            assert!(error.contains(says) && !error.contains(&KEY[4..12]), "{text}: {error}");
        }
    }

    #[test]
    fn debug_shows_no_key() {
        let shown = format!("{:?}", testing::ring(&["a"]));
        assert!(shown.contains("REDACTED") && !shown.contains("97, 97"), "{shown}");
    }
}
