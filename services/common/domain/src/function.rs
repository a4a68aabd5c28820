//! State of a function, digest of a version.

use sha2::{Digest as _, Sha256};

use crate::settings::FunctionSettings;

/// State of a function. Derived from draft and live version, never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FunctionState {
    /// No version is live.
    Draft,
    /// The draft is what is live.
    Productive,
    /// A version is live and the draft has edits that are not deployed.
    Modified,
}

impl FunctionState {
    /// The state of a function whose draft has the digest `draft` and whose live version, if any, has
    /// the digest `live`.
    pub fn derive(draft: &str, live: Option<&str>) -> Self {
        match live {
            None => Self::Draft,
            Some(live) if live == draft => Self::Productive,
            Some(_) => Self::Modified,
        }
    }
}

/// SHA-256 over source and settings, in hexadecimal: two versions with the same digest behave alike.
pub fn version_digest(source: &str, settings: &FunctionSettings) -> String {
    let settings = serde_json::to_vec(settings).expect("settings are plain data");
    let mut hash = Sha256::new();
    // The length keeps the two parts apart.
    hash.update((source.len() as u64).to_be_bytes());
    hash.update(source);
    hash.update(settings);
    hex::encode(hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_tells_source_and_settings_apart() {
        let settings = FunctionSettings::default();
        let other = FunctionSettings { memory_mib: 32, ..FunctionSettings::default() };
        let digest = version_digest("a", &settings);
        assert_eq!(digest, version_digest("a", &settings));
        assert_ne!(digest, version_digest("b", &settings));
        assert_ne!(digest, version_digest("a", &other));
    }

    #[test]
    fn states_follow_from_the_digests() {
        assert_eq!(FunctionState::derive("a", None), FunctionState::Draft);
        assert_eq!(FunctionState::derive("a", Some("a")), FunctionState::Productive);
        assert_eq!(FunctionState::derive("a", Some("b")), FunctionState::Modified);
    }
}
