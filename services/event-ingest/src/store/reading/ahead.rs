//! Whose events come next in a lane.

use chatfn_domain::name::AccountId;
use sqlx::PgPool;

use super::inconsistent;

/// The accounts that have events in a part of a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ahead {
    /// Each with the first of them, finished or not.
    pub(crate) accounts: Vec<(AccountId, i64)>,
    /// These are all up to here.
    pub(crate) looked_to: i64,
}

/// Looks at the next `rows` events of a lane after `after`, up to `to`.
pub(crate) async fn ahead(
    pool: &PgPool,
    lane: i16,
    after: i64,
    to: i64,
    rows: i64,
) -> Result<Ahead, sqlx::Error> {
    let found = sqlx::query!(
        r#"
        SELECT account AS "account!", min(sequence) AS "first!", max(sequence) AS "last!", count(*) AS "count!"
        FROM (
            SELECT account, sequence FROM ingest.events
            WHERE lane = $1 AND sequence > $2 AND sequence <= $3 ORDER BY sequence LIMIT $4
        ) looked
        GROUP BY account
        "#,
        lane,
        after,
        to,
        rows,
    )
    .fetch_all(pool)
    .await?;
    let is_all = found.iter().map(|row| row.count).sum::<i64>() < rows;
    let last = found.iter().map(|row| row.last).max().unwrap_or(to);
    let accounts = found.into_iter().map(|row| Ok((row.account.parse().map_err(inconsistent)?, row.first)));
    Ok(Ahead {
        accounts: accounts.collect::<Result<_, sqlx::Error>>()?,
        looked_to: if is_all { to } else { last },
    })
}
