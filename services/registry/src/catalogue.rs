//! The catalogue of templates: data files in `templates/`, embedded in the binary and checked at start.
//!
//! To add a template, add its folder and its name to [`FILES`].

use std::str::FromStr;

use chatfn_domain::{
    event::{PayloadError, parse_payload},
    name::{NameError, TemplateName},
    settings::MAX_SOURCE_CHARS,
};
use chatfn_proto::registry::v1 as wire;

/// Longest display name: it is also the default of a function's, whose limit this is.
const MAX_DISPLAY_NAME_CHARS: usize = 50;

/// The files of one template.
struct Files {
    name: &'static str,
    template: &'static str,
    schema: &'static str,
    sample: &'static str,
    starter: &'static str,
}

macro_rules! files {
    ($($name:literal),+ $(,)?) => {
        &[$(Files {
            name: $name,
            template: include_str!(concat!("../templates/", $name, "/template.json")),
            schema: include_str!(concat!("../templates/", $name, "/schema.json")),
            sample: include_str!(concat!("../templates/", $name, "/sample.json")),
            starter: include_str!(concat!("../templates/", $name, "/starter.js")),
        }),+]
    };
}

/// Every template.
const FILES: &[Files] = files!["chat.end", "chat.in_queue", "chat.participants_change", "chat.start"];

/// `template.json`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    display_name: String,
    firing: Firing,
    /// Lines of Markdown.
    description: Vec<String>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Firing {
    OncePerConversation,
    Repeated,
}

/// A template that cannot be offered.
#[derive(Debug, thiserror::Error)]
#[error("template {template} of the catalogue is broken")]
pub struct CatalogueError {
    /// Its name.
    pub template: String,
    /// Why.
    #[source]
    pub problem: Problem,
}

