//! The one translation between wire types and the domain's.

use std::{str::FromStr, time::Duration};

use chatfn_domain::{
    name::NameError,
    retry::RetryPolicy,
    settings::{FunctionSettings, Language, SettingsError},
};

use crate::{invoker::v1 as invoker, registry::v1 as wire, validate::Violations};

/// Parses the text of a field, for example a resource name.
///
/// # Errors
/// A violation that names the field and the shape that is expected.
pub fn parse<T: FromStr<Err = NameError>>(field: &str, text: &str) -> Result<T, Violations> {
    text.parse().map_err(|error: NameError| Violations::one(field, error.to_string()))
}

/// A wire duration for `duration`, cut at 10,000 years as the type demands.
pub fn to_duration(duration: Duration) -> prost_types::Duration {
    const LONGEST: u64 = 315_576_000_000;
    prost_types::Duration {
        seconds: duration.as_secs().min(LONGEST).cast_signed(),
        nanos: duration.subsec_nanos().cast_signed(),
    }
}

/// The duration of a wire duration.
///
/// # Errors
/// A violation for a negative or malformed one.
pub fn from_duration(field: &str, duration: &prost_types::Duration) -> Result<Duration, Violations> {
    Duration::try_from(*duration)
        .map_err(|_| Violations::one(field, "must be a duration of zero or more, such as 1.5s"))
}

/// Settings of the domain from those of a request: what is not set has its default.
///
/// # Errors
/// Violations below `field`.
pub fn to_settings(field: &str, settings: &wire::FunctionSettings) -> Result<FunctionSettings, Violations> {
    let default = FunctionSettings::default();
    let duration = |name: &str, value: &Option<prost_types::Duration>, default: Duration| match value {
        Some(value) => from_duration(&format!("{field}.{name}"), value),
        None => Ok(default),
    };
    let mut allowed_hosts = Vec::with_capacity(settings.allowed_hosts.len());
    for (index, host) in settings.allowed_hosts.iter().enumerate() {
        allowed_hosts.push(host.parse().map_err(|error: chatfn_domain::host::HostPatternError| {
            Violations::one(format!("{field}.allowed_hosts[{index}]"), error.to_string())
        })?);
    }
    let retry = match &settings.retry {
        None => default.retry,
        Some(retry) => {
            let initial_backoff =
                duration("retry.initial_backoff", &retry.initial_backoff, default.retry.initial_backoff)?;
            // A long first pause alone must not collide with the default of the longest one.
            let longest = default.retry.max_backoff.max(initial_backoff);
            RetryPolicy {
                max_attempts: or_default(retry.max_attempts, default.retry.max_attempts),
                initial_backoff,
                max_backoff: duration("retry.max_backoff", &retry.max_backoff, longest)?,
            }
        }
    };
    FunctionSettings {
        timeout: duration("timeout", &settings.timeout, default.timeout)?,
        memory_mib: or_default(settings.memory_mib, default.memory_mib),
        allowed_hosts,
        environment: settings.environment.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        retry,
        language: to_language(settings.language()),
    }
    .checked()
    .map_err(|SettingsError { field: setting, problem }| {
        Violations::one(format!("{field}.{setting}"), problem)
    })
}

fn or_default(value: u32, default: u32) -> u32 {
    if value == 0 { default } else { value }
}

/// Settings of the domain from those of a lambda to test, which is tried once.
///
/// # Errors
/// As [`to_settings`].
pub fn from_test_settings(
    field: &str,
    settings: invoker::TestSettings,
) -> Result<FunctionSettings, Violations> {
    let invoker::TestSettings { timeout, memory_mib, allowed_hosts, environment, language } = settings;
    let settings =
        wire::FunctionSettings { timeout, memory_mib, allowed_hosts, environment, retry: None, language };
    to_settings(field, &settings)
}

/// The language of the domain; one that is not set is JavaScript.
pub fn to_language(language: invoker::Language) -> Language {
    match language {
        invoker::Language::Unspecified | invoker::Language::Javascript => Language::JavaScript,
        invoker::Language::Typescript => Language::TypeScript,
    }
}

/// A language for the wire.
pub fn from_language(language: Language) -> invoker::Language {
    match language {
        Language::JavaScript => invoker::Language::Javascript,
        Language::TypeScript => invoker::Language::Typescript,
    }
}

/// Settings for the wire, every field set.
pub fn from_settings(settings: &FunctionSettings) -> wire::FunctionSettings {
    wire::FunctionSettings {
        timeout: Some(to_duration(settings.timeout)),
        memory_mib: settings.memory_mib,
        allowed_hosts: settings.allowed_hosts.iter().map(ToString::to_string).collect(),
        environment: settings.environment.clone().into_iter().collect(),
        retry: Some(wire::RetryPolicy {
            max_attempts: settings.retry.max_attempts,
            initial_backoff: Some(to_duration(settings.retry.initial_backoff)),
            max_backoff: Some(to_duration(settings.retry.max_backoff)),
        }),
        language: from_language(settings.language).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_survive_the_wire() {
        let settings = FunctionSettings {
            timeout: Duration::from_millis(250),
            memory_mib: 32,
            allowed_hosts: vec!["*.example.com:8443".parse().unwrap()],
            environment: [("A".to_owned(), "b".to_owned())].into(),
            retry: RetryPolicy { max_attempts: 1, ..RetryPolicy::default() },
            language: Language::TypeScript,
        };
        assert_eq!(to_settings("settings", &from_settings(&settings)).unwrap(), settings);
        let defaults = to_settings("settings", &wire::FunctionSettings::default()).unwrap();
        assert_eq!(defaults, FunctionSettings::default());
    }

    #[test]
    fn violations_name_the_setting() {
        let hosts = wire::FunctionSettings {
            allowed_hosts: vec!["a.com".into(), "http://b".into()],
            ..Default::default()
        };
        let violations = to_settings("function.settings", &hosts).unwrap_err();
        assert_eq!(violations.iter().next().unwrap().field, "function.settings.allowed_hosts[1]");
    }
}
