//! What pools tell.

use chatfn_telemetry::{Label, Metric, Metrics, declare};
use sqlx::PgPool;

const POOL: Label = Label::of("pool", "what the pool is for, by the service's own names");
const STATE: Label = Label::among("state", &["in_use", "idle"]);

declare! {
    /// The metrics of connection pools. How long callers wait for a connection, sqlx does not tell; none free is when they do.
    pub METRICS = {
        CONNECTIONS: Metric::gauge("chatfn_pool_connections").by(&[POOL, STATE])
            .means("Open connections to Postgres.")
            .when_off("`in_use` stays at chatfn_pool_max_connections: callers wait for connections. See which statements are slow (pg_stat_activity, by application_name), or raise --database-max-connections."),
        MAX: Metric::gauge("chatfn_pool_max_connections").by(&[POOL])
            .means("Most connections that the pool opens. The sum over all pools and replicas must stay below what Postgres allows."),
    }
}

/// Tells of these pools, by name, for as long as they are there.
///
/// # Panics
/// When a service calls it twice.
pub fn observe(metrics: &Metrics, pools: impl IntoIterator<Item = (&'static str, PgPool)>) {
    let pools: Vec<_> = pools.into_iter().collect();
    let limits: Vec<_> =
        pools.iter().map(|(name, pool)| (*name, f64::from(pool.options().get_max_connections()))).collect();
    metrics.observe_each(&CONNECTIONS, move || {
        let each = pools.iter().flat_map(|(name, pool)| {
            let idle = u32::try_from(pool.num_idle()).unwrap_or(u32::MAX);
            let in_use = pool.size().saturating_sub(idle);
            [(vec![*name, "in_use"], f64::from(in_use)), (vec![*name, "idle"], f64::from(idle))]
        });
        each.collect()
    });
    metrics.observe_each(&MAX, move || limits.iter().map(|(name, most)| (vec![*name], *most)).collect());
}
