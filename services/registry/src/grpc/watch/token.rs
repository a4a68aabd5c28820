//! Where a watcher is, as it is told to it.

use std::str::FromStr;

use uuid::Uuid;

/// A revision that the database has logged, as `<revision>.<id>`. Watchers must not look into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ResumeToken {
    pub(super) revision: i64,
    pub(super) id: Uuid,
}

/// The token of a revision; empty for one without an id, from which nobody can go on.
pub(super) fn resume_token(revision: i64, id: Option<Uuid>) -> String {
    id.map(|id| format!("{revision}.{}", id.simple())).unwrap_or_default()
}

impl FromStr for ResumeToken {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (revision, id) = text.split_once('.').ok_or(())?;
        Ok(Self { revision: revision.parse().map_err(drop)?, id: id.parse().map_err(drop)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_as_they_were_given() {
        let id = Uuid::now_v7();
        assert_eq!(resume_token(7, Some(id)).parse(), Ok(ResumeToken { revision: 7, id }));
        assert_eq!(resume_token(7, None), "");
        for foreign in ["", "7", "7.", ".x", "x.00000000000000000000000000000000"] {
            assert_eq!(foreign.parse::<ResumeToken>(), Err(()), "{foreign}");
        }
    }
}
