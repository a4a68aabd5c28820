//! The part of a function that its author edits, and the rules for it.

mod mask;

use chatfn_domain::{function::version_digest, settings::FunctionSettings};
use chatfn_proto::{
    convert::{from_settings, to_settings},
    registry::v1 as wire,
    validate::Violations,
};
use prost_types::FieldMask;

pub(crate) use self::mask::ALLOWED_HOSTS;

/// A function's editable part: every field within its limits, and none that Postgres could refuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Draft {
    pub(crate) display_name: String,
    pub(crate) description: String,
    pub(crate) source: String,
    pub(crate) settings: FunctionSettings,
}

impl Draft {
    /// The draft of a new function: what `function` leaves open comes from the template.
    pub(crate) fn new(template: &wire::Template, function: wire::Function) -> Result<Self, Violations> {
        let or = |given: String, default: &str| if given.is_empty() { default.to_owned() } else { given };
        let settings = function.settings.unwrap_or_default();
        Self {
            display_name: or(function.display_name, &template.display_name),
            description: function.description,
            source: or(function.source, &template.starter_source),
            settings: to_settings("function.settings", &settings)?,
        }
        .checked()
    }

    /// SHA-256 of source and settings, in hexadecimal.
    pub(crate) fn digest(&self) -> String {
        version_digest(&self.source, &self.settings)
    }

    /// This draft with the fields that `mask` names taken over from `function`; without a mask, with those
    /// that are set. `default_name` is the display name of a function that is given none.
    pub(crate) fn updated(
        self,
        function: &wire::Function,
        mask: Option<&FieldMask>,
        default_name: &str,
    ) -> Result<Self, Violations> {
        let mut draft = self.into_wire();
        for take_over in mask::fields(function, mask)? {
            take_over(function, &mut draft);
        }
        let is_unnamed = draft.display_name.is_empty();
        Self {
            display_name: if is_unnamed { default_name.to_owned() } else { draft.display_name },
            description: draft.description,
            source: draft.source,
            settings: to_settings("function.settings", &draft.settings.unwrap_or_default())?,
        }
        .checked()
    }

    /// The fields in which two drafts differ, as a mask names them.
    pub(crate) fn differing(&self, other: &Self) -> Vec<&'static str> {
        mask::differing(&self.clone().into_wire(), &other.clone().into_wire())
    }

    fn into_wire(self) -> wire::Function {
        wire::Function {
            display_name: self.display_name,
            description: self.description,
            source: self.source,
            settings: Some(from_settings(&self.settings)),
            ..Default::default()
        }
    }

    /// The rules that the contract's annotations cannot express.
    fn checked(self) -> Result<Self, Violations> {
        if self.source.is_empty() {
            return Err(Violations::one(
                "function.source",
                "must not be empty; the template's starter_source is a good start",
            ));
        }
        check_text("function.source", &self.source)?;
        check_text("function.display_name", &self.display_name)?;
        check_text("function.description", &self.description)?;
        Ok(self)
    }
}

