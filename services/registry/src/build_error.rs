//! Why a source does not build, as it is kept with its function.

use chatfn_proto::invoker::v1 as wire;
use serde::{Deserialize, Serialize};

/// Most characters of a message, and of a stack, that are kept. Both come from the author's own code.
const MAX_CHARS: usize = 2_000;

/// Why a source does not build. Can be stored whatever the source put into it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BuildError {
    /// Name of the kind in the contract, for example `BUILD_ERROR_KIND_SYNTAX`.
    kind: String,
    message: String,
    /// From 1; 0 when there is none to name.
    line: u32,
    /// From 1; 0 when there is none to name.
    column: u32,
    stack: String,
}

impl BuildError {
    /// The kind without the prefix that all have: `SYNTAX`.
    pub(crate) fn kind(&self) -> &str {
        self.kind.trim_start_matches("BUILD_ERROR_KIND_")
    }

    /// From 1; 0 when there is none to name.
    pub(crate) fn line(&self) -> u32 {
        self.line
    }

    /// From 1; 0 when there is none to name.
    pub(crate) fn column(&self) -> u32 {
        self.column
    }

    /// Where and what, in a sentence.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }
}

impl From<wire::BuildError> for BuildError {
    fn from(error: wire::BuildError) -> Self {
        Self {
            kind: error.kind().as_str_name().to_owned(),
            message: storable(&error.message),
            line: error.line,
            column: error.column,
            stack: storable(&error.stack),
        }
    }
}

impl From<BuildError> for wire::BuildError {
    fn from(error: BuildError) -> Self {
        // A kind that an older release does not know is left unspecified; the message says it all.
        let kind = wire::BuildErrorKind::from_str_name(&error.kind).unwrap_or_default();
        Self {
            kind: kind.into(),
            message: error.message,
            line: error.line,
            column: error.column,
            stack: error.stack,
        }
    }
}

/// Postgres stores no NUL, and `throw new Error("\0")` is a legal source.
fn storable(text: &str) -> String {
    text.chars()
        .take(MAX_CHARS)
        .map(|char| if char == '\0' { char::REPLACEMENT_CHARACTER } else { char })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_thrown_cannot_break_storage() {
        let error = BuildError::from(wire::BuildError {
            kind: wire::BuildErrorKind::TopLevelThrow.into(),
            message: format!("a\0b{}", "x".repeat(MAX_CHARS)),
            line: 3,
            column: 7,
            stack: "\0".to_owned(),
        });
        assert!(error.message.starts_with("a\u{fffd}b"));
        assert_eq!(error.message.chars().count(), MAX_CHARS);
        assert_eq!(error.stack, "\u{fffd}");
        assert_eq!(error.kind(), "TOP_LEVEL_THROW");
        assert!(error.message().starts_with('a'));

        let wire = wire::BuildError::from(error.clone());
        assert_eq!(wire.kind(), wire::BuildErrorKind::TopLevelThrow);
        assert_eq!(BuildError::from(wire), error);
    }
}
