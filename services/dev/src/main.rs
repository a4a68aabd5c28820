//! `chatfn-dev run`, `chatfn-dev demo`, `chatfn-dev dev-certs`.

use std::process::ExitCode;

use chatfn_dev::{
    certs::{self, CertsArgs},
    cluster::{Cluster, ClusterArgs},
    demo,
};
use chatfn_rpc::Shutdown;
use chatfn_telemetry::TelemetryArgs;
use clap::{Parser, Subcommand};

// With glibc's, memory management takes a seventh of a service's time (make bench-ingest).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The whole chatfn cluster in one process on a private Postgres.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    telemetry: TelemetryArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the cluster in the foreground until SIGINT or SIGTERM.
    Run(ClusterArgs),
    /// Makes certificates for the services, and a token to call them with.
    DevCerts(CertsArgs),
    /// Shows the main job, start to end, on a cluster of its own.
    Demo,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = async {
        let shutdown = Shutdown::on_signals()?;
        match cli.command {
            Command::Run(args) => {
                chatfn_telemetry::init(&cli.telemetry)?;
                run(args, shutdown).await
            }
            Command::DevCerts(args) => certs::make(&args).map(|made| println!("{made}")),
            Command::Demo => {
                chatfn_telemetry::init(&TelemetryArgs { log_filter: "warn".to_owned(), ..cli.telemetry })?;
                demo::run(shutdown).await
            }
        }
    };
    match outcome.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chatfn-dev: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: ClusterArgs, shutdown: Shutdown) -> anyhow::Result<()> {
    let Some(cluster) = shutdown.soft().run_until_cancelled(Cluster::start(args)).await else {
        return Ok(());
    };
    let cluster = cluster?;
    println!(
        "ready registry={} invoker={} event-ingest={}",
        cluster.registry, cluster.invoker, cluster.event_ingest
    );
    let failure = cluster.until(shutdown.soft()).await;
    let stopped = cluster.stop().await;
    // A service that has ended says why when it is stopped.
    stopped.and(failure)
}
