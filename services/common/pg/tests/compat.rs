//! What a rolling upgrade needs of the schema: the queries of earlier releases mean what they meant.
//!
//! `migrations/compat/` has, for each release that may still run, its queries and the tables it knew, as the schema of that
//! release described them; `migrations/README.md` says how to add one. Here each query is prepared on the schema of now,
//! and has to have the same parameters and columns, no column of which may have become NULL; and whatever that release
//! inserts, not knowing a newer column, has to go in still. What only data can show is what `make test-upgrade` is for.

use std::{collections::BTreeMap, fs, path::PathBuf};

use chatfn_pg::{
    migrate::{MIGRATIONS, Record},
    testing::TestDatabase,
};
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, Column as _, Either, Executor as _, PgPool, SqlSafeStr as _, TypeInfo as _};

/// Set to the name of a release, it makes the test write that release's file instead (`make cut-release`).
const CUT: &str = "CHATFN_CUT_RELEASE";

/// What a release asks of the database.
#[derive(Debug, Serialize, Deserialize)]
struct Release {
    /// Its newest migration.
    migration: i64,
    queries: Vec<Query>,
    /// By table, then by column.
    tables: BTreeMap<String, BTreeMap<String, Stored>>,
}

/// A query, as the database describes it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Query {
    sql: String,
    parameters: Vec<String>,
    columns: Vec<Selected>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Selected {
    name: String,
    r#type: String,
    /// Whether the database knows that it is never NULL.
    not_null: bool,
}

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    r#type: String,
    not_null: bool,
}

fn root() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "..", ".."].iter().collect()
}

async fn describe(pool: &PgPool, sql: &str) -> sqlx::Result<Query> {
    let described = pool.describe(AssertSqlSafe(sql).into_sql_str()).await?;
    let parameters = match described.parameters() {
        Some(Either::Left(types)) => types.iter().map(|it| it.name().to_owned()).collect(),
        _ => Vec::new(),
    };
    let columns = described.columns().iter().enumerate().map(|(at, column)| Selected {
        name: column.name().to_owned(),
        r#type: column.type_info().name().to_owned(),
        not_null: described.nullable(at) == Some(false),
    });
    Ok(Query { sql: sql.to_owned(), parameters, columns: columns.collect() })
}

