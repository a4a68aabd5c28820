//! What is wrong, all of it.

use std::{error::Error, fmt};

/// What is wrong with the settings, in the order in which it was found, each once.
#[derive(Debug, Default)]
pub struct Problems(Vec<String>);

impl Problems {
    /// Adds one, with its causes.
    pub fn add(&mut self, error: impl Into<Box<dyn Error + Send + Sync>>) {
        self.push(chain(&*error.into()));
    }

    /// Adds the error, if it is one, of this flag's value.
    pub fn check_flag<T>(&mut self, flag: &str, result: Result<T, impl Into<Box<dyn Error + Send + Sync>>>) {
        if let Err(error) = result {
            self.push(format!("--{flag}: {}", chain(&*error.into())));
        }
    }

    /// Adds those of an iterator.
    pub fn add_all(&mut self, errors: impl IntoIterator<Item: Into<Box<dyn Error + Send + Sync>>>) {
        errors.into_iter().for_each(|error| self.add(error));
    }

    /// Adds the error, if it is one.
    pub fn check<T>(&mut self, result: Result<T, impl Into<Box<dyn Error + Send + Sync>>>) {
        if let Err(error) = result {
            self.add(error);
        }
    }

    fn push(&mut self, text: String) {
        if !self.0.contains(&text) {
            self.0.push(text);
        }
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each, in a line of its own.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some errors of others repeat their cause.
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// How many there are, and each in a line.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        writeln!(f, "{count} problem{} with the settings", if count == 1 { "" } else { "s" })?;
        self.iter().try_for_each(|problem| writeln!(f, "- {problem}"))
    }
}
