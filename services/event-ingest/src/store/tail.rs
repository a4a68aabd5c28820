//! Deliveries as they change. Lanes are read in their order, in which events become visible: so a reader that goes by the
//! sequence number misses none.

use chatfn_domain::name::{AccountId, ConversationId, TemplateName};
use sqlx::PgPool;

use super::{days, interventions::Place, span};

/// Which deliveries are followed.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    pub(crate) account: AccountId,
    pub(crate) template: Option<TemplateName>,
    pub(crate) conversation_id: Option<ConversationId>,
}

/// A part of a lane: after `after`, up to `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) lane: i16,
    pub(crate) after: i64,
    pub(crate) to: i64,
}

/// The first and the last sequence number that may be in these parts.
fn span_of(parts: &[Part]) -> (i64, i64) {
    span(parts.iter().flat_map(|part| [part.after, part.to]))
}

/// The beginnings of these parts, each with at most `most` events. (Not that many numbers: those jump from day to day.)
pub(crate) async fn shortened(pool: &PgPool, parts: &[Part], most: i64) -> Result<Vec<Part>, sqlx::Error> {
    let (first, last) = span_of(parts);
    sqlx::query_as!(
        Part,
        r#"
        SELECT part.lane AS "lane!", part.after AS "after!",
               coalesce((SELECT sequence FROM ingest.events
                   WHERE lane = part.lane AND sequence > part.after AND sequence <= part.last
                     AND sequence BETWEEN $5 AND $6
                   ORDER BY sequence OFFSET $4::bigint - 1 LIMIT 1), part.last) AS "to!"
        FROM unnest($1::smallint[], $2::bigint[], $3::bigint[]) AS part(lane, after, last)
        "#,
        &parts.iter().map(|part| part.lane).collect::<Vec<_>>(),
        &parts.iter().map(|part| part.after).collect::<Vec<_>>(),
        &parts.iter().map(|part| part.to).collect::<Vec<_>>(),
        most,
        first,
        last,
    )
    .fetch_all(pool)
    .await
}

/// The events of these parts that the filter wants, each lane's in its order.
pub(crate) async fn accepted(
    pool: &PgPool,
    filter: &Filter,
    parts: &[Part],
) -> Result<Vec<Place>, sqlx::Error> {
    let (first, last) = span_of(parts);
    sqlx::query_as!(
        Place,
        r#"
        SELECT e.lane AS "lane!", e.sequence AS "sequence!"
        FROM unnest($1::smallint[], $2::bigint[], $3::bigint[]) AS part(lane, after, last)
        CROSS JOIN LATERAL (
            SELECT lane, sequence FROM ingest.events
            WHERE lane = part.lane AND sequence > part.after AND sequence <= part.last
              AND sequence BETWEEN $7 AND $8
              AND account = $4 AND ($5::text IS NULL OR template = $5)
              AND ($6::text IS NULL OR conversation_id = $6)
        ) e
        ORDER BY e.lane, e.sequence
        "#,
        &parts.iter().map(|part| part.lane).collect::<Vec<_>>(),
        &parts.iter().map(|part| part.after).collect::<Vec<_>>(),
        &parts.iter().map(|part| part.to).collect::<Vec<_>>(),
        filter.account.as_str(),
        filter.template.as_ref().map(TemplateName::as_str),
        filter.conversation_id.as_ref().map(ConversationId::as_str),
        first,
        last,
    )
    .fetch_all(pool)
    .await
}

/// Deliveries that the filter wants and that are RETRYING or HALTED, with whether they are HALTED: of the newest `most` of the
/// account that are so.
pub(crate) async fn waiting(
    pool: &PgPool,
    filter: &Filter,
    most: i64,
) -> Result<Vec<(Place, bool)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"
        SELECT lane, sequence, kind = 1 AS "is_halted!" FROM ingest.parked
        WHERE account = $1 AND kind IN (0, 1) AND ($2::text IS NULL OR conversation_id = $2)
        ORDER BY sequence DESC LIMIT $3
        "#,
        filter.account.as_str(),
        filter.conversation_id.as_ref().map(ConversationId::as_str),
        most,
    )
    .fetch_all(pool)
    .await?;
    let place = |lane, sequence| Place { lane, sequence };
    let waiting: Vec<_> =
        rows.into_iter().map(|row| (place(row.lane, row.sequence), row.is_halted)).collect();
    let Some(template) = &filter.template else { return Ok(waiting) };
    let mut wanted = Vec::with_capacity(waiting.len());
    // Afterwards, when it is known in which days these are.
    for part in days::parts(&waiting, |(place, _)| place.sequence) {
        let places: Vec<Place> = part.iter().map(|(place, _)| *place).collect();
        let is_wanted = are_of(pool, &places, template).await?;
        wanted
            .extend(part.into_iter().zip(is_wanted).filter(|(_, is_wanted)| *is_wanted).map(|(row, _)| *row));
    }
    // As asked for: the newest first.
    wanted.reverse();
    Ok(wanted)
}

