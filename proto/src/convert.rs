//! The one translation between wire types and the domain's.

use std::{str::FromStr, time::Duration};

use chatfn_domain::{
    name::NameError,
    retry::{AfterLastAttempt, Multiplier, MultiplierError, RetryOn, RetryPolicy},
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
    let timeout = set_duration(field, "timeout", &settings.timeout)?.unwrap_or(default.timeout);
    let mut allowed_hosts = Vec::with_capacity(settings.allowed_hosts.len());
    for (index, host) in settings.allowed_hosts.iter().enumerate() {
        allowed_hosts.push(host.parse().map_err(|error: chatfn_domain::host::HostPatternError| {
            Violations::one(format!("{field}.allowed_hosts[{index}]"), error.to_string())
        })?);
    }
    let retry = match &settings.retry {
        None => default.retry,
        Some(retry) => to_retry(&format!("{field}.retry"), retry)?,
    };
    FunctionSettings {
        timeout,
        memory_mib: or_default(settings.memory_mib, default.memory_mib),
        allowed_hosts,
        environment: settings.environment.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        retry,
        language: to_language(known(&format!("{field}.language"), settings.language)?),
        skills: settings.skills.iter().cloned().collect(),
    }
    .checked()
    .map_err(|SettingsError { field: setting, reason, problem }| {
        Violations::of(format!("{field}.{setting}"), reason, problem)
    })
}

/// The policy of the domain; its limits are checked with those of the other settings.
fn to_retry(field: &str, retry: &wire::RetryPolicy) -> Result<RetryPolicy, Violations> {
    let default = RetryPolicy::default();
    let initial_backoff =
        set_duration(field, "initial_backoff", &retry.initial_backoff)?.unwrap_or(default.initial_backoff);
    // A long first pause alone must not collide with the default of the longest one.
    let longest = default.max_backoff.max(initial_backoff);
    let backoff_multiplier = if retry.backoff_multiplier == 0.0 {
        default.backoff_multiplier
    } else {
        Multiplier::from_factor(retry.backoff_multiplier).map_err(|error: MultiplierError| {
            Violations::one(format!("{field}.backoff_multiplier"), error.to_string())
        })?
    };
    Ok(RetryPolicy {
        max_attempts: or_default(retry.max_attempts, default.max_attempts),
        initial_backoff,
        max_backoff: set_duration(field, "max_backoff", &retry.max_backoff)?.unwrap_or(longest),
        backoff_multiplier,
        retry_on: to_retry_on(&format!("{field}.retry_on"), retry)?,
        max_age: set_duration(field, "max_age", &retry.max_age)?,
        after_last_attempt: match known(&format!("{field}.after_last_attempt"), retry.after_last_attempt)? {
            wire::AfterLastAttempt::Unspecified | wire::AfterLastAttempt::Skip => AfterLastAttempt::Skip,
            wire::AfterLastAttempt::Halt => AfterLastAttempt::Halt,
        },
    })
}

fn to_retry_on(field: &str, retry: &wire::RetryPolicy) -> Result<RetryOn, Violations> {
    if retry.retry_on.is_empty() {
        return Ok(RetryOn::default());
    }
    let mut on = RetryOn { thrown: false, timeout: false, platform: false };
    for (index, failure) in retry.retry_on.iter().enumerate() {
        match known(&format!("{field}[{index}]"), *failure)? {
            wire::RetryableFailure::Thrown => on.thrown = true,
            wire::RetryableFailure::Timeout => on.timeout = true,
            wire::RetryableFailure::Platform => on.platform = true,
            wire::RetryableFailure::Unspecified => {
                return Err(Violations::one(format!("{field}[{index}]"), "must name a failure"));
            }
        }
    }
    Ok(on)
}

fn from_retry(retry: &RetryPolicy) -> wire::RetryPolicy {
    let RetryOn { thrown, timeout, platform } = retry.retry_on;
    let retry_on = [
        (thrown, wire::RetryableFailure::Thrown),
        (timeout, wire::RetryableFailure::Timeout),
        (platform, wire::RetryableFailure::Platform),
    ];
    let after_last_attempt = match retry.after_last_attempt {
        AfterLastAttempt::Skip => wire::AfterLastAttempt::Skip,
        AfterLastAttempt::Halt => wire::AfterLastAttempt::Halt,
    };
    wire::RetryPolicy {
        max_attempts: retry.max_attempts,
        initial_backoff: Some(to_duration(retry.initial_backoff)),
        max_backoff: Some(to_duration(retry.max_backoff)),
        backoff_multiplier: retry.backoff_multiplier.factor(),
        retry_on: retry_on.into_iter().filter(|(is_on, _)| *is_on).map(|(_, it)| it.into()).collect(),
        max_age: retry.max_age.map(to_duration),
        after_last_attempt: after_last_attempt.into(),
    }
}

/// The value of an enum. One that a later release has is no default of this one's.
fn known<T: TryFrom<i32>>(field: &str, value: i32) -> Result<T, Violations> {
    T::try_from(value)
        .map_err(|_| Violations::one(field, format!("this release does not know the value {value}")))
}

fn set_duration(
    field: &str,
    name: &str,
    value: &Option<prost_types::Duration>,
) -> Result<Option<Duration>, Violations> {
    value.as_ref().map(|value| from_duration(&format!("{field}.{name}"), value)).transpose()
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
    let settings = wire::FunctionSettings {
        timeout,
        memory_mib,
        allowed_hosts,
        environment,
        language,
        ..wire::FunctionSettings::default()
    };
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
        retry: Some(from_retry(&settings.retry)),
        language: from_language(settings.language).into(),
        skills: settings.skills.iter().cloned().collect(),
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
            retry: RetryPolicy {
                max_attempts: 1,
                backoff_multiplier: Multiplier::from_factor(1.15).unwrap(),
                retry_on: RetryOn { timeout: false, ..RetryOn::default() },
                max_age: Some(Duration::from_secs(90)),
                after_last_attempt: AfterLastAttempt::Halt,
                ..RetryPolicy::default()
            },
            language: Language::TypeScript,
            skills: ["7".to_owned(), "8".to_owned()].into(),
        };
        assert_eq!(to_settings("settings", &from_settings(&settings)).unwrap(), settings);
        let defaults = to_settings("settings", &wire::FunctionSettings::default()).unwrap();
        assert_eq!(defaults, FunctionSettings::default());
    }

    #[test]
    fn what_a_later_release_knows_is_not_taken_for_a_default() {
        let retry = |retry| wire::FunctionSettings { retry: Some(retry), ..Default::default() };
        for (settings, field) in [
            (wire::FunctionSettings { language: 99, ..Default::default() }, "settings.language"),
            (
                retry(wire::RetryPolicy { after_last_attempt: 99, ..Default::default() }),
                "settings.retry.after_last_attempt",
            ),
            (
                retry(wire::RetryPolicy { retry_on: vec![1, 99], ..Default::default() }),
                "settings.retry.retry_on[1]",
            ),
        ] {
            let violations = to_settings("settings", &settings).unwrap_err();
            assert_eq!(violations.iter().next().unwrap().field, field);
        }
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
