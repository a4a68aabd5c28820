//! The files that templates are made of.

use std::{
    borrow::Cow,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use super::{CatalogueError, Position, Problem};

/// Most bytes of one file: more than the largest payload or source that is allowed.
pub(super) const MAX_FILE_BYTES: u64 = 512 * 1024;

/// The files of one template.
#[derive(Debug, Clone)]
pub(super) struct Files {
    /// The name of their folder, which is the template's.
    pub(super) name: String,
    /// Their folder, for errors.
    pub(super) folder: PathBuf,
    pub(super) template: Cow<'static, str>,
    pub(super) schema: Cow<'static, str>,
    pub(super) sample: Cow<'static, str>,
    pub(super) starter: Cow<'static, str>,
}

macro_rules! embedded {
    ($($name:literal),+ $(,)?) => {
        [$(Files {
            name: $name.to_owned(),
            folder: concat!("services/registry/templates/", $name).into(),
            template: Cow::Borrowed(include_str!(concat!("../../templates/", $name, "/template.json"))),
            schema: Cow::Borrowed(include_str!(concat!("../../templates/", $name, "/schema.json"))),
            sample: Cow::Borrowed(include_str!(concat!("../../templates/", $name, "/sample.json"))),
            starter: Cow::Borrowed(include_str!(concat!("../../templates/", $name, "/starter.js"))),
        }),+]
    };
}

/// The templates that this release ships. To ship another, add its folder and its name here.
pub(super) fn shipped() -> impl IntoIterator<Item = Files> {
    embedded![
        "chat.end",
        "chat.in_queue",
        "chat.participants_change",
        "chat.post_survey_email_transcript",
        "chat.start",
        "messaging.consumer_step_up",
        "messaging.conversation_end",
        "messaging.conversation_idle",
        "messaging.conversation_routing",
        "messaging.line_in_off_hours",
        "messaging.new_conversation",
        "messaging.participants_change",
        "messaging.survey_ended",
        "messaging.survey_started",
        "messaging.ttr",
    ]
}

/// The folders of templates in an operator's folder, sorted. Names that begin with a dot are left out: mounted volumes
/// keep their own things under such names.
pub(super) fn folders(of: &Path) -> Result<Vec<PathBuf>, CatalogueError> {
    let unreadable = |error| broken(of, None, Problem::Unreadable(error));
    let mut folders = Vec::new();
    for entry in fs::read_dir(of).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
            continue;
        }
        // A mounted volume's entries are links.
        if !path.is_dir() {
            return Err(broken(&path, None, Problem::NotAFolder));
        }
        folders.push(path);
    }
    folders.sort();
    Ok(folders)
}

impl Files {
    /// Reads the files in a folder.
    pub(super) fn read(folder: PathBuf) -> Result<Self, CatalogueError> {
        let read = |name: &str| {
            let path = folder.join(name);
            let text = read(&path).map_err(|error| broken(&path, None, Problem::Unreadable(error)))?;
            match text.len() as u64 > MAX_FILE_BYTES {
                true => Err(broken(&path, None, Problem::FileTooLarge)),
                false => Ok(Cow::Owned(text)),
            }
        };
        Ok(Self {
            name: folder.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            template: read("template.json")?,
            schema: read("schema.json")?,
            sample: read("sample.json")?,
            starter: read("starter.js")?,
            folder,
        })
    }

    /// The error that one of the files, or with an empty name the whole template, is broken.
    pub(super) fn broken(&self, file: &str, position: Option<Position>, problem: Problem) -> CatalogueError {
        let path = if file.is_empty() { self.folder.clone() } else { self.folder.join(file) };
        broken(&path, position, problem)
    }
}

fn broken(file: &Path, position: Option<Position>, problem: Problem) -> CatalogueError {
    CatalogueError { file: file.to_owned(), position, problem }
}

/// The text of a file, or as much of it as shows that it is too long.
fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    String::from_utf8(bytes).or_else(|error| match error.utf8_error().error_len() {
        // Cut within a character: too long, whatever it is.
        None => Ok(String::from_utf8_lossy(error.as_bytes()).into_owned()),
        Some(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8")),
    })
}
