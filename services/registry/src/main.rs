//! `chatfn-registry`: the control plane as a process of its own.

use chatfn_registry::Config;
use chatfn_rpc::{Shutdown, TelemetryArgs};
use clap::Parser;

#[derive(Parser)]
#[command(name = "chatfn-registry", version, about = "chatfn's control plane")]
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
    let listener = chatfn_rpc::bind(config.listen).await?;
    chatfn_registry::run(config, listener, shutdown).await
}
