//! What makes files a template.

use std::str::FromStr as _;

use chatfn_domain::{event::parse_payload, name::TemplateName, settings::MAX_SOURCE_CHARS};
use chatfn_proto::registry::v1 as wire;
use serde_json::Value;

use super::{
    CatalogueError, Problem,
    files::Files,
    locate::{Position, locate},
};

/// Longest display name: it is also the default of a function's, whose limit this is.
pub(super) const MAX_DISPLAY_NAME_CHARS: usize = 50;

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

impl Files {
    /// The template, if the files make one. Its code is not run: that is for invokers alone.
    pub(super) fn check(&self) -> Result<wire::Template, CatalogueError> {
        let broken = |file, position, problem| self.broken(file, position, problem);
        TemplateName::from_str(&self.name).map_err(|error| broken("", None, Problem::Name(error)))?;
        let description: Description = serde_json::from_str(&self.template)
            .map_err(|error| broken("template.json", position(&error), Problem::Description(error)))?;
        if !(1..=MAX_DISPLAY_NAME_CHARS).contains(&description.display_name.chars().count()) {
            let position = locate(&self.template, "/display_name");
            return Err(broken("template.json", position, Problem::DisplayName));
        }
        self.check_sample()?;
        if !self.starter.contains("function lambda(") || self.starter.chars().count() > MAX_SOURCE_CHARS {
            return Err(broken("starter.js", None, Problem::Starter));
        }
        let firing = match description.firing {
            Firing::OncePerConversation => wire::Firing::OncePerConversation,
            Firing::Repeated => wire::Firing::Repeated,
        };
        Ok(wire::Template {
            name: format!("templates/{}", self.name),
            display_name: description.display_name,
            description: description.description.join("\n"),
            payload_schema_json: self.schema.clone().into_owned(),
            sample_payload_json: self.sample.clone().into_owned(),
            starter_source: self.starter.clone().into_owned(),
            firing: firing.into(),
        })
    }

    fn check_sample(&self) -> Result<(), CatalogueError> {
        let json = |file, text: &str| {
            serde_json::from_str::<Value>(text)
                .map_err(|error| self.broken(file, position(&error), Problem::Json(error)))
        };
        let schema = json("schema.json", &self.schema)?;
        json("sample.json", &self.sample)?;
        let validator = jsonschema::draft202012::new(&schema).map_err(|error| {
            let position = locate(&self.schema, error.instance_path().as_str());
            self.broken("schema.json", position, Problem::Schema(error.to_string()))
        })?;
        let sample = parse_payload(&self.sample)
            .map_err(|error| self.broken("sample.json", None, Problem::Sample(error)))?;
        validator.validate(&sample).map_err(|error| {
            let pointer = error.instance_path().as_str();
            let problem = Problem::SampleBreaksSchema(format!("{error} at {pointer:?}"));
            self.broken("sample.json", locate(&self.sample, pointer), problem)
        })
    }
}

/// Where a JSON text stops to make sense.
fn position(error: &serde_json::Error) -> Option<Position> {
    // The line is 0 for an error that no place can be blamed for.
    (error.line() > 0).then(|| Position { line: error.line(), column: error.column() })
}