/// Refuses the one character that Postgres cannot store in a text.
pub(crate) fn check_text(field: &str, text: &str) -> Result<(), Violations> {
    match text.chars().position(|char| char == '\0') {
        Some(at) => Err(Violations::one(field, format!("holds a NUL character at position {at}; remove it"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chatfn_domain::settings::Language;
    use chatfn_proto::convert::{from_language, to_duration};

    use super::*;

    fn draft() -> Draft {
        Draft {
            display_name: "A".to_owned(),
            description: "B".to_owned(),
            source: "C".to_owned(),
            settings: FunctionSettings {
                memory_mib: 32,
                environment: [("K".to_owned(), "v".to_owned())].into(),
                ..FunctionSettings::default()
            },
        }
    }

    fn update(function: wire::Function, paths: &[&str]) -> Result<Draft, Violations> {
        let mask = FieldMask { paths: paths.iter().map(|&path| path.to_owned()).collect() };
        draft().updated(&function, Some(&mask), "Default")
    }

    fn field_of(result: Result<Draft, Violations>) -> String {
        result.unwrap_err().iter().next().unwrap().field.clone()
    }

    fn timeout(seconds: u64) -> wire::FunctionSettings {
        wire::FunctionSettings {
            timeout: Some(to_duration(Duration::from_secs(seconds))),
            ..Default::default()
        }
    }

    #[test]
    fn a_mask_changes_what_it_names_and_nothing_else() {
        let given = wire::Function {
            description: "new".to_owned(),
            source: "new".to_owned(),
            settings: Some(timeout(2)),
            ..Default::default()
        };
        let updated = update(given.clone(), &["settings.timeout"]).unwrap();
        let mut expected = draft();
        expected.settings.timeout = Duration::from_secs(2);
        assert_eq!(updated, expected);

        let updated = update(given, &["source", "display_name"]).unwrap();
        assert_eq!(updated, Draft { source: "new".into(), display_name: "Default".into(), ..draft() });
    }

    #[test]
    fn a_field_that_is_named_but_not_set_gets_its_default() {
        let updated = update(wire::Function::default(), &["settings", "description"]).unwrap();
        let expected = Draft { description: String::new(), settings: FunctionSettings::default(), ..draft() };
        assert_eq!(updated, expected);
        let updated = update(wire::Function::default(), &["settings.memory_mib"]).unwrap();
        assert_eq!(updated.settings.memory_mib, 64);
        assert_eq!(updated.settings.environment.len(), 1);
    }

    #[test]
    fn without_a_mask_what_is_set_is_taken_over() {
        let given = wire::Function { settings: Some(timeout(3)), ..Default::default() };
        let mut expected = draft();
        expected.settings.timeout = Duration::from_secs(3);
        assert_eq!(draft().updated(&given, None, "Default").unwrap(), expected);
        assert_eq!(draft().updated(&given, Some(&FieldMask::default()), "Default").unwrap(), expected);
        assert_eq!(draft().updated(&wire::Function::default(), None, "Default").unwrap(), draft());
    }

    #[test]
    fn a_star_replaces_everything_and_without_a_mask_nothing_is_cleared() {
        let with_hosts = || {
            let mut draft = draft();
            draft.settings.allowed_hosts = vec!["a.example.com".parse().unwrap()];
            draft
        };
        let update = |function: &wire::Function, paths: &[&str]| {
            let mask = FieldMask { paths: paths.iter().map(|&path| path.to_owned()).collect() };
            with_hosts().updated(function, Some(&mask), "Default")
        };
        let given = wire::Function { source: "new".to_owned(), ..Default::default() };
        let replaced = update(&given, &["*"]).unwrap();
        let expected = Draft {
            display_name: "Default".into(),
            description: String::new(),
            source: "new".into(),
            settings: FunctionSettings::default(),
        };
        assert_eq!(replaced, expected);
        assert_eq!(field_of(update(&wire::Function::default(), &["*"])), "function.source");

        let given = wire::Function { settings: Some(Default::default()), ..Default::default() };
        assert_eq!(with_hosts().updated(&given, None, "Default").unwrap(), with_hosts());
        for paths in [&["settings"][..], &["settings.allowed_hosts"]] {
            assert!(update(&given, paths).unwrap().settings.allowed_hosts.is_empty(), "{paths:?}");
        }
    }

    #[test]
    fn retries_can_be_set_one_by_one() {
        let retry = wire::RetryPolicy { max_attempts: 7, ..Default::default() };
        let given = wire::Function {
            settings: Some(wire::FunctionSettings { retry: Some(retry), ..Default::default() }),
            ..Default::default()
        };
        let updated = update(given, &["settings.retry.max_attempts"]).unwrap();
        assert_eq!(updated.settings.retry.max_attempts, 7);
        assert_eq!(updated.settings.retry.initial_backoff, draft().settings.retry.initial_backoff);
    }

    #[test]
    fn the_language_is_a_setting_like_the_others() {
        let given = wire::Function {
            settings: Some(wire::FunctionSettings {
                language: from_language(Language::TypeScript).into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        for updated in [
            update(given.clone(), &["settings.language"]).unwrap(),
            draft().updated(&given, None, "Default").unwrap(),
        ] {
            assert_eq!(
                updated.settings,
                FunctionSettings { language: Language::TypeScript, ..draft().settings }
            );
            assert_ne!(updated.digest(), draft().digest(), "the same source, run otherwise");
        }
    }

    #[test]
    fn what_cannot_be_stored_or_edited_is_a_violation() {
        let source = |source: &str| wire::Function { source: source.to_owned(), ..Default::default() };
        assert_eq!(field_of(update(source("a\0"), &["source"])), "function.source");
        assert_eq!(field_of(update(source(""), &["source"])), "function.source");
        for path in ["name", "state", "etag", "settings.cpu", "settings.environment.K", ""] {
            assert_eq!(field_of(update(wire::Function::default(), &[path])), "update_mask", "{path}");
        }
        assert_eq!(field_of(update(source("a"), &["source", "*"])), "update_mask", "it stands alone");
        let name = wire::Function { display_name: "\0".to_owned(), ..Default::default() };
        assert_eq!(field_of(update(name, &["display_name"])), "function.display_name");
    }
}
