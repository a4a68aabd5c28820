//! The catalogue of templates: data files, read and checked once, at start.
//!
//! The shipped ones are in `templates/`, embedded in the binary; `templates/README.md` says what is in such a folder.
//! An operator may add more from a folder of their own. It is read at the start alone, so that what a registry offers
//! never changes under its watchers, and a mistake stops one new replica instead of all the old ones.

mod check;
mod files;
mod locate;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use chatfn_domain::{
    event::PayloadError,
    name::{NameError, TemplateName},
    settings::MAX_SOURCE_CHARS,
};
use chatfn_proto::registry::v1 as wire;
use prost::Message as _;

use self::{
    check::MAX_DISPLAY_NAME_CHARS,
    files::{Files, MAX_FILE_BYTES},
    locate::Position,
};

/// Most bytes of all templates together: they must fit into one answer of `ListTemplates`.
const MAX_BYTES: usize = 2 * 1024 * 1024;

/// A template that cannot be offered, and where to look.
#[derive(Debug, thiserror::Error)]
#[error("the template in {} cannot be offered", Place(.file, *.position))]
pub struct CatalogueError {
    /// The file or folder that has to be corrected.
    pub file: PathBuf,
    /// Where in the file, if that is known.
    pub position: Option<Position>,
    /// Why.
    #[source]
    pub problem: Problem,
}

/// What is wrong with a template.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The file or folder cannot be read.
    #[error(
        "it cannot be read; a template is a folder with template.json, schema.json, sample.json and starter.js"
    )]
    Unreadable(#[source] std::io::Error),
    /// A file is too large to be what it should be.
    #[error("it must have at most {MAX_FILE_BYTES} bytes")]
    FileTooLarge,
    /// Something in the folder of templates is none.
    #[error("it is not a folder: every entry of the folder of templates is the folder of one")]
    NotAFolder,
    /// The folder's name is no template name.
    #[error("the folder's name is the template's, and it")]
    Name(#[source] NameError),
    /// A shipped template has this name.
    #[error(
        "this release ships a template of this name, which cannot be redefined; give the folder another name"
    )]
    Shipped,
    /// All templates together are too large.
    #[error("with it, all templates together exceed {MAX_BYTES} bytes; remove templates, or shorten them")]
    TooMuch,
    /// `template.json` does not say what it should.
    #[error("it does not describe a template")]
    Description(#[source] serde_json::Error),
    /// The display name is empty or too long.
    #[error("display_name must have 1 to {MAX_DISPLAY_NAME_CHARS} characters")]
    DisplayName,
    /// A file is not JSON.
    #[error("it is not JSON")]
    Json(#[source] serde_json::Error),
    /// `schema.json` is no JSON Schema.
    #[error("it is not a JSON Schema of draft 2020-12: {0}")]
    Schema(String),
    /// `sample.json` is no payload.
    #[error("it is not a payload")]
    Sample(#[source] PayloadError),
    /// `sample.json` breaks `schema.json`.
    #[error("it breaks schema.json: {0}")]
    SampleBreaksSchema(String),
    /// `starter.js` is no lambda that could be registered.
    #[error("it must define a function lambda in at most {MAX_SOURCE_CHARS} characters")]
    Starter,
}

/// All templates, sorted by name. Each one's schema compiles and its sample satisfies it.
#[derive(Debug)]
pub struct Catalogue {
    templates: Vec<wire::Template>,
}

impl Catalogue {
    /// Reads and checks the shipped templates, and those in the operator's folder `more`.
    ///
    /// # Errors
    /// The first template that is broken.
    pub fn load(more: Option<&Path>) -> Result<Self, CatalogueError> {
        let mut templates = BTreeMap::new();
        for files in files::shipped() {
            templates.insert(files.name.clone(), files.check()?);
        }
        let shipped = templates.len();
        for folder in more.map(files::folders).transpose()?.unwrap_or_default() {
            let files = Files::read(folder)?;
            if templates.contains_key(&files.name) {
                return Err(files.broken("", None, Problem::Shipped));
            }
            let template = files.check()?;
            let bytes: usize = templates.values().map(wire::Template::encoded_len).sum();
            if bytes + template.encoded_len() > MAX_BYTES {
                return Err(files.broken("", None, Problem::TooMuch));
            }
            templates.insert(files.name, template);
        }
        tracing::info!(shipped, added = templates.len() - shipped, "templates are read");
        Ok(Self { templates: templates.into_values().collect() })
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

/// `file:line:column`, as far as it is known.
struct Place<'a>(&'a Path, Option<Position>);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.display())?;
        self.1.map_or(Ok(()), |Position { line, column }| write!(f, ":{line}:{column}"))
    }
}

#[cfg(test)]
mod tests;
