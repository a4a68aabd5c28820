//! Where a watcher is, as it is told to it: `<number>.<id>` of a revision. Watchers must not look into it.

use uuid::Uuid;

use crate::store::deployments::Revision;

/// The token of a revision; empty for one without an id, from which nobody can go on.
pub(super) fn token(revision: Revision) -> String {
    revision.id.map(|id| format!("{}.{}", revision.number, id.simple())).unwrap_or_default()
}

/// The revision of a token; `None` for what is none.
pub(super) fn revision(token: &str) -> Option<(i64, Uuid)> {
    let (number, id) = token.split_once('.')?;
    Some((number.parse().ok()?, id.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_as_they_were_given() {
        let id = Uuid::now_v7();
        assert_eq!(revision(&token(Revision { number: 7, id: Some(id) })), Some((7, id)));
        assert_eq!(token(Revision { number: 7, id: None }), "");
        for foreign in ["", "7", "7.", ".x", "x.00000000000000000000000000000000"] {
            assert_eq!(revision(foreign), None, "{foreign}");
        }
    }
}
