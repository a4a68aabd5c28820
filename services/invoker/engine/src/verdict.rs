//! What a guest reports when it is done, and what that means for a run.

use crate::call::{Failure, FailureKind};
use crate::logs::lossy_prefix;

const NAME_BYTES: usize = 256;
const MESSAGE_BYTES: usize = 8 << 10;
const STACK_BYTES: usize = 16 << 10;

/// The last word of a guest. Only its first one counts.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It ended well; for a run, with this JSON.
    Finished(String),
    /// It ended well, with a result of this many bytes.
    TooLarge(usize),
    /// It failed.
    Failed(GuestFailure),
}

/// A failure as the guest saw it.
#[derive(Debug)]
pub(crate) struct GuestFailure {
    pub(crate) kind: GuestFailureKind,
    pub(crate) name: String,
    pub(crate) message: String,
    pub(crate) stack: String,
}

/// In step with `enum failure` in guest/shim.c.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GuestFailureKind {
    Thrown,
    NeverSettles,
    NotJson,
    Syntax,
    NoLambda,
    Import,
    TopLevel,
}

impl GuestFailureKind {
    pub(crate) fn from_guest(number: i32) -> Option<Self> {
        Some(match number {
            0 => Self::Thrown,
            1 => Self::NeverSettles,
            2 => Self::NotJson,
            3 => Self::Syntax,
            4 => Self::NoLambda,
            5 => Self::Import,
            6 => Self::TopLevel,
            _ => return None,
        })
    }
}

impl GuestFailure {
    pub(crate) fn new(kind: GuestFailureKind, name: &[u8], message: &[u8], stack: &[u8]) -> Self {
        Self {
            kind,
            name: lossy_prefix(name, NAME_BYTES).0,
            message: lossy_prefix(message, MESSAGE_BYTES).0,
            stack: lossy_prefix(stack, STACK_BYTES).0,
        }
    }

    /// Whether it may come from want of memory, if there was any. QuickJS has several ways to say so: it throws
    /// `null` when there is not even enough to make an error, and errors with a text of its own when there is not
    /// enough for theirs. A job that finds no memory says nothing, and leaves a promise that never settles.
    pub(crate) fn says_out_of_memory(&self) -> bool {
        self.kind == GuestFailureKind::NeverSettles
            || matches!(
                (self.name.as_str(), self.message.as_str()),
                (
                    "InternalError",
                    "out of memory" | "out of memory in regexp execution" | "Invalid error message" | ""
                ) | ("Error", "null")
            )
    }

    /// Line and column of the innermost place in the author's source, or zeros.
    pub(crate) fn location(&self) -> (u32, u32) {
        locate(&self.stack).unwrap_or_default()
    }

    /// As the failure of a run.
    pub(crate) fn into_failure(self) -> Failure {
        let kind = match self.kind {
            GuestFailureKind::NeverSettles => FailureKind::NeverSettles,
            GuestFailureKind::NotJson => FailureKind::ResultNotJson,
            _ => FailureKind::Thrown,
        };
        Failure { kind, name: self.name, message: self.message, stack: self.stack }
    }
}

fn locate(stack: &str) -> Option<(u32, u32)> {
    let (_, after) = stack.split_once("lambda.js:")?;
    let (line, rest) = after.split_once(':')?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    Some((line.parse().ok()?, rest[..digits].parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::locate;

    #[test]
    fn finds_the_innermost_place() {
        let stack = "    at map (native)\n    at f (lambda.js:3:14)\n    at lambda (lambda.js:9:1)";
        assert_eq!(locate(stack), Some((3, 14)));
        assert_eq!(locate("    at lambda.js:2:5"), Some((2, 5)));
        assert_eq!(locate("    at lambda.js:2"), None);
        assert_eq!(locate(""), None);
    }
}