/// Columns of all tables of ours, and those of them without which nothing can be inserted.
async fn tables(pool: &PgPool) -> (BTreeMap<String, BTreeMap<String, Stored>>, Vec<String>) {
    type Row = (String, String, String, bool, bool);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT a.attrelid::regclass::text, a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull,
                a.atthasdef OR a.attidentity <> '' OR a.attgenerated <> ''
         FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
         WHERE c.relnamespace IN ('registry'::regnamespace, 'ingest'::regnamespace)
           AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let (mut tables, mut needed) = (BTreeMap::<_, BTreeMap<_, _>>::new(), Vec::new());
    for (table, column, r#type, not_null, has_default) in rows {
        if not_null && !has_default {
            needed.push(format!("{table}.{column}"));
        }
        tables.entry(table).or_default().insert(column, Stored { r#type, not_null });
    }
    (tables, needed)
}

/// What has become of a query that a release may still ask.
async fn changes(pool: &PgPool, old: &Query) -> Option<String> {
    let new = match describe(pool, &old.sql).await {
        Ok(new) => new,
        Err(error) => return Some(format!("it fails: {error}")),
    };
    if new.parameters != old.parameters {
        return Some(format!("its parameters were {:?} and are {:?}", old.parameters, new.parameters));
    }
    let reads = |columns: &[Selected]| -> Vec<_> {
        columns.iter().map(|it| (it.name.clone(), it.r#type.clone())).collect()
    };
    if reads(&new.columns) != reads(&old.columns) {
        return Some(format!("its columns were {:?} and are {:?}", old.columns, new.columns));
    }
    let is_lost = |(old, new): &(&Selected, &Selected)| old.not_null && !new.not_null;
    let lost = old.columns.iter().zip(&new.columns).find(is_lost)?;
    Some(format!("{} was never NULL, and may be now", lost.0.name))
}

/// The oldest migration that a build must know to start.
fn oldest_known() -> i64 {
    MIGRATIONS.iter().filter_map(|migration| Record::from(migration).needs()).max().unwrap_or(0)
}

#[tokio::test]
async fn earlier_releases_work_on_the_schema_of_now() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    if let Ok(release) = std::env::var(CUT) {
        return cut(pool, &release).await;
    }
    let (now, needed) = tables(pool).await;
    let oldest = oldest_known();
    let mut problems = Vec::new();
    let mut files: Vec<_> = fs::read_dir(root().join("migrations/compat"))
        .into_iter()
        .flatten()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    assert!(
        !files.is_empty(),
        "no release is kept in migrations/compat, so this checks nothing: keep this one by `make cut-release RELEASE=…`"
    );
    for path in files {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let release: Release = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert!(
            release.migration >= oldest,
            "{name} cannot start any more, because a migration needs {oldest}: delete {}, and keep the release that has \
             it by `make cut-release`",
            path.display()
        );
        assert!(!release.queries.is_empty() && !release.tables.is_empty(), "{name} asks nothing");
        for query in &release.queries {
            if let Some(change) = changes(pool, query).await {
                problems.push(format!("{name}: {change}\n{}", query.sql));
            }
        }
        for (table, columns) in &release.tables {
            for (column, old) in columns {
                match now.get(table).and_then(|columns| columns.get(column)) {
                    Some(new) if new.r#type == old.r#type && (old.not_null || !new.not_null) => {}
                    new => problems.push(format!("{name}: {table}.{column} was {old:?} and is {new:?}")),
                }
            }
            // It inserts without knowing it.
            problems.extend(
                needed
                    .iter()
                    .filter(|it| {
                        it.rsplit_once('.').is_some_and(|(t, c)| t == table && !columns.contains_key(c))
                    })
                    .map(|it| format!("{name}: {it} is new, NOT NULL, and has no default")),
            );
        }
    }
    assert!(problems.is_empty(), "a rolling upgrade would fail:\n\n{}", problems.join("\n\n"));
}

/// Writes down what this release asks of the database.
async fn cut(pool: &PgPool, release: &str) {
    let version = env!("CARGO_PKG_VERSION");
    let is_of_version = release == version || release.starts_with(&format!("{version}-"));
    assert!(is_of_version, "RELEASE={release}, but Cargo.toml says {version}: what is running tells that");
    let mut queries = Vec::new();
    for file in fs::read_dir(root().join(".sqlx")).unwrap() {
        let recorded: serde_json::Value =
            serde_json::from_slice(&fs::read(file.unwrap().path()).unwrap()).unwrap();
        queries.push(describe(pool, recorded["query"].as_str().unwrap()).await.unwrap());
    }
    queries.sort();
    let migration = MIGRATIONS.iter().map(|it| it.version).max().unwrap();
    let asked = Release { migration, queries, tables: tables(pool).await.0 };
    let folder = root().join("migrations/compat");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(format!("{release}.json")), serde_json::to_string_pretty(&asked).unwrap() + "\n")
        .unwrap();
}

/// The check finds what breaks a release, whatever the migrations do.
#[tokio::test]
async fn what_breaks_an_earlier_release_is_found() {
    let database = TestDatabase::create_empty().await;
    let pool = database.pool();
    let run = async |sql: &'static str| pool.execute(sql).await.map(drop).unwrap();
    run("CREATE SCHEMA registry; CREATE SCHEMA ingest;
         CREATE TABLE registry.t (a text NOT NULL, b bigint NOT NULL)")
    .await;
    let old = describe(pool, "SELECT a, b FROM registry.t WHERE b = $1").await.unwrap();
    // Each time by a new session: one that knows the query already describes it as it was.
    let changes = async || {
        let pool = PgPool::connect(database.url().expose()).await.unwrap();
        changes(&pool, &old).await
    };
    assert_eq!(changes().await, None);
    run("ALTER TABLE registry.t ADD COLUMN c text, ADD COLUMN d bigint NOT NULL DEFAULT 0").await;
    let inserted = ["registry.t.a", "registry.t.b"].map(str::to_owned);
    assert_eq!((changes().await, tables(pool).await.1), (None, inserted.to_vec()));
    run("ALTER TABLE registry.t ADD COLUMN e text NOT NULL").await;
    assert!(tables(pool).await.1.contains(&"registry.t.e".to_owned()));
    run("ALTER TABLE registry.t ALTER COLUMN a DROP NOT NULL").await;
    assert!(changes().await.unwrap().contains("a was never NULL"));
    run("ALTER TABLE registry.t ALTER COLUMN b TYPE integer").await;
    assert!(changes().await.unwrap().contains("parameters"));
    run("ALTER TABLE registry.t DROP COLUMN a").await;
    assert!(changes().await.unwrap().contains("it fails"));
}
