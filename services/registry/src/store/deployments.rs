//! What is live, and the order in which it changed.

use chatfn_domain::{name::FunctionName, settings::FunctionSettings};
use chatfn_proto::convert::from_settings;
use futures_util::{Stream, TryStreamExt as _};
use prost::Message as _;
use sqlx::{PgConnection, PgExecutor, types::Json};
use uuid::Uuid;

/// The channel on which a commit that changed a deployment rings. A hint: polling is the truth.
pub(crate) const CHANNEL: &str = "chatfn_registry_deployments";

/// Rows to ask for in a first [`Batch`].
pub(crate) const FIRST_ROWS: i64 = 32;

/// Most rows of one [`Batch`].
const MAX_ROWS: i64 = 512;

/// Most bytes of one [`Batch`], give or take one row.
const MAX_BYTES: usize = 1024 * 1024;

/// Revisions that are kept in the log, at least: who was away for longer gets a snapshot, which hardly costs more by then.
const LOGGED_REVISIONS: i64 = 10_000;

/// What is live of a function.
#[derive(Debug)]
pub(crate) struct Deployment {
    pub(crate) account: String,
    pub(crate) template: String,
    /// Revision of the deployments at which this last changed.
    pub(crate) revision: i64,
    /// The id of the revision; see [`Revision`].
    pub(crate) revision_id: Option<Uuid>,
    pub(crate) change_micros: i64,
    /// `None` when nothing is live any more.
    pub(crate) version: Option<i64>,
    /// Set when `version` is, as is what follows.
    pub(crate) digest: Option<String>,
    pub(crate) settings: Option<Json<FunctionSettings>>,
    /// Empty when it was read without sources.
    pub(crate) source: Option<String>,
}

impl Deployment {
    /// The revision at which this last changed.
    pub(crate) fn revision(&self) -> Revision {
        Revision { number: self.revision, id: self.revision_id }
    }

    /// What watchers are sent of it, but for names and numbers.
    fn bytes(&self) -> usize {
        let settings = self.settings.as_ref().map_or(0, |settings| from_settings(settings).encoded_len());
        settings + self.source.as_ref().map_or(0, String::len)
    }
}

/// Some of the rows that were asked for, in order.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) rows: Vec<Deployment>,
    /// Whether there is nothing after these.
    pub(crate) is_last: bool,
    /// How many rows to ask for next. Not more than are likely to fit: the server sends what it is asked for, taken or not.
    pub(crate) next_rows: i64,
}

/// Reads deployments; `$source` says whether with sources, `$rest` is what follows `FROM`.
macro_rules! select_deployments {
    ($rest:literal, $($argument:expr),+) => {
        sqlx::query_as!(
            Deployment,
            r#"SELECT d.account, d.template, d.revision, l.id AS "revision_id?",
                      (extract(epoch FROM d.deploy_time) * 1000000)::bigint AS "change_micros!",
                      d.live_version AS version, v.digest AS "digest?",
                      v.settings AS "settings?: Json<FunctionSettings>",
                      CASE WHEN $1 THEN v.source ELSE '' END AS source
               FROM registry.deployments d
               LEFT JOIN registry.versions v ON v.account = d.account AND v.template = d.template
                     AND v.number = d.live_version
               LEFT JOIN registry.deployment_log l ON l.revision = d.revision "#
                + $rest,
            $($argument),+
        )
    };
}

/// A revision of the deployments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Revision {
    pub(crate) number: i64,
    /// Tells it from others of the same number, as the log has it; `None` for one that an older release has written, or
    /// that the log does not reach back to.
    pub(crate) id: Option<Uuid>,
}

/// The revision of the deployments: every change up to it is visible.
pub(crate) async fn revision(db: impl PgExecutor<'_>) -> sqlx::Result<Revision> {
    sqlx::query_as!(
        Revision,
        r#"SELECT r.revision AS number, l.id AS "id?"
           FROM registry.deployment_revision r
           LEFT JOIN registry.deployment_log l ON l.revision = r.revision"#
    )
    .fetch_one(db)
    .await
}

