//! Stable reasons: why a call failed, why an event is in its state, why an attempt or an outbound call came to nothing.
//!
//! They are part of the contract, and all of them are here: nothing else can make a [`Reason`], and errors take nothing
//! else, so there is none that docs/ERRORS.md, which is made of these tables, does not have. A name never changes its
//! meaning; one that is not given any more is not given again for something else.

mod calls;
pub mod events;
pub mod runs;

pub use calls::*;

/// A stable reason. For programs to act upon, and for people to look up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Reason(&'static Entry);

/// What a table says of one.
#[derive(PartialEq, Eq)]
struct Entry {
    name: &'static str,
    of: &'static str,
    by: &'static str,
    retry: Retry,
    cause: &'static str,
    cure: &'static str,
    metadata: &'static [&'static str],
}

/// Whether the same again may succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Not before something is changed.
    No,
    /// Later, and nothing was done: anything may be repeated.
    Yes,
    /// Later, but it may have been done: only what may happen twice, or is recognised the second time (a `request_id`, an
    /// event's id), may be repeated.
    Idempotent,
}

impl Reason {
    /// The name, as it is on the wire: `SCREAMING_SNAKE`.
    pub const fn name(self) -> &'static str {
        self.0.name
    }

    /// What it is the reason of: a gRPC code, or the state of an event, as it is on the wire.
    pub const fn of(self) -> &'static str {
        self.0.of
    }

    /// Who gives it.
    pub const fn by(self) -> &'static str {
        self.0.by
    }

    /// Whether the same again may succeed.
    pub const fn retry(self) -> Retry {
        self.0.retry
    }

    /// What has happened.
    pub const fn cause(self) -> &'static str {
        self.0.cause
    }

    /// What to do about it.
    pub const fn cure(self) -> &'static str {
        self.0.cure
    }

    /// What is the matter with a thing, and what to do about it: the message of errors that say it of things of all kinds.
    pub fn message(self, kind: &str, name: &str, what: &str) -> String {
        format!("{kind} {name:?} {what}. {}", self.cure().trim_end_matches('.'))
    }

    /// Keys of the metadata that may go with it.
    pub const fn metadata(self) -> &'static [&'static str] {
        self.0.metadata
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::fmt::Debug for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Makes a table: constants, and `ALL` of them.
macro_rules! reasons {
    ($($name:ident: $of:literal, $by:literal, $retry:ident, $cause:literal => $cure:literal
       $(, {$($key:literal),+})?;)+) => {
        $(
            #[doc = concat!("`", $of, "`: ", $cause)]
            pub const $name: $crate::reasons::Reason =
                $crate::reasons::Reason(&$crate::reasons::Entry {
                    name: stringify!($name),
                    of: $of,
                    by: $by,
                    retry: $crate::reasons::Retry::$retry,
                    cause: $cause,
                    cure: $cure,
                    metadata: &[$($($key),+)?],
                });
        )+

        /// Every reason of this table.
        pub const ALL: &[$crate::reasons::Reason] = &[$($name),+];
    };
}
use reasons;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reason_says_what_happened_and_what_to_do() {
        for table in [ALL, events::ALL, runs::ALL] {
            let names: BTreeSet<_> = table.iter().map(|it| it.name()).collect();
            assert_eq!(names.len(), table.len(), "each name is there once");
            for it in table {
                assert!(it.name().bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'), "{it}");
                for text in [it.cause(), it.cure()] {
                    assert!(
                        text.ends_with('.') && text.starts_with(|first: char| !first.is_lowercase()),
                        "{it}: {text}"
                    );
                }
            }
        }
    }

    #[test]
    fn only_what_may_pass_by_itself_may_be_repeated() {
        for it in ALL.iter().filter(|it| it.retry() != Retry::No) {
            let passes =
                ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "UNKNOWN", "INTERNAL", "ABORTED"];
            assert!(passes.contains(&it.of()), "{it}");
        }
    }
}
