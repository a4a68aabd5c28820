//! Which fields an update takes over.

use chatfn_proto::{
    registry::v1::{Function, FunctionSettings, RetryPolicy},
    validate::Violations,
};
use prost_types::FieldMask;

/// Takes a field over from the first function into the second; one that is not set becomes unset, which stands for its
/// default.
pub(super) type TakeOver = fn(&Function, &mut Function);

/// The hosts that a lambda may call: the one field that is not its author's to change.
pub(crate) const ALLOWED_HOSTS: &str = "settings.allowed_hosts";

/// Fields by themselves.
const FIELDS: &[(&str, TakeOver)] = &[
    ("display_name", |from, to| to.display_name.clone_from(&from.display_name)),
    ("description", |from, to| to.description.clone_from(&from.description)),
    ("source", |from, to| to.source.clone_from(&from.source)),
    ("settings.timeout", |from, to| settings(to).timeout = settings_of(from).timeout),
    ("settings.memory_mib", |from, to| settings(to).memory_mib = settings_of(from).memory_mib),
    (ALLOWED_HOSTS, |from, to| settings(to).allowed_hosts = settings_of(from).allowed_hosts),
    ("settings.environment", |from, to| settings(to).environment = settings_of(from).environment),
    ("settings.language", |from, to| settings(to).language = settings_of(from).language),
    ("settings.skills", |from, to| settings(to).skills = settings_of(from).skills),
    ("settings.retry.max_attempts", |from, to| retry(to).max_attempts = retry_of(from).max_attempts),
    ("settings.retry.initial_backoff", |from, to| retry(to).initial_backoff = retry_of(from).initial_backoff),
    ("settings.retry.max_backoff", |from, to| retry(to).max_backoff = retry_of(from).max_backoff),
    ("settings.retry.backoff_multiplier", |from, to| {
        retry(to).backoff_multiplier = retry_of(from).backoff_multiplier;
    }),
    ("settings.retry.retry_on", |from, to| retry(to).retry_on = retry_of(from).retry_on),
    ("settings.retry.max_age", |from, to| retry(to).max_age = retry_of(from).max_age),
    ("settings.retry.after_last_attempt", |from, to| {
        retry(to).after_last_attempt = retry_of(from).after_last_attempt;
    }),
];

/// Several fields at once.
const GROUPS: &[(&str, TakeOver)] = &[
    ("settings", |from, to| to.settings.clone_from(&from.settings)),
    ("settings.retry", |from, to| settings(to).retry = settings_of(from).retry),
];

fn settings(function: &mut Function) -> &mut FunctionSettings {
    function.settings.get_or_insert_default()
}

fn settings_of(function: &Function) -> FunctionSettings {
    function.settings.clone().unwrap_or_default()
}

fn retry(function: &mut Function) -> &mut RetryPolicy {
    settings(function).retry.get_or_insert_default()
}

fn retry_of(function: &Function) -> RetryPolicy {
    settings_of(function).retry.unwrap_or_default()
}

/// Stands, alone, for all fields.
const ALL: &str = "*";

/// The fields that `mask` names; without a mask, or with an empty one, those that are set in `function`, each setting
/// by itself.
pub(super) fn fields(function: &Function, mask: Option<&FieldMask>) -> Result<Vec<TakeOver>, Violations> {
    match mask {
        Some(mask) if mask.paths == [ALL] => Ok(FIELDS.iter().map(|(_, field)| *field).collect()),
        Some(mask) if !mask.paths.is_empty() => mask.paths.iter().map(|path| parse(path)).collect(),
        _ => Ok(FIELDS.iter().map(|(_, field)| *field).filter(|field| is_set(*field, function)).collect()),
    }
}

/// Names of the fields in which two functions differ.
pub(super) fn differing(one: &Function, other: &Function) -> Vec<&'static str> {
    let differs = |(_, field): &&(&str, TakeOver)| {
        let mut mixed = one.clone();
        field(other, &mut mixed);
        mixed != *one
    };
    FIELDS.iter().filter(differs).map(|(name, _)| *name).collect()
}

fn parse(path: &str) -> Result<TakeOver, Violations> {
    GROUPS.iter().chain(FIELDS).find(|(name, _)| *name == path).map(|(_, field)| *field).ok_or_else(|| {
        let given: String = path.chars().take(64).collect();
        // All of them would be cut off before the end.
        let paths = "display_name, description, source, settings, a field of it such as settings.timeout, or settings.retry.<field>";
        Violations::one("update_mask", format!("{given:?} is not a path; they are {paths}; or {ALL:?} alone"))
    })
}

fn is_set(field: TakeOver, function: &Function) -> bool {
    let mut blank = Function::default();
    retry(&mut blank);
    let mut taken_over = blank.clone();
    field(function, &mut taken_over);
    taken_over != blank
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chatfn_domain::{
        retry::{AfterLastAttempt, Multiplier, RetryOn},
        settings::{FunctionSettings as Settings, Language},
    };
    use chatfn_proto::convert::from_settings;

    use super::*;

    /// A function whose every field differs from its default.
    fn filled() -> Function {
        let settings = Settings {
            timeout: Duration::from_secs(2),
            memory_mib: 32,
            allowed_hosts: vec!["a.example.com".parse().unwrap()],
            environment: [("A".to_owned(), "b".to_owned())].into(),
            retry: chatfn_domain::retry::RetryPolicy {
                max_attempts: 7,
                initial_backoff: Duration::from_secs(2),
                max_backoff: Duration::from_secs(3),
                backoff_multiplier: Multiplier::from_factor(1.5).unwrap(),
                retry_on: RetryOn { thrown: false, ..RetryOn::default() },
                max_age: Some(Duration::from_secs(60)),
                after_last_attempt: AfterLastAttempt::Halt,
            },
            language: Language::TypeScript,
            skills: ["7".to_owned()].into(),
        };
        Function {
            display_name: "a".to_owned(),
            description: "b".to_owned(),
            source: "c".to_owned(),
            settings: Some(from_settings(&settings)),
            ..Function::default()
        }
    }

    #[test]
    fn every_field_can_be_named_and_takes_over_nothing_else() {
        let blank = {
            let mut blank = Function::default();
            retry(&mut blank);
            blank
        };
        let mut all = blank.clone();
        let mut seen = Vec::new();
        for (name, _) in FIELDS {
            let mut one = blank.clone();
            parse(name).unwrap()(&filled(), &mut one);
            assert_ne!(one, blank, "{name} takes nothing over");
            assert!(!seen.contains(&one), "{name} is another one's name, too");
            seen.push(one);
            parse(name).unwrap()(&filled(), &mut all);
        }
        // A field that the contract has and this module has not would be left at its default.
        assert_eq!(all, filled());
    }

    #[test]
    fn fields_that_differ_are_named() {
        assert_eq!(differing(&filled(), &filled()), Vec::<&str>::new());
        let mut other = filled();
        other.source = "d".to_owned();
        retry(&mut other).max_age = None;
        assert_eq!(differing(&filled(), &other), ["source", "settings.retry.max_age"]);
    }

    #[test]
    fn without_a_mask_fields_that_are_set_are_taken_over() {
        assert_eq!(fields(&filled(), None).unwrap().len(), FIELDS.len());
        assert_eq!(fields(&filled(), Some(&FieldMask::default())).unwrap().len(), FIELDS.len());
        assert_eq!(fields(&Function::default(), None).unwrap().len(), 0);
    }
}