/// The revision of the deployments, and whether it went back since it was `seen`: the database was replaced by an older copy,
/// which may have gone on and be beyond the number already, but has given it to another change.
pub(crate) async fn revision_since(
    db: impl PgExecutor<'_>,
    seen: Revision,
) -> sqlx::Result<(Revision, bool)> {
    let row = sqlx::query!(
        r#"SELECT r.revision AS number, l.id AS "id?", s.id AS "seen_id?"
           FROM registry.deployment_revision r
           LEFT JOIN registry.deployment_log l ON l.revision = r.revision
           LEFT JOIN registry.deployment_log s ON s.revision = $1"#,
        seen.number
    )
    .fetch_one(db)
    .await?;
    let is_another = matches!((seen.id, row.seen_id), (Some(seen), Some(logged)) if seen != logged);
    Ok((Revision { number: row.number, id: row.id }, row.number < seen.number || is_another))
}

/// The id that a revision has in the log. If it is the one that somebody knows the revision by, then what changed after
/// it is all that they have missed.
pub(crate) async fn logged_id(db: impl PgExecutor<'_>, revision: i64) -> sqlx::Result<Option<Uuid>> {
    let row = sqlx::query!("SELECT id FROM registry.deployment_log WHERE revision = $1", revision)
        .fetch_optional(db)
        .await?;
    Ok(row.map(|row| row.id))
}

/// The revision at which what is live of a function last changed, if anything ever was.
pub(crate) async fn revision_of(db: &mut PgConnection, function: &FunctionName) -> sqlx::Result<Option<i64>> {
    let row = sqlx::query!(
        "SELECT revision FROM registry.deployments WHERE account = $1 AND template = $2",
        function.account.as_str(),
        function.template.as_str()
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| row.revision))
}

/// What changed after `revision`, at most `limit` rows in the order of revisions. Each function at most once, as it is now.
pub(crate) async fn changed_after(
    db: impl PgExecutor<'_>,
    revision: i64,
    with_source: bool,
    limit: i64,
) -> sqlx::Result<Batch> {
    batch(
        select_deployments!(
            "WHERE d.revision > $2 ORDER BY d.revision LIMIT $3",
            with_source,
            revision,
            limit
        )
        .fetch(db),
        limit,
    )
    .await
}

/// What is live after the function `(account, template)`, at most `limit` rows in the order of names.
pub(crate) async fn live_after(
    db: impl PgExecutor<'_>,
    (account, template): (&str, &str),
    with_source: bool,
    limit: i64,
) -> sqlx::Result<Batch> {
    batch(
        select_deployments!(
            "WHERE d.live_version IS NOT NULL AND (d.account, d.template) > ($2, $3)
             ORDER BY d.account, d.template LIMIT $4",
            with_source,
            account,
            template,
            limit
        )
        .fetch(db),
        limit,
    )
    .await
}

/// Takes of the rows that were asked for, `limit` at most, what makes a batch.
async fn batch(rows: impl Stream<Item = sqlx::Result<Deployment>>, limit: i64) -> sqlx::Result<Batch> {
    let mut stream = std::pin::pin!(rows);
    let mut rows = Vec::new();
    let mut bytes = 0;
    let is_full = loop {
        let Some(row) = stream.try_next().await? else { break false };
        bytes += row.bytes();
        rows.push(row);
        if bytes >= MAX_BYTES {
            break true;
        }
    };
    let is_last = !is_full && i64::try_from(rows.len()).is_ok_and(|count| count < limit);
    let fitting = i64::try_from(MAX_BYTES * rows.len() / bytes.max(1)).unwrap_or(MAX_ROWS);
    Ok(Batch { rows, is_last, next_rows: fitting.clamp(1, MAX_ROWS) })
}

/// Makes a version live, or with `None` takes the live one out of service.
///
/// To be called late in a transaction: from here to its commit no other deployment changes.
pub(crate) async fn set(
    db: &mut PgConnection,
    function: &FunctionName,
    live_version: Option<i64>,
) -> sqlx::Result<()> {
    // The lock on this row is what makes the order of revisions the order of commits.
    let revision =
        sqlx::query!("UPDATE registry.deployment_revision SET revision = revision + 1 RETURNING revision")
            .fetch_one(&mut *db)
            .await?
            .revision;
    sqlx::query!(
        "INSERT INTO registry.deployments (account, template, live_version, last_version, revision)
         VALUES ($1, $2, $3, coalesce($3::bigint, 0), $4)
         ON CONFLICT ON CONSTRAINT deployments_pkey DO UPDATE
         SET live_version = excluded.live_version,
             last_version = greatest(deployments.last_version, excluded.last_version),
             revision = excluded.revision,
             deploy_time = now()",
        function.account.as_str(),
        function.template.as_str(),
        live_version,
        revision
    )
    .execute(&mut *db)
    .await?;
    // An older release may have left this number unlogged, or a replaced database may have it from before.
    sqlx::query!(
        "INSERT INTO registry.deployment_log (revision) VALUES ($1)
         ON CONFLICT (revision) DO UPDATE SET id = excluded.id",
        revision
    )
    .execute(&mut *db)
    .await?;
    sqlx::query!("SELECT pg_notify($1, '') AS sent", CHANNEL).execute(db).await?;
    Ok(())
}

