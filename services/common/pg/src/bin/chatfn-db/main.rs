//! `chatfn-db`: migrates chatfn's database, shows how it stands, and runs a command on a private Postgres.

mod private;

use std::process::ExitCode;
use std::time::Duration;

use chatfn_pg::DatabaseUrl;
use chatfn_pg::error::describe;
use chatfn_pg::migrate::{self, MIGRATIONS, RunOptions};
use chatfn_pg::pool::{ConnectError, parse_duration};
use clap::{Parser, Subcommand};
use sqlx::ConnectOptions;
use tracing_subscriber::EnvFilter;

/// Takes care of chatfn's database.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Apply the migrations that the database lacks; safe to run from several places at once.
    Migrate {
        #[command(flatten)]
        database: Database,
        /// Longest wait for another migration to finish.
        #[arg(long, default_value = "60s", value_parser = parse_duration)]
        wait: Duration,
        /// Longest wait of one migration for a table lock.
        #[arg(long, default_value = "5s", value_parser = parse_duration)]
        lock_timeout: Duration,
    },
    /// Show what is applied and what is missing; fails (exit code 3) if something is missing.
    Status {
        #[command(flatten)]
        database: Database,
    },
    /// Run a command on a private, migrated Postgres of its own, and stop that Postgres afterwards.
    Private(private::Args),
}

#[derive(clap::Args)]
struct Database {
    /// Postgres URL; a direct connection, not one through a transaction-pooling PgBouncer.
    #[arg(long = "database-url", env = "DATABASE_URL", hide_env_values = true)]
    url: DatabaseUrl,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,chatfn_pg=info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
    let result = match Cli::parse().command {
        Command::Migrate { database, wait, lock_timeout } => {
            migrate(&database.url, RunOptions { lock_wait: wait, lock_timeout }).await
        }
        Command::Status { database } => status(&database.url).await,
        Command::Private(args) => private::run(args).await,
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("chatfn-db: {}", describe(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn migrate(url: &DatabaseUrl, options: RunOptions) -> anyhow::Result<ExitCode> {
    let applied = migrate::run(url, &MIGRATIONS, options).await?;
    for migration in &applied {
        println!("applied {} in {:.3} s", migration.record, migration.elapsed.as_secs_f64());
    }
    if applied.is_empty() {
        println!("nothing to apply");
    }
    Ok(ExitCode::SUCCESS)
}

async fn status(url: &DatabaseUrl) -> anyhow::Result<ExitCode> {
    let mut connection = url
        .connect_options()?
        .connect()
        .await
        .map_err(|source| ConnectError::Unreachable { server: url.to_string(), source })?;
    let schema = migrate::schema(&mut connection, &MIGRATIONS).await?;
    let groups = [
        ("applied", &schema.applied),
        ("newer than this build", &schema.unknown),
        ("missing", &schema.pending),
    ];
    for (state, records) in groups {
        for record in records {
            println!("{state}: {record}");
        }
    }
    if schema.pending.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("run `chatfn-db migrate` to apply what is missing");
    Ok(ExitCode::from(3))
}
