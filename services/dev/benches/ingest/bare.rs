//! What Postgres does without a service: the limits.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use chatfn_pg::{DatabaseUrl, PoolConfig};
use sqlx::{AssertSqlSafe, PgPool, raw_sql};

use crate::measure::{PAYLOAD, steadily, throughput};

/// Connections of a coalescing committer's kind.
const COMMITTERS: usize = 4;
/// Publishers that insert for themselves.
const CLIENTS: usize = 64;

/// A table of events with one unique key.
pub(crate) const KEYED: &str = "events";
/// One that has all the indexes that event-ingest's has.
pub(crate) const INDEXED: &str = "indexed_events";

pub(crate) struct Bare {
    pool: PgPool,
    next: AtomicU64,
}

const TABLES: &str = "
    CREATE SCHEMA bare;
    CREATE TABLE bare.events (lane smallint, sequence bigint, account text, event_id text, template text,
        conversation_id text, payload bytea, content_hash bytea, accept_time timestamptz DEFAULT now(),
        UNIQUE (account, event_id));
    CREATE TABLE bare.indexed_events (LIKE bare.events INCLUDING DEFAULTS, UNIQUE (account, event_id),
        PRIMARY KEY (lane, sequence));
    CREATE INDEX ON bare.indexed_events (account, accept_time, lane, sequence);
    CREATE INDEX ON bare.indexed_events (account, conversation_id, sequence);
    CREATE TABLE bare.log (lane smallint, sequence bigint, event_id text UNIQUE, payload bytea, PRIMARY KEY (lane, sequence));
    CREATE TABLE bare.outcomes (lane smallint, sequence bigint, state smallint, PRIMARY KEY (lane, sequence));
    CREATE TABLE bare.lanes (lane smallint PRIMARY KEY, cursor bigint NOT NULL) WITH (fillfactor = 10);
    INSERT INTO bare.lanes SELECT n, 0 FROM generate_series(0, 63) n;
    CREATE TABLE bare.queue (id bigserial PRIMARY KEY, payload bytea);";

impl Bare {
    pub(crate) async fn new(url: &DatabaseUrl) -> Self {
        let config = PoolConfig { max_connections: CLIENTS as u32, ..PoolConfig::new(url.clone()) };
        let pool = chatfn_pg::connect(&config).await.expect("Postgres runs");
        raw_sql(TABLES).execute(&pool).await.expect("tables");
        Self { pool, next: AtomicU64::new(0) }
    }

    fn ids(&self, count: usize) -> u64 {
        self.next.fetch_add(count as u64, Ordering::Relaxed)
    }