/// Whether events in days near each other are of a template.
async fn are_of(pool: &PgPool, places: &[Place], template: &TemplateName) -> Result<Vec<bool>, sqlx::Error> {
    let (first, last) = span(places.iter().map(|place| place.sequence));
    sqlx::query_scalar!(
        r#"
        SELECT coalesce((SELECT e.template = $3 FROM ingest.events e
            WHERE e.lane = w.lane AND e.sequence = w.sequence AND e.sequence BETWEEN $4 AND $5), false) AS "is_wanted!"
        FROM unnest($1::smallint[], $2::bigint[]) WITH ORDINALITY AS w(lane, sequence, position)
        ORDER BY w.position
        "#,
        &places.iter().map(|place| place.lane).collect::<Vec<_>>(),
        &places.iter().map(|place| place.sequence).collect::<Vec<_>>(),
        template.as_str(),
        first,
        last,
    )
    .fetch_all(pool)
    .await
}

/// Up to `most` of the deliveries that the filter wants and that come after one of these places in its conversation, the oldest
/// first.
pub(crate) async fn behind(
    pool: &PgPool,
    filter: &Filter,
    places: &[Place],
    most: i64,
) -> Result<Vec<Place>, sqlx::Error> {
    let (first, last) = span(places.iter().map(|place| place.sequence));
    sqlx::query_as!(
        Place,
        r#"
        SELECT e.lane AS "lane!", e.sequence AS "sequence!"
        FROM unnest($1::smallint[], $2::bigint[]) AS head(lane, sequence)
        CROSS JOIN LATERAL (
            SELECT v.conversation_id FROM ingest.events v
            WHERE v.lane = head.lane AND v.sequence = head.sequence AND v.sequence BETWEEN $6 AND $7 LIMIT 1
        ) h
        CROSS JOIN LATERAL (
            SELECT v.lane, v.sequence FROM ingest.events v
            WHERE v.account = $3 AND v.conversation_id = h.conversation_id AND v.sequence > head.sequence
              AND v.sequence > $6 AND ($4::text IS NULL OR v.template = $4)
            ORDER BY v.sequence LIMIT $5
        ) e
        ORDER BY e.sequence LIMIT $5
        "#,
        &places.iter().map(|place| place.lane).collect::<Vec<_>>(),
        &places.iter().map(|place| place.sequence).collect::<Vec<_>>(),
        filter.account.as_str(),
        filter.template.as_ref().map(TemplateName::as_str),
        most,
        first,
        last,
    )
    .fetch_all(pool)
    .await
}

/// What state a delivery is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) place: Place,
    /// A `DeliveryState`.
    pub(crate) state: i16,
    /// Whether it is PENDING, and an earlier one of its conversation HALTED.
    pub(crate) is_behind_halted: bool,
}

/// The states of the deliveries in these places; what retention has dropped is left out.
pub(crate) async fn states(pool: &PgPool, places: &[Place]) -> Result<Vec<State>, sqlx::Error> {
    let mut states = Vec::with_capacity(places.len());
    for part in days::parts(places, |place| place.sequence) {
        states.extend(states_of(pool, &part).await?);
    }
    Ok(states)
}

/// The same of places in days near each other.
async fn states_of(pool: &PgPool, places: &[&Place]) -> Result<Vec<State>, sqlx::Error> {
    let (first, last) = span(places.iter().map(|place| place.sequence));
    // States as the view `deliveries` has them, which would look for outcomes in the partitions of all days.
    let rows = sqlx::query!(
        r#"
        SELECT d.lane AS "lane!", d.sequence AS "sequence!", d.state AS "state!",
               d.state = 1 AND EXISTS (SELECT FROM ingest.parked p
                   WHERE p.account = d.account AND p.conversation_id = d.conversation_id AND p.kind = 1
                     AND p.lane = d.lane AND p.sequence < d.sequence) AS "is_behind_halted!"
        FROM unnest($1::smallint[], $2::bigint[]) AS wanted(lane, sequence)
        CROSS JOIN LATERAL (
            SELECT e.lane, e.sequence, e.account, e.conversation_id,
                   coalesce((SELECT o.state FROM ingest.outcomes o
                           WHERE o.lane = e.lane AND o.sequence = e.sequence AND o.sequence BETWEEN $3 AND $4),
                       (SELECT CASE p.kind WHEN 2 THEN 1 WHEN 1 THEN 8 ELSE 2 END::smallint FROM ingest.parked p
                           WHERE p.lane = e.lane AND p.sequence = e.sequence),
                       1::smallint) AS state
            FROM ingest.events e
            WHERE e.lane = wanted.lane AND e.sequence = wanted.sequence AND e.sequence BETWEEN $3 AND $4 LIMIT 1
        ) d
        "#,
        &places.iter().map(|place| place.lane).collect::<Vec<_>>(),
        &places.iter().map(|place| place.sequence).collect::<Vec<_>>(),
        first,
        last,
    )
    .fetch_all(pool)
    .await?;
    let place = |lane, sequence| Place { lane, sequence };
    Ok(rows
        .into_iter()
        .map(|row| State {
            place: place(row.lane, row.sequence),
            state: row.state,
            is_behind_halted: row.is_behind_halted,
        })
        .collect())
}
