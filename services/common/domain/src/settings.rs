//! What a function may be set to. Settings travel with a version.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{host::HostPattern, retry::RetryPolicy};

/// Most characters of a source: the hosted product's limit, so that its functions fit.
pub const MAX_SOURCE_CHARS: usize = 100_000;
/// Most characters of one environment variable's value.
pub const MAX_ENVIRONMENT_VALUE_CHARS: usize = 4_096;
/// Most environment variables.
pub const MAX_ENVIRONMENT: usize = 64;
/// Most memory of one run, in MiB.
pub const MAX_MEMORY_MIB: u32 = 256;
/// Most allowed hosts.
pub const MAX_ALLOWED_HOSTS: usize = 64;

/// What a source is written in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// Run as it is.
    #[default]
    JavaScript,
    /// Its types are erased before it runs.
    TypeScript,
}

impl Language {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Settings of a function, every one within its limits. Missing fields of stored settings have their
/// defaults, so that new settings need no migration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, try_from = "RawSettings")]
pub struct FunctionSettings {
    /// Longest run of one attempt: 10 ms to 30 s.
    pub timeout: Duration,
    /// Memory of one run in MiB: 16 to 256.
    pub memory_mib: u32,
    /// Hosts that the lambda may call.
    pub allowed_hosts: Vec<HostPattern>,
    /// `process.env` of the lambda.
    pub environment: BTreeMap<String, String>,
    /// What happens when a run fails.
    pub retry: RetryPolicy,
    /// What the source is written in. The default is not written out, so that versions from before this setting keep
    /// their digests.
    #[serde(skip_serializing_if = "Language::is_default")]
    pub language: Language,
}

impl Default for FunctionSettings {
    /// Runs of one second: the hosted product's own advice for chat events.
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(1),
            memory_mib: 64,
            allowed_hosts: Vec::new(),
            environment: BTreeMap::new(),
            retry: RetryPolicy::default(),
            language: Language::default(),
        }
    }
}

/// A setting outside its limits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct SettingsError {
    /// Path of the setting, for example `environment["a b"]`.
    pub field: String,
    /// What to change.
    pub problem: String,
}

impl FunctionSettings {
    /// Gives the settings back when every one lies within its limits.
    ///
    /// # Errors
    /// The first setting that does not.
    pub fn checked(self) -> Result<Self, SettingsError> {
        let error = |field: &str, problem: String| Err(SettingsError { field: field.to_owned(), problem });
        if !(Duration::from_millis(10)..=Duration::from_secs(30)).contains(&self.timeout) {
            return error("timeout", "must be from 0.01s to 30s".to_owned());
        }
        if !(16..=MAX_MEMORY_MIB).contains(&self.memory_mib) {
            return error("memory_mib", format!("must be from 16 to {MAX_MEMORY_MIB}"));
        }
        if self.allowed_hosts.len() > MAX_ALLOWED_HOSTS {
            return error("allowed_hosts", format!("at most {MAX_ALLOWED_HOSTS} are allowed"));
        }
        if self.environment.len() > MAX_ENVIRONMENT {
            return error("environment", format!("at most {MAX_ENVIRONMENT} variables are allowed"));
        }
        for (key, value) in &self.environment {
            let field = format!("environment[{:?}]", key.chars().take(64).collect::<String>());
            if !is_variable_name(key) {
                return error(
                    &field,
                    "the name must be 1 to 64 letters, digits and _, not starting with a digit".to_owned(),
                );
            }
            if value.chars().count() > MAX_ENVIRONMENT_VALUE_CHARS {
                return error(
                    &field,
                    format!("the value has more than {MAX_ENVIRONMENT_VALUE_CHARS} characters"),
                );
            }
            if value.contains('\0') {
                return error(&field, "the value holds a NUL character".to_owned());
            }
        }
        if let Err(problem) = self.retry.check() {
            return error("retry", problem.to_owned());
        }
        Ok(self)
    }
}

fn is_variable_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && !name.as_bytes()[0].is_ascii_digit()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Settings as they are stored, before they are checked.
#[derive(Deserialize)]
struct RawSettings {
    #[serde(default)]
    timeout: Option<Duration>,
    memory_mib: Option<u32>,
    #[serde(default)]
    allowed_hosts: Vec<HostPattern>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    #[serde(default)]
    retry: RetryPolicy,
    #[serde(default)]
    language: Language,
}

impl TryFrom<RawSettings> for FunctionSettings {
    type Error = SettingsError;

    fn try_from(raw: RawSettings) -> Result<Self, SettingsError> {
        let default = Self::default();
        Self {
            timeout: raw.timeout.unwrap_or(default.timeout),
            memory_mib: raw.memory_mib.unwrap_or(default.memory_mib),
            allowed_hosts: raw.allowed_hosts,
            environment: raw.environment,
            retry: raw.retry,
            language: raw.language,
        }
        .checked()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_survive_storage() {
        let settings = FunctionSettings {
            timeout: Duration::from_millis(1500),
            allowed_hosts: vec!["*.example.com".parse().unwrap()],
            environment: [("CRM_URL".to_owned(), "https://crm.example.com".to_owned())].into(),
            language: Language::TypeScript,
            ..FunctionSettings::default()
        };
        let stored = serde_json::to_string(&settings).unwrap();
        assert_eq!(serde_json::from_str::<FunctionSettings>(&stored).unwrap(), settings);
    }

    #[test]
    fn the_default_language_is_not_written_out() {
        let stored = serde_json::to_string(&FunctionSettings::default()).unwrap();
        assert!(!stored.contains("language"), "digests are made of it: {stored}");
    }

    #[test]
    fn missing_settings_have_their_defaults() {
        assert_eq!(serde_json::from_str::<FunctionSettings>("{}").unwrap(), FunctionSettings::default());
    }

    #[test]
    fn settings_outside_their_limits_are_refused() {
        let default = FunctionSettings::default;
        for (field, settings) in [
            ("timeout", FunctionSettings { timeout: Duration::from_secs(31), ..default() }),
            ("timeout", FunctionSettings { timeout: Duration::ZERO, ..default() }),
            ("memory_mib", FunctionSettings { memory_mib: 257, ..default() }),
            (
                "environment[\"1A\"]",
                FunctionSettings { environment: [("1A".into(), String::new())].into(), ..default() },
            ),
            (
                "environment[\"A\"]",
                FunctionSettings { environment: [("A".into(), "x".repeat(4097))].into(), ..default() },
            ),
        ] {
            assert_eq!(settings.checked().unwrap_err().field, field);
        }
    }
}
