//! `chatfn-registry`: the control plane as a process of its own.

use std::process::ExitCode;

use chatfn_registry::{Cli, Command, Config};
use chatfn_rpc::Shutdown;
use chatfn_telemetry::TelemetryArgs;

// With glibc's, memory management takes a seventh of a service's time (make bench-ingest).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let Cli { config, telemetry, command } = match chatfn_settings::parse() {
        Ok(cli) => cli,
        Err(said) => return said,
    };
    if let Some(Command::Health(health)) = command {
        return health.run(config.listen, &config.security);
    }
    match serve(config, telemetry) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Everything that ends up here is for the operator: a sentence with its causes, no backtrace.
            eprintln!("chatfn-registry: {}", chatfn_pg::error::describe(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn serve(config: Config, telemetry: TelemetryArgs) -> anyhow::Result<()> {
    chatfn_telemetry::init(&telemetry)?;
    let shutdown = Shutdown::on_signals()?;
    let listener = chatfn_rpc::bind(config.listen, &config.security).await?;
    chatfn_registry::run(config, listener, shutdown).await
}
