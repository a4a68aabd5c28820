//! What a function may be set to. Settings travel with a version.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

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
/// Most skills: the hosted product's limit.
pub const MAX_SKILLS: usize = 500;
/// Most characters of a skill's id.
pub const MAX_SKILL_CHARS: usize = 64;

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
    /// What happens when a run fails, and when the last one has.
    pub retry: RetryPolicy,
    // Settings that came later are not written out at their defaults, so that older versions keep their digests.
    /// What the source is written in.
    #[serde(skip_serializing_if = "Language::is_default")]
    pub language: Language,
    /// Ids of the skills whose events the function runs for; empty: every event.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub skills: BTreeSet<String>,
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
            skills: BTreeSet::new(),
        }
    }
}

/// A setting outside its limits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct SettingsError {
    /// Path of the setting, for example `environment["a b"]`.
    pub field: String,
    /// A stable name of the limit: `OUT_OF_RANGE`, `TOO_MANY`, `TOO_LONG`, `REQUIRED`,
    /// `MALFORMED` or `CONTRADICTORY` (two settings do not go together).
    pub reason: &'static str,
    /// What to change.
    pub problem: String,
}

impl FunctionSettings {
    /// Gives the settings back when every one lies within its limits.
    ///
    /// # Errors
    /// The first setting that does not.
    pub fn checked(self) -> Result<Self, SettingsError> {
        let error = |field: &str, reason: &'static str, problem: String| {
            Err(SettingsError { field: field.to_owned(), reason, problem })
        };
        if !(Duration::from_millis(10)..=Duration::from_secs(30)).contains(&self.timeout) {
            return error("timeout", "OUT_OF_RANGE", "must be from 0.01s to 30s".to_owned());
        }
        if !(16..=MAX_MEMORY_MIB).contains(&self.memory_mib) {
            return error("memory_mib", "OUT_OF_RANGE", format!("must be from 16 to {MAX_MEMORY_MIB}"));
        }
        if self.allowed_hosts.len() > MAX_ALLOWED_HOSTS {
            return error("allowed_hosts", "TOO_MANY", format!("at most {MAX_ALLOWED_HOSTS} are allowed"));
        }
        if self.environment.len() > MAX_ENVIRONMENT {
            return error(
                "environment",
                "TOO_MANY",
                format!("at most {MAX_ENVIRONMENT} variables are allowed"),
            );
        }
        for (key, value) in &self.environment {
            let field = format!("environment[{:?}]", key.chars().take(64).collect::<String>());
            if !is_variable_name(key) {
                return error(
                    &field,
                    "MALFORMED",
                    "the name must be 1 to 64 letters, digits and _, not starting with a digit".to_owned(),
                );
            }
            if value.chars().count() > MAX_ENVIRONMENT_VALUE_CHARS {
                return error(
                    &field,
                    "TOO_LONG",
                    format!("the value has more than {MAX_ENVIRONMENT_VALUE_CHARS} characters"),
                );
            }
            if value.contains('\0') {
                return error(&field, "MALFORMED", "the value holds a NUL character".to_owned());
            }
        }
        if let Err((field, reason, problem)) = self.retry.check() {
            let field = if field.is_empty() { "retry".to_owned() } else { format!("retry.{field}") };
            return error(&field, reason, problem.to_owned());
        }
        if self.skills.len() > MAX_SKILLS {
            return error("skills", "TOO_MANY", format!("at most {MAX_SKILLS} are allowed"));
        }
        if let Some(skill) = self.skills.iter().find(|skill| !is_skill(skill)) {
            let skill: String = skill.chars().take(MAX_SKILL_CHARS).collect();
            return error(
                "skills",
                "MALFORMED",
                format!(
                    "{skill:?} is no id: 1 to {MAX_SKILL_CHARS} characters, none of them a control character"
                ),
            );
        }
        Ok(self)
    }
}

fn is_variable_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && !name.as_bytes()[0].is_ascii_digit()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn is_skill(id: &str) -> bool {
    (1..=MAX_SKILL_CHARS).contains(&id.chars().count()) && !id.chars().any(char::is_control)
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
    #[serde(default)]
    skills: BTreeSet<String>,
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
            skills: raw.skills,
        }
        .checked()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retry::{AfterLastAttempt, Multiplier, RetryOn};

    #[test]
    fn settings_survive_storage() {
        let settings = FunctionSettings {
            timeout: Duration::from_millis(1500),
            allowed_hosts: vec!["*.example.com".parse().unwrap()],
            environment: [("CRM_URL".to_owned(), "https://crm.example.com".to_owned())].into(),
            language: Language::TypeScript,
            skills: ["25975313".to_owned()].into(),
            retry: RetryPolicy {
                backoff_multiplier: Multiplier::from_hundredths(150).unwrap(),
                retry_on: RetryOn { thrown: false, ..RetryOn::default() },
                max_age: Some(Duration::from_secs(60)),
                after_last_attempt: AfterLastAttempt::Halt,
                ..RetryPolicy::default()
            },
            ..FunctionSettings::default()
        };
        let stored = serde_json::to_string(&settings).unwrap();
        assert_eq!(serde_json::from_str::<FunctionSettings>(&stored).unwrap(), settings);
    }

    #[test]
    fn later_settings_do_not_change_the_digests_of_older_versions() {
        assert_eq!(
            serde_json::to_string(&FunctionSettings::default()).unwrap(),
            r#"{"timeout":{"secs":1,"nanos":0},"memory_mib":64,"allowed_hosts":[],"environment":{},"retry":{"max_attempts":3,"initial_backoff":{"secs":1,"nanos":0},"max_backoff":{"secs":60,"nanos":0}}}"#
        );
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
            (
                "retry.retry_on",
                FunctionSettings {
                    retry: RetryPolicy {
                        retry_on: RetryOn { thrown: false, timeout: false, platform: false },
                        ..RetryPolicy::default()
                    },
                    ..default()
                },
            ),
            ("skills", FunctionSettings { skills: ["a\0".into()].into(), ..default() }),
            ("skills", FunctionSettings { skills: ["".into()].into(), ..default() }),
            ("skills", FunctionSettings { skills: (0..501).map(|id| id.to_string()).collect(), ..default() }),
        ] {
            assert_eq!(settings.checked().unwrap_err().field, field);
        }
    }
}
