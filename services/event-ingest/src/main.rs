//! `chatfn-event-ingest`: event-ingest as a process of its own.

use std::process::ExitCode;

use chatfn_event_ingest::{Cli, Command, Config};
use chatfn_rpc::Shutdown;
use chatfn_telemetry::TelemetryArgs;

// With glibc's, memory management takes a seventh of a service's time (make bench-ingest).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

// `bin/chatfn-event-ingest-faulty.rs` starts here, too.
pub(crate) fn main() -> anyhow::Result<ExitCode> {
    let Cli { config, telemetry, command } = match chatfn_settings::parse() {
        Ok(cli) => cli,
        Err(said) => return Ok(said),
    };
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