    /// Rows per second, 512 in a statement: what event-ingest has for an event, in columns as it sends them, without any question.
    pub(crate) async fn coalesced(&self, table: &str, rows: usize) -> f64 {
        const BATCH: usize = 512;
        let insert = format!(
            "INSERT INTO bare.{table} (lane, sequence, account, event_id, template, conversation_id, payload, content_hash)
             SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::bytea[])
             ON CONFLICT DO NOTHING RETURNING sequence"
        );
        let statements = rows / COMMITTERS / BATCH;
        throughput(COMMITTERS, statements * BATCH, |lane| {
            let (pool, insert, first) = (self.pool.clone(), insert.clone(), self.ids(statements * BATCH));
            async move {
                for statement in 0..statements {
                    let sequences: Vec<i64> =
                        (0..BATCH).map(|n| (first as usize + statement * BATCH + n) as i64).collect();
                    let ids: Vec<String> = sequences.iter().map(|sequence| format!("e{sequence}")).collect();
                    // Of the tables above.
                    sqlx::query(AssertSqlSafe(insert.clone()))
                        .bind(vec![lane as i16; BATCH])
                        .bind(&sequences)
                        .bind(vec!["acme"; BATCH])
                        .bind(&ids)
                        .bind(vec!["chat.message"; BATCH])
                        .bind(&ids)
                        .bind(vec![PAYLOAD.as_bytes(); BATCH])
                        .bind(vec![[0u8; 32].as_slice(); BATCH])
                        .fetch_all(&pool)
                        .await
                        .expect("an insert");
                }
            }
        })
        .await
    }

    /// Rows per second, each in a transaction of its own.
    pub(crate) async fn singles(&self, rows: usize) -> f64 {
        let each = rows / CLIENTS;
        throughput(CLIENTS, each, |_| {
            let (pool, first) = (self.pool.clone(), self.ids(each));
            async move {
                for n in 0..each as u64 {
                    single(&pool, first + n).await;
                }
            }
        })
        .await
    }

    /// The same at a steady rate: milliseconds that each took.
    pub(crate) async fn steady_singles(&self, per_second: f64, time: Duration) -> Vec<f64> {
        steadily(per_second, time, || {
            let (pool, n) = (self.pool.clone(), self.ids(1));
            async move {
                let begun = Instant::now();
                single(&pool, n).await;
                begun.elapsed().as_secs_f64() * 1e3
            }
        })
        .await
    }

    /// Events per second through insert, reading on, and outcome with cursor.
    pub(crate) async fn pipeline(&self, rows: usize) -> f64 {
        const BATCH: usize = 200;
        let rounds = rows / COMMITTERS / BATCH;
        throughput(COMMITTERS, rounds * BATCH, |lane| {
            let (pool, lane, first) = (self.pool.clone(), lane as i16, self.ids(rounds * BATCH) as i64);
            async move {
                for round in 0..rounds as i64 {
                    let sequences: Vec<i64> = (0..BATCH as i64).map(|n| first + round * BATCH as i64 + n).collect();
                    let (from, to) = (sequences[0], sequences[BATCH - 1]);
                    sqlx::query(
                        "INSERT INTO bare.log SELECT $1, s, 'e' || s, $3 FROM unnest($2::bigint[]) s ON CONFLICT DO NOTHING",
                    )
                    .bind(lane)
                    .bind(&sequences)
                    .bind(PAYLOAD.as_bytes())
                    .execute(&pool)
                    .await
                    .expect("an insert");
                    let read: Vec<(i64, Vec<u8>)> = sqlx::query_as(
                        "SELECT sequence, payload FROM bare.log WHERE lane = $1 AND sequence BETWEEN $2 AND $3 ORDER BY sequence",
                    )
                    .bind(lane)
                    .bind(from)
                    .bind(to)
                    .fetch_all(&pool)
                    .await
                    .expect("rows");
                    assert_eq!(read.len(), BATCH);
                    sqlx::query(
                        "WITH done AS (INSERT INTO bare.outcomes SELECT $1, s, 3 FROM unnest($2::bigint[]) s)
                         UPDATE bare.lanes SET cursor = $3 WHERE lane = $1",
                    )
                    .bind(lane)
                    .bind(&sequences)
                    .bind(to)
                    .execute(&pool)
                    .await
                    .expect("outcomes");
                }
            }
        })
        .await
    }

    /// Jobs per second through the usual queue table.
    pub(crate) async fn skip_locked(&self, jobs: usize) -> f64 {
        let begun = std::time::Instant::now();
        let each = jobs / CLIENTS;
        let pool = self.pool.clone();
        let worker = tokio::spawn(async move {
            let mut left = (each * CLIENTS) as u64;
            while left > 0 {
                let claimed = sqlx::query(
                    "DELETE FROM bare.queue WHERE id IN
                         (SELECT id FROM bare.queue ORDER BY id LIMIT 100 FOR UPDATE SKIP LOCKED) RETURNING payload",
                )
                .fetch_all(&pool)
                .await
                .expect("claims");
                left -= claimed.len() as u64;
            }
        });
        throughput(CLIENTS, each, |_| {
            let pool = self.pool.clone();
            async move {
                for _ in 0..each {
                    sqlx::query("INSERT INTO bare.queue (payload) VALUES ($1)")
                        .bind(PAYLOAD.as_bytes())
                        .execute(&pool)
                        .await
                        .expect("an insert");
                }
            }
        })
        .await;
        worker.await.expect("all are claimed");
        (each * CLIENTS) as f64 / begun.elapsed().as_secs_f64()
    }
}

async fn single(pool: &PgPool, n: u64) {
    sqlx::query(
        "INSERT INTO bare.events (lane, sequence, account, event_id, template, conversation_id, payload, content_hash)
         VALUES (1, 1, 'acme', $1, 'chat.message', $1, $2, $3) ON CONFLICT DO NOTHING",
    )
    .bind(format!("e{n}"))
    .bind(PAYLOAD.as_bytes())
    .bind([0u8; 32].as_slice())
    .execute(pool)
    .await
    .expect("an insert");
}