/// What is wrong with a template.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// Its folder's name is no template name.
    #[error("its name is malformed")]
    Name(#[source] NameError),
    /// `template.json` cannot be read.
    #[error("template.json cannot be read")]
    Description(#[source] serde_json::Error),
    /// The display name is empty or too long.
    #[error("the display name must have 1 to {MAX_DISPLAY_NAME_CHARS} characters")]
    DisplayName,
    /// `schema.json` is not JSON.
    #[error("schema.json is not JSON")]
    SchemaJson(#[source] serde_json::Error),
    /// `schema.json` is no JSON Schema.
    #[error("schema.json is not a JSON Schema of draft 2020-12: {0}")]
    Schema(String),
    /// `sample.json` is no payload.
    #[error("sample.json is not a payload")]
    Sample(#[source] PayloadError),
    /// `sample.json` breaks `schema.json`.
    #[error("sample.json breaks schema.json: {0}")]
    SampleBreaksSchema(String),
    /// `starter.js` is no lambda that could be registered.
    #[error("starter.js must define a function lambda in at most {MAX_SOURCE_CHARS} characters")]
    Starter,
}

/// All templates, sorted by name. Each one's schema compiles and its sample satisfies it.
#[derive(Debug)]
pub struct Catalogue {
    templates: Vec<wire::Template>,
}

impl Catalogue {
    /// Reads and checks the embedded catalogue.
    ///
    /// # Errors
    /// The first template that is broken.
    pub fn load() -> Result<Self, CatalogueError> {
        let load = |files: &Files| {
            files.load().map_err(|problem| CatalogueError { template: files.name.to_owned(), problem })
        };
        let mut templates = FILES.iter().map(load).collect::<Result<Vec<_>, _>>()?;
        templates.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { templates })
    }

    /// Every template, sorted by name.
    pub fn all(&self) -> &[wire::Template] {
        &self.templates
    }

    /// The template of that name, if there is one.
    pub fn get(&self, name: &TemplateName) -> Option<&wire::Template> {
        self.templates.iter().find(|template| template.name.strip_prefix("templates/") == Some(name.as_str()))
    }
}

impl Files {
    fn load(&self) -> Result<wire::Template, Problem> {
        TemplateName::from_str(self.name).map_err(Problem::Name)?;
        let description: Description = serde_json::from_str(self.template).map_err(Problem::Description)?;
        if !(1..=MAX_DISPLAY_NAME_CHARS).contains(&description.display_name.chars().count()) {
            return Err(Problem::DisplayName);
        }
        self.check_sample()?;
        if !self.starter.contains("function lambda(") || self.starter.chars().count() > MAX_SOURCE_CHARS {
            return Err(Problem::Starter);
        }
        let firing = match description.firing {
            Firing::OncePerConversation => wire::Firing::OncePerConversation,
            Firing::Repeated => wire::Firing::Repeated,
        };
        Ok(wire::Template {
            name: format!("templates/{}", self.name),
            display_name: description.display_name,
            description: description.description.join("\n"),
            payload_schema_json: self.schema.to_owned(),
            sample_payload_json: self.sample.to_owned(),
            starter_source: self.starter.to_owned(),
            firing: firing.into(),
        })
    }

    fn check_sample(&self) -> Result<(), Problem> {
        let schema = serde_json::from_str(self.schema).map_err(Problem::SchemaJson)?;
        let validator =
            jsonschema::draft202012::new(&schema).map_err(|error| Problem::Schema(error.to_string()))?;
        let sample = parse_payload(self.sample).map_err(Problem::Sample)?;
        validator.validate(&sample).map_err(|error| {
            Problem::SampleBreaksSchema(format!("{error} at {:?}", error.instance_path().to_string()))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs};

    use serde_json::{Value, json};

    use super::*;

    fn accepts(template: &str, change: impl FnOnce(&mut Value)) -> bool {
        let files = FILES.iter().find(|files| files.name == template).unwrap();
        let validator = jsonschema::draft202012::new(&serde_json::from_str(files.schema).unwrap()).unwrap();
        let mut payload: Value = serde_json::from_str(files.sample).unwrap();
        change(&mut payload);
        validator.is_valid(&payload)
    }

    #[test]
    fn every_folder_is_a_sound_template_of_the_catalogue() {
        let catalogue = Catalogue::load().unwrap();
        let loaded: BTreeSet<String> =
            catalogue.all().iter().map(|it| it.name.replace("templates/", "")).collect();
        let folders: BTreeSet<String> = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/templates"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(loaded, folders);
        assert!(catalogue.all().is_sorted_by(|a, b| a.name < b.name));
    }

    #[test]
    fn a_broken_template_is_named_with_its_problem() {
        let good = &FILES[0];
        let with = |change: fn(&mut Files)| {
            let mut files = Files { ..*good };
            change(&mut files);
            files.load().unwrap_err()
        };
        assert!(matches!(with(|it| it.name = "Chat"), Problem::Name(_)));
        assert!(matches!(with(|it| it.template = "{}"), Problem::Description(_)));
        assert!(matches!(with(|it| it.schema = "{"), Problem::SchemaJson(_)));
        assert!(matches!(with(|it| it.schema = r#"{"type": "text"}"#), Problem::Schema(_)));
        assert!(matches!(with(|it| it.sample = "[]"), Problem::Sample(_)));
        assert!(matches!(with(|it| it.sample = "{}"), Problem::SampleBreaksSchema(_)));
        assert!(matches!(with(|it| it.starter = "let x;"), Problem::Starter));
    }

    #[test]
    fn in_queue_is_strict_on_types_and_open_to_more() {
        assert!(accepts("chat.in_queue", |payload| payload["customField"] = json!({"a": [1]})));
        assert!(accepts("chat.in_queue", |payload| {
            *payload = json!({"chatSessionKey": payload["chatSessionKey"]});
        }));
        for field in ["campaignId", "chatSessionKey", "chatStartPageURL", "engagementId", "ipAddress"] {
            assert!(!accepts("chat.in_queue", |payload| payload[field] = json!(1)), "{field}");
            assert!(!accepts("chat.in_queue", |payload| payload[field] = json!(null)), "{field}");
        }
        assert!(!accepts("chat.in_queue", |payload| payload["preChatSurveyStructure"]["header"] = json!(1)));
        assert!(!accepts("chat.in_queue", |payload| payload["preChatSurveyStructure"] = json!("x")));
        assert!(!accepts("chat.in_queue", |payload| payload["ttr"]["newTtr"]["value"] = json!("300")));
        assert!(!accepts("chat.in_queue", |payload| {
            payload.as_object_mut().unwrap().remove("chatSessionKey");
        }));
    }

    #[test]
    fn an_end_has_one_of_the_known_reasons() {
        for reason in ["agent", "consumer", "system", "disconnect", "timeout", "a2a-transfer"] {
            assert!(accepts("chat.end", |payload| payload["endReason"] = json!(reason)), "{reason}");
        }
        assert!(!accepts("chat.end", |payload| payload["endReason"] = json!("bored")));
    }

    #[test]
    fn only_participants_change_fires_more_than_once() {
        for template in Catalogue::load().unwrap().all() {
            let repeated = template.firing == i32::from(wire::Firing::Repeated);
            assert_eq!(repeated, template.name == "templates/chat.participants_change", "{}", template.name);
        }
    }
}
