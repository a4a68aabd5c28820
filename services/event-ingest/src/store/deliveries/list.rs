//! Deliveries from new to old, page by page.

use chatfn_domain::name::{AccountId, TemplateName};
use sqlx::PgPool;

use super::{
    super::{
        Time,
        days::{self, Part},
        interventions::Place,
        journal::ParkKind,
    },
    DeliveryRow, Key, among, count,
};

/// Events, or outcomes of a state, that a filtered page looks at, at most: bounds what one call can cost, however rare a match
/// is.
const SCAN: i64 = 5_000;
/// How often one call does that for what is parked, while it finds none: an operator who asks for it once should see some.
const SCANS: i64 = 10;

/// What a list shows.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    pub(crate) account: AccountId,
    pub(crate) state: Option<i16>,
    pub(crate) template: Option<TemplateName>,
}

/// Deliveries after `after` in a list, from new to old; and where to go on, if there may be more.
pub(crate) async fn list(
    pool: &PgPool,
    filter: &Filter,
    mut after: Key,
    rows: i64,
) -> Result<(Vec<DeliveryRow>, Option<Key>), sqlx::Error> {
    let parked = match filter.state {
        Some(2) => parked(pool, &filter.account, ParkKind::Retry).await?,
        Some(8) => parked(pool, &filter.account, ParkKind::Halted).await?,
        _ => None,
    };
    if let Some(places) = parked {
        let found = among(pool, &places, Some(filter), after, rows).await?;
        let next = if count(&found) >= rows { found.last().map(DeliveryRow::key) } else { None };
        return Ok((found, next));
    }
    let mut scans = if matches!(filter.state, Some(2 | 8)) { SCANS } else { 1 };
    let (mut found, mut size, mut looked) = (Vec::new(), 1, 0);
    loop {
        let part = days::last(pool, after.accept_time, size).await?;
        let room = rows - count(&found);
        // Nothing but a template, or a state that has no index of its own, has some of them left out.
        let is_each_shown = filter.template.is_none() && matches!(filter.state, None | Some(4..=7));
        let most = if is_each_shown { room.min(SCAN - looked) } else { SCAN - looked };
        let keys = keys(pool, filter, after, part, most).await?;
        let places: Vec<_> =
            keys.iter().map(|key| Place { lane: key.lane, sequence: key.sequence }).collect();
        // Their states are looked at again: they may have changed since.
        found.extend(among(pool, &places, Some(filter), after, room).await?);
        if count(&found) >= rows {
            let next = found.last().map(DeliveryRow::key);
            return Ok((found, next));
        }
        after = match keys.last() {
            Some(last) if count(&keys) >= most => *last,
            _ if part.start == Time::MIN => return Ok((found, None)),
            _ => Key::at(part.start),
        };
        looked += count(&keys);
        if looked >= SCAN {
            scans -= 1;
            if scans == 0 || !found.is_empty() {
                return Ok((found, Some(after)));
            }
            looked = 0;
        }
        size = days::MOST.min(size * 4);
    }
}

/// What of an account is parked in this way; `None` if that is more than one page may look at: then it is looked for among
/// the account's events, as PENDING ones are: `parked` does not know the order of the list.
async fn parked(
    pool: &PgPool,
    account: &AccountId,
    kind: ParkKind,
) -> Result<Option<Vec<Place>>, sqlx::Error> {
    let places = sqlx::query_as!(
        Place,
        "SELECT lane, sequence FROM ingest.parked WHERE account = $1 AND kind = $2 LIMIT $3",
        account.as_str(),
        kind as i16,
        SCAN + 1,
    )
    .fetch_all(pool)
    .await?;
    Ok((count(&places) <= SCAN).then_some(places))
}

/// The first `most` after `after` in this part of a list of all of them: of the events, or of those that came to the filter's
/// state, if there is an index of these.
async fn keys(
    pool: &PgPool,
    filter: &Filter,
    after: Key,
    part: Part,
    most: i64,
) -> Result<Vec<Key>, sqlx::Error> {
    if let Some(state @ 4..=7) = filter.state {
        return sqlx::query_as!(
            Key,
            r#"
            SELECT accept_time AS "accept_time: Time", lane, sequence FROM ingest.outcomes
            WHERE account = $1 AND state = $2 AND state <> 3 AND (accept_time, lane, sequence) < ($3, $4, $5)
              AND accept_time >= $6 AND sequence >= $7 AND sequence < $8
            ORDER BY accept_time DESC, lane DESC, sequence DESC LIMIT $9
            "#,
            filter.account.as_str(),
            state,
            after.accept_time as _,
            after.lane,
            after.sequence,
            part.start as _,
            part.first,
            part.past,
            most,
        )
        .fetch_all(pool)
        .await;
    }
    sqlx::query_as!(
        Key,
        r#"
        SELECT accept_time AS "accept_time: Time", lane, sequence FROM ingest.events
        WHERE account = $1 AND (accept_time, lane, sequence) < ($2, $3, $4)
          AND accept_time >= $5 AND sequence >= $6 AND sequence < $7
        ORDER BY accept_time DESC, lane DESC, sequence DESC LIMIT $8
        "#,
        filter.account.as_str(),
        after.accept_time as _,
        after.lane,
        after.sequence,
        part.start as _,
        part.first,
        part.past,
        most,
    )
    .fetch_all(pool)
    .await
}