/// As [`set`] with a version, for a transaction that is taken back: no other deployment waits for it.
pub(crate) async fn try_set(
    db: &mut PgConnection,
    function: &FunctionName,
    live_version: i64,
) -> sqlx::Result<()> {
    // A revision that is nobody else's, and that nobody sees.
    sqlx::query!(
        "INSERT INTO registry.deployments (account, template, live_version, last_version, revision)
         VALUES ($1, $2, $3, $3, -(pg_current_xact_id()::text::bigint))
         ON CONFLICT ON CONSTRAINT deployments_pkey DO UPDATE
         SET live_version = excluded.live_version,
             last_version = greatest(deployments.last_version, excluded.last_version)",
        function.account.as_str(),
        function.template.as_str(),
        live_version
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Removes up to `limit` of the revisions that the log need not keep, and says how many.
pub(crate) async fn trim_log(db: impl PgExecutor<'_>, limit: i64) -> sqlx::Result<u64> {
    let removed = sqlx::query!(
        "DELETE FROM registry.deployment_log WHERE revision IN (
             SELECT revision FROM registry.deployment_log
             WHERE revision <= (SELECT revision FROM registry.deployment_revision) - $1::bigint
             ORDER BY revision LIMIT $2 FOR UPDATE SKIP LOCKED)",
        LOGGED_REVISIONS,
        limit
    )
    .execute(db)
    .await?;
    Ok(removed.rows_affected())
}

#[cfg(test)]
mod tests {
    use chatfn_domain::settings::{MAX_ENVIRONMENT, MAX_ENVIRONMENT_VALUE_CHARS};
    use futures_util::stream;

    use super::*;

    fn deployment(source: usize, settings: FunctionSettings) -> Deployment {
        Deployment {
            account: "acme".to_owned(),
            template: "chat.start".to_owned(),
            revision: 1,
            revision_id: None,
            change_micros: 0,
            version: Some(1),
            digest: Some("d".to_owned()),
            settings: Some(Json(settings)),
            source: Some("x".repeat(source)),
        }
    }

    /// As much as may be set.
    fn large() -> FunctionSettings {
        let value = "\u{1f600}".repeat(MAX_ENVIRONMENT_VALUE_CHARS);
        let environment = (0..MAX_ENVIRONMENT).map(|n| (format!("V{n}"), value.clone())).collect();
        FunctionSettings { environment, ..FunctionSettings::default() }.checked().unwrap()
    }

    async fn batch_of(rows: usize, limit: i64, source: usize, settings: &FunctionSettings) -> Batch {
        let rows = (0..rows).map(|_| Ok(deployment(source, settings.clone())));
        batch(stream::iter(rows), limit).await.unwrap()
    }

    #[tokio::test]
    async fn all_that_is_sent_counts_towards_a_batch() {
        let small = FunctionSettings::default();
        let taken = async |source, settings| batch_of(32, 32, source, settings).await.rows.len();
        assert_eq!(taken(0, &small).await, 32);
        assert_eq!(taken(100_000, &small).await, 11);
        assert_eq!(taken(0, &large()).await, 1);
    }

    #[tokio::test]
    async fn the_next_batch_asks_for_what_fits() {
        let small = FunctionSettings::default();
        let next = async |source, settings| batch_of(32, 32, source, settings).await.next_rows;
        assert_eq!(next(0, &small).await, MAX_ROWS);
        assert_eq!(next(100_000, &small).await, 10);
        assert_eq!(next(0, &large()).await, 1);
        // Nothing that was left for later ends the reading.
        assert!(!batch_of(32, 32, 0, &small).await.is_last);
        assert!(!batch_of(1, 32, 0, &large()).await.is_last);
        assert!(batch_of(31, 32, 0, &small).await.is_last);
        assert!(batch_of(0, 32, 0, &small).await.is_last);
    }
}
