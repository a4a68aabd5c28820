//! What a look-up costs, and that it costs the same among many functions.

use std::cell::RefCell;

use chatfn_proto::registry::v1::GetFunctionRequest;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::{
    measure::{median, microseconds, quantile, rounded},
    world::World,
};

const CALLS: usize = 1_000;
const FEW: i32 = 1_000;
const MANY: i32 = 1_000_000;
/// Functions of one account.
const PER_ACCOUNT: i32 = 10;

/// See the table on the front page.
pub(crate) async fn measure(rounds: usize) -> Value {
    let (few, many) = (filled(FEW).await, filled(MANY).await);
    let random = RefCell::new(SmallRng::seed_from_u64(7));
    let get = async |world: &World, rows: i32| {
        let account = random.borrow_mut().random_range(0..rows) / PER_ACCOUNT;
        let name = format!("accounts/a{account}/functions/chat.start");
        let request = GetFunctionRequest { name };
        let function =
            world.functions().get_function(request).await.expect("it exists").into_inner().function;
        assert_eq!(function.expect("a function").live_version, 1);
    };
    let health = HealthClient::new(few.registry.clone());
    let noop = async || {
        health.clone().check(HealthCheckRequest::default()).await.expect("an answer");
    };
    let sql = async || {
        let account = format!("a{}", random.borrow_mut().random_range(0..FEW) / PER_ACCOUNT);
        let row: (String,) = sqlx::query_as(
            "SELECT source FROM registry.functions WHERE account = $1 AND template = 'chat.start'",
        )
        .bind(account)
        .fetch_one(few.database.pool())
        .await
        .expect("a row");
        assert!(!row.0.is_empty());
    };

    let mut medians = [const { vec![] }; 4];
    let mut ratios = vec![];
    for round in 0..=rounds {
        let mut latencies = [const { vec![] }; 4];
        // They take turns call by call: what slows one down slows all of them down.
        for _ in 0..CALLS {
            latencies[0].push(microseconds(get(&few, FEW)).await);
            latencies[1].push(microseconds(get(&many, MANY)).await);
            latencies[2].push(microseconds(noop()).await);
            latencies[3].push(microseconds(sql()).await);
        }
        let p50s = latencies.map(|latencies| quantile(&latencies, 0.5));
        // The first round warms the caches.
        if round > 0 {
            eprintln!("look-ups, round {round}: {:.0} us, {:.0} us among a million", p50s[0], p50s[1]);
            ratios.push(p50s[1] / p50s[0]);
            for (medians, p50) in medians.iter_mut().zip(p50s) {
                medians.push(p50);
            }
        }
    }
    let [gets, gets_of_many, noops, sqls] = medians;
    json!({
        "functions": [FEW, MANY],
        "get_p50_us": median(&gets),
        "get_1m_p50_us": median(&gets_of_many),
        "lookup_ratio_1m_to_1k": median(&ratios),
        "noop_p50_us": median(&noops),
        "sql_p50_us": median(&sqls),
        "get_ratio_to_noop": rounded(median(&gets) / median(&noops)),
        "get_ratio_to_sql": rounded(median(&gets) / median(&sqls)),
    })
}

/// A registry of `rows` functions, ten an account, all of them live. No service watches it.
async fn filled(rows: i32) -> World {
    let world = World::start().await;
    let fill = format!(
        "CREATE TEMPORARY TABLE names AS
         SELECT 'a' || n / {PER_ACCOUNT} AS account, n,
                (ARRAY['chat.start', 'chat.end', 'chat.in_queue', 'chat.participants_change', 'messaging.ttr',
                       'messaging.new_conversation', 'messaging.conversation_end', 'messaging.conversation_idle',
                       'messaging.survey_started', 'messaging.survey_ended'])[n % {PER_ACCOUNT} + 1] AS template
         FROM generate_series(0, {rows} - 1) AS n;
         INSERT INTO registry.functions (account, template, display_name, description, source, settings, draft_digest)
         SELECT account, template, 'x', '', 'async function lambda() {{ return ' || n || '; }}', '{{}}', md5(n::text)
         FROM names;
         INSERT INTO registry.versions (account, template, number, source, settings, digest, message)
         SELECT account, template, 1, 'async function lambda() {{ return ' || n || '; }}', '{{}}', md5(n::text), ''
         FROM names;
         INSERT INTO registry.deployments (account, template, live_version, last_version, revision)
         SELECT account, template, 1, 1, n + 1 FROM names;
         ANALYZE registry.functions, registry.versions, registry.deployments;
         DROP TABLE names"
    );
    sqlx::raw_sql(AssertSqlSafe(fill)).execute(world.database.pool()).await.expect("rows go in");
    eprintln!("look-ups: {rows} functions");
    world
}
