//! Tables that grow.

use chatfn_proto::ingest::v1::{DeliveryState, GetConversationRequest, ListDeliveriesRequest};

use crate::{
    harness::{ACME, World, event, eventually},
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
    let mut world = World::start().await;
    work(&world, "small").await;
    let pool = world.database.pool().clone();
    // From now on the planner knows how small they are, as it would after some time.
    sqlx::query("ANALYZE").execute(&pool).await.unwrap();
    work(&world, "known").await;
    for statement in [
        "INSERT INTO ingest.events (lane, sequence, account, event_id, template, conversation_id, payload, content_hash)
         SELECT n % 64, -n, 'acme', 'old' || n, 'chat.message', 'old' || n % 1000, '{}', ''
         FROM generate_series(1, $1) n",
        "INSERT INTO ingest.outcomes (lane, sequence, state, epoch, account, accept_time)
         SELECT n % 64, -n, 3, 1, 'acme', now() FROM generate_series(1, $1) n",
        "INSERT INTO ingest.attempts (lane, sequence, number, epoch, finish_time)
         SELECT n % 64, -n, 1, 1, now() FROM generate_series(1, $1) n",
    ] {
        sqlx::query(statement).bind(ROWS).execute(&pool).await.unwrap();
    }
    let read = async || -> Vec<(String, i64)> {
        sqlx::query_as(
            "SELECT relname::text, seq_tup_read FROM pg_stat_user_tables
             WHERE relname IN ('events', 'outcomes', 'attempts') ORDER BY relname",
        )
        .fetch_all(&pool)
        .await
        .unwrap()
    };
    let before = read().await;
    work(&world, "large").await;
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
    for ((table, before), (_, after)) in before.into_iter().zip(read().await) {
        assert!(after - before < ROWS, "{table} was read from end to end: {} rows", after - before);
    }
}
