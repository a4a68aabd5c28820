//! `chatfn-registry`: the control plane as a process of its own.

use std::process::ExitCode;

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
async fn main() -> ExitCode {
    match run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Everything that ends up here is for the operator: a sentence with its causes, no backtrace.
            eprintln!("chatfn-registry: {}", chatfn_pg::error::describe(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn run(Cli { config, telemetry }: Cli) -> anyhow::Result<()> {
    chatfn_rpc::init_telemetry(&telemetry)?;
    let shutdown = Shutdown::on_signals()?;
    let listener = chatfn_rpc::bind(config.listen, &config.security).await?;
    chatfn_registry::run(config, listener, shutdown).await
}
