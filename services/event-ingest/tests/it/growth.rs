//! Tables that grow.

use std::collections::BTreeMap;

use chatfn_proto::ingest::v1::{DeliveryState, Event, GetConversationRequest, ListDeliveriesRequest};

use sqlx::AssertSqlSafe;

use crate::{
    harness::{ACME, START, World, event, eventually},
    invoker::Answer,
};

/// Rows that other events left behind.
const ROWS: i64 = 50_000;

/// Work that touches every statement, on conversations of its own.
async fn work(world: &World, part: &str) {
    for n in 0..12 {
        let id = format!("{part}{n}");
        world.invoker.script(&id, [Answer::Throws]);
        let batch =
            (0..3).map(|k| event(&id, &if k == 0 { id.clone() } else { format!("{id}-{k}") })).collect();
        assert!(world.replica.publish_all(batch).await.iter().all(Result::is_ok));
        world.replica.publish(event(&id, &id)).await.unwrap();
        let start = Event { template: START.to_owned(), ..event(&id, &format!("{id}-start")) };
        world.replica.publish(start).await.unwrap();
        world.replica.reaches(&format!("{id}-2"), DeliveryState::Succeeded).await;
        let mut deliveries = world.replica.deliveries();
        let name = format!("accounts/{ACME}/conversations/{id}");
        deliveries.get_conversation(GetConversationRequest { name, ..Default::default() }).await.unwrap();
        for state in 0..8 {
            let parent = format!("accounts/{ACME}");
            deliveries
                .list_deliveries(ListDeliveriesRequest { parent, state, page_size: 5, ..Default::default() })
                .await
                .unwrap();
        }
    }
}

/// Plans that were made when the tables were empty are kept by the server; they must be good ones.
#[tokio::test(flavor = "multi_thread")]
async fn no_statement_reads_a_table_from_end_to_end() {
    grow(false).await;
}

/// Nor must plans be bad that were made when the planner knew how small they were.
#[tokio::test(flavor = "multi_thread")]
async fn no_statement_reads_a_table_that_was_known_to_be_small() {
    grow(true).await;
}

async fn grow(is_known: bool) {
    let mut world = World::start().await;
    let pool = world.database.pool().clone();
    eventually(async || {
        let days = "SELECT count(*) FROM ingest.days WHERE open_time IS NOT NULL";
        sqlx::query_scalar::<_, i64>(days).fetch_one(&pool).await.unwrap() > 1
    })
    .await;
    work(&world, "small").await;
    if is_known {
        // As would be done after some time.
        sqlx::query("ANALYZE").execute(&pool).await.unwrap();
        work(&world, "known").await;
    }
    // Into the partitions of today, with numbers that no lane gives.
    let number =
        "(SELECT max(first_sequence) FROM ingest.days WHERE open_time IS NOT NULL) + (1::bigint << 31) + n";
    for (table, columns, values) in [
        (
            "events",
            "account, event_id, template, conversation_id, payload, content_hash",
            "'acme', 'old' || n, 'chat.message', 'old' || n % 1000, '{}', ''",
        ),
        ("outcomes", "state, epoch, account, accept_time", "3, 1, 'acme', now()"),
        ("attempts", "number, epoch, finish_time", "1, 1, now()"),
    ] {
        let statement = format!(
            "INSERT INTO ingest.{table} (lane, sequence, {columns})
             SELECT n % 64, {number}, {values} FROM generate_series(1, {ROWS}) n"
        );
        sqlx::query(AssertSqlSafe(statement)).execute(&pool).await.unwrap();
    }
    // Entries of an index count from the second one on that a scan of it reads. Lists look at so many events for a page and no more, which
    // here are not much fewer: their index is left out.
    let read = async || -> BTreeMap<String, i64> {
        let rows: Vec<(String, i64)> = sqlx::query_as(
            "SELECT t.relname::text, (t.seq_tup_read + sum(i.idx_tup_read - i.idx_scan))::bigint
             FROM pg_stat_user_tables t JOIN pg_stat_user_indexes i USING (relid)
             WHERE t.schemaname = 'ingest' AND t.relname ~ '^(events|outcomes|attempts)_'
                 AND i.indexrelname !~ 'accept_time'
             GROUP BY t.relname, t.seq_tup_read ORDER BY t.relname",
        )
        .fetch_all(&pool)
        .await
        .unwrap();
        rows.into_iter().collect()
    };
    let before = read().await;
    work(&world, "large").await;
    // As at midnight: from here on, ids are looked for in the partition that was large.
    for call in ["ingest.prepare_day({today} + 4)", "ingest.open_day({today} + 1)"] {
        let call = call.replace("{today}", "(now() AT TIME ZONE 'UTC')::date");
        sqlx::query(AssertSqlSafe(format!("SELECT {call}"))).execute(&pool).await.unwrap();
    }
    work(&world, "next").await;
    // Sessions report what they have done when they end, at the latest.
    world.replica.stop().await;
    eventually(async || {
        let sessions: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name <> 'chatfn-test'",
        )
        .fetch_one(&pool)
        .await
        .unwrap();
        sessions == 0
    })
    .await;
    for (table, after) in read().await {
        let read = after - before.get(&table).copied().unwrap_or(0);
        assert!(read < ROWS, "{table} was read from end to end: {read} rows");
    }
}
