//! What replays of an account have taken up, and whether they may take up more.

use std::time::Duration;

use sqlx::PgConnection;

/// Events of one account that were taken up again, or are about to be, and that run or will: beyond, its replays wait.
const MOST_IN_PROGRESS: i64 = 500;
/// Those that are halted again: beyond, its replays pause. Whatever so many of them fail of, the next ones would fail of, too;
/// and each takes a place of its lane, which accounts share, until somebody has looked at it.
const MOST_HALTED: i64 = 500;
/// Those that wait behind a halted event of their conversation: beyond, its replays pause. They take no places and are in
/// nobody's way, but every step counts them.
const MOST_BEHIND: i64 = 1_000;
/// Interventions that are not done yet, over all accounts: the lanes come first. An account may have as many as are still
/// free, so that those in lanes that are slow to do them leave room to other accounts.
const MOST_PENDING: i64 = 2_000;
/// Pause of a replay that waits for what goes on by itself.
const SHORT_PAUSE: Duration = Duration::from_millis(500);
/// Pause of a replay that waits for somebody.
const LONG_PAUSE: Duration = Duration::from_secs(2);

/// Counts of events of one account; none goes much beyond what matters.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TakenUp {
    /// Taken up, and runs or will.
    running: i64,
    /// Halted again.
    halted: i64,
    /// Behind a halted event of their conversation.
    behind: i64,
    /// Asked for and not taken up yet.
    asked: i64,
    /// Interventions of all accounts.
    pending: i64,
}

/// What a replay waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// That halted events are resumed or skipped.
    Halted,
    /// The same, for what is behind them.
    Behind,
    /// That events end.
    InProgress,
    /// That lanes take up what they were asked for.
    Lanes,
}

impl TakenUp {
    /// Counts them.
    pub(super) async fn count(connection: &mut PgConnection, account: &str) -> Result<Self, sqlx::Error> {
        // An event that was resumed counts like a replayed one. What is looked up beside a row is a scalar subquery on purpose: one
        // probe of an index, whatever the planner believes of what is parked.
        sqlx::query_as!(
            Self,
            r#"
            WITH reopened AS (
                SELECT few.events,
                       coalesce((SELECT true FROM ingest.parked h
                           WHERE h.account = $1 AND h.conversation_id = few.conversation_id AND h.kind = 1 LIMIT 1), false)
                           AS is_behind
                FROM (SELECT conversation_id, count(*) AS events
                      FROM (SELECT conversation_id FROM ingest.parked
                            WHERE account = $1 AND attempts_before IS NOT NULL AND kind <> 1 LIMIT $2) p
                      GROUP BY conversation_id) few
            ), asked AS (
                SELECT few.events, (SELECT r.account FROM ingest.replays r WHERE r.replay = few.replay) = $1 AS is_own
                FROM (SELECT replay, count(*) AS events
                      FROM (SELECT replay FROM ingest.interventions LIMIT $4) i
                      GROUP BY replay) few
            )
            SELECT coalesce((SELECT sum(events) FROM reopened WHERE NOT is_behind), 0)::bigint AS "running!",
                   (SELECT count(*) FROM (SELECT FROM ingest.parked
                       WHERE account = $1 AND attempts_before IS NOT NULL AND kind = 1 LIMIT $3) p) AS "halted!",
                   coalesce((SELECT sum(events) FROM reopened WHERE is_behind), 0)::bigint AS "behind!",
                   coalesce((SELECT sum(events) FROM asked WHERE is_own), 0)::bigint AS "asked!",
                   coalesce((SELECT sum(events) FROM asked), 0)::bigint AS "pending!"
            "#,
            account,
            MOST_IN_PROGRESS + MOST_BEHIND,
            MOST_HALTED,
            MOST_PENDING,
        )
        .fetch_one(connection)
        .await
    }

    /// How many more events may be taken up, at least one; or what there is to wait for.
    pub(super) fn room(self) -> Result<i64, Wait> {
        let Self { running, halted, behind, asked, pending } = self;
        let (in_progress, in_lanes) = (MOST_IN_PROGRESS - running - asked, MOST_PENDING - pending - asked);
        if halted >= MOST_HALTED {
            Err(Wait::Halted)
        } else if behind >= MOST_BEHIND {
            Err(Wait::Behind)
        } else if in_progress <= 0 {
            Err(Wait::InProgress)
        } else if in_lanes <= 0 {
            Err(Wait::Lanes)
        } else {
            Ok(in_progress.min(in_lanes))
        }
    }
}

impl Wait {
    /// Until it is looked for again.
    pub(super) fn pause(self) -> Duration {
        match self {
            Self::Halted | Self::Behind => LONG_PAUSE,
            Self::InProgress | Self::Lanes => SHORT_PAUSE,
        }
    }

    /// What callers are told of it.
    pub(super) fn told(self) -> String {
        let to_do = "mend what those fail of, then resume or skip them (ListDeliveries with the state HALTED has them), or cancel \
                     the replay; it goes on by itself when there are fewer";
        match self {
            Self::Halted => {
                format!(
                    "of the account's events that were taken up again, {MOST_HALTED} or more are halted again; {to_do}"
                )
            }
            Self::Behind => format!(
                "of the account's events that were taken up again, {MOST_BEHIND} or more wait behind halted events of their \
                 conversations; {to_do}"
            ),
            Self::InProgress => format!(
                "of the account's events that were taken up again, {MOST_IN_PROGRESS} or more have not had their outcome yet; \
                 it goes on as they end"
            ),
            Self::Lanes => {
                "the lanes have not taken up yet what replays have asked for; it goes on as they do"
                    .to_owned()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_may_ask_for_what_is_still_free() {
        let asked = |asked, pending| TakenUp { asked, pending, ..TakenUp::default() }.room();
        assert_eq!(asked(0, 0), Ok(500));
        assert_eq!(asked(100, 1_600), Ok(300));
        assert_eq!(asked(250, 1_750), Err(Wait::Lanes));
        // Whoever comes has room, as long as those that are there keep to it.
        assert_eq!(asked(0, 1_750), Ok(250));
        assert_eq!(asked(500, 500), Err(Wait::InProgress));
    }

    #[test]
    fn what_somebody_has_to_do_is_told_first() {
        let full = TakenUp { running: 500, halted: 500, behind: 1_000, asked: 500, pending: 2_000 };
        for (taken_up, wait) in [
            (full, Wait::Halted),
            (TakenUp { halted: 499, ..full }, Wait::Behind),
            (TakenUp { halted: 499, behind: 999, ..full }, Wait::InProgress),
        ] {
            assert_eq!(taken_up.room(), Err(wait));
        }
        let told = Wait::Behind.told();
        assert!(told.contains("1000 or more wait behind") && told.contains("resume or skip"), "{told}");
    }
}
