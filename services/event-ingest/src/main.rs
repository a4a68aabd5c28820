//! `chatfn-event-ingest`: event-ingest as a process of its own.

use std::process::ExitCode;

use chatfn_event_ingest::Config;
use chatfn_rpc::{HealthArgs, Shutdown};
use chatfn_telemetry::TelemetryArgs;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "chatfn-event-ingest",
    version,
    about = "Records chat events and delivers each in conversation order"
)]
struct Cli {
    #[command(flatten)]
    config: Config,

    #[command(flatten)]
    telemetry: TelemetryArgs,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Asks the event-ingest that runs here with these settings whether calls should be sent to it
    Health(HealthArgs),
}

// `bin/chatfn-event-ingest-faulty.rs` starts here, too.
pub(crate) fn main() -> anyhow::Result<ExitCode> {
    let Cli { config, telemetry, command } = Cli::parse();
    match command {
        Some(Command::Health(health)) => return Ok(health.run(config.listen, &config.security)),
        None => serve(config, telemetry)?,
    }
    Ok(ExitCode::SUCCESS)
}

#[tokio::main]
async fn serve(config: Config, telemetry: TelemetryArgs) -> anyhow::Result<()> {
    chatfn_telemetry::init(&telemetry)?;
    let shutdown = Shutdown::on_signals()?;
    let listener = chatfn_rpc::bind(config.listen, &config.security).await?;
    chatfn_event_ingest::run(config, listener, shutdown).await
}
