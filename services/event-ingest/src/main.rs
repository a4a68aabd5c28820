//! `chatfn-event-ingest`: event-ingest as a process of its own.

use chatfn_event_ingest::Config;
use chatfn_rpc::{Shutdown, TelemetryArgs};
use clap::Parser;

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
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Cli { config, telemetry } = Cli::parse();
    chatfn_rpc::init_telemetry(&telemetry)?;
    let shutdown = Shutdown::on_signals()?;
    let listener = chatfn_rpc::bind(config.listen, &config.security).await?;
    chatfn_event_ingest::run(config, listener, shutdown).await
}
