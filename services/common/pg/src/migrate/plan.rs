//! Compares a build's history with a database's record, without any I/O.

use std::collections::BTreeMap;
use std::fmt;

use sqlx::migrate::{Migration, Migrator};

use super::MigrateError;

/// One migration, as the database records it: `0007_add_latch.sql` is version 7, "add latch".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The number that its file name starts with.
    pub version: i64,
    /// The rest of the file name, in words.
    pub description: String,
}

impl Record {
    /// The migration that a build must know to live with this one, if the name says so (`… needs 7`).
    pub fn needs(&self) -> Option<i64> {
        let (rest, version) = self.description.rsplit_once(' ')?;
        rest.ends_with("needs").then(|| version.parse().ok())?
    }
}

impl From<&Migration> for Record {
    fn from(migration: &Migration) -> Self {
        Self { version: migration.version, description: migration.description.clone().into_owned() }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.version, self.description)
    }
}

/// How a database stands to a build; every list is in order of version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    /// Known to the build and applied, unchanged.
    pub applied: Vec<Record>,
    /// Known to the build, not applied.
    pub pending: Vec<Record>,
    /// Applied by a newer build; this build can live with them.
    pub unknown: Vec<Record>,
}

/// The migrations that [`super::run()`] applies: all but the "down" halves, which chatfn does not use.
pub(super) fn forward(migrator: &Migrator) -> impl Iterator<Item = &Migration> {
    migrator.iter().filter(|migration| !migration.migration_type.is_down_migration())
}

/// Compares `migrator` with `recorded`, the database's records and their checksums.
pub(super) fn compare(migrator: &Migrator, recorded: Vec<(Record, Vec<u8>)>) -> Result<Schema, MigrateError> {
    let known: BTreeMap<i64, &Migration> = forward(migrator).map(|m| (m.version, m)).collect();
    let (mut applied, mut unknown) = (Vec::new(), Vec::new());
    for (record, checksum) in recorded {
        match known.get(&record.version) {
            Some(migration) if *migration.checksum == *checksum => applied.push(record),
            Some(_) => return Err(MigrateError::Edited { record }),
            None => match record.needs() {
                Some(needs) if !known.contains_key(&needs) => {
                    return Err(MigrateError::Ahead { record, needs });
                }
                _ => unknown.push(record),
            },
        }
    }
    let pending = known
        .into_values()
        .filter(|migration| !applied.iter().any(|record| record.version == migration.version))
        .map(Record::from)
        .collect();
    Ok(Schema { applied, pending, unknown })
}

/// "migration 2 (…)" or "migrations 2 (…), 3 (…)".
pub(super) fn list(records: &[Record]) -> String {
    let plural = if records.len() == 1 { "" } else { "s" };
    let names: Vec<String> = records.iter().map(ToString::to_string).collect();
    format!("migration{plural} {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sqlx::SqlSafeStr;
    use sqlx::migrate::MigrationType::Simple;

    fn history(versions: &[i64]) -> Migrator {
        let migration =
            |&version| Migration::new(version, "x".into(), Simple, "SELECT 1".into_sql_str(), false);
        Migrator::with_migrations(versions.iter().map(migration).collect())
    }

    fn recorded(version: i64, description: &str) -> (Record, Vec<u8>) {
        let checksum = history(&[1]).iter().next().unwrap().checksum.to_vec();
        (Record { version, description: description.to_owned() }, checksum)
    }

    #[test]
    fn what_is_missing_is_pending_even_below_the_newest() {
        let schema = compare(&history(&[1, 2, 3]), vec![recorded(1, "x"), recorded(3, "x")]).unwrap();
        assert_eq!(schema.applied.len(), 2);
        assert_eq!(schema.pending.iter().map(|r| r.version).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn a_newer_database_is_accepted_unless_it_needs_more_than_the_build_knows() {
        let schema = compare(&history(&[1]), vec![recorded(1, "x"), recorded(2, "add column")]).unwrap();
        assert_eq!(schema.unknown[0].version, 2);

        let contract = || vec![recorded(1, "x"), recorded(9, "drop column needs 0007")];
        assert!(compare(&history(&[1, 7]), contract()).is_ok(), "the release before the contract must run");
        let error = compare(&history(&[1]), contract()).unwrap_err();
        assert!(matches!(error, MigrateError::Ahead { needs: 7, .. }), "{error:?}");
    }

    #[test]
    fn an_edited_file_is_refused() {
        let mut edited = recorded(1, "x");
        edited.1 = vec![0; 48];
        let error = compare(&history(&[1]), vec![edited]).unwrap_err();
        assert!(matches!(error, MigrateError::Edited { .. }), "{error:?}");
    }
}
