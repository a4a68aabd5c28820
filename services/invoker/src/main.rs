//! The invoker as a process of its own.

use std::process::ExitCode;

use chatfn_invoker::{
    Config, compile_engine,
    confine::Confinement,
    keeper::{self, Keeper},
    run_confined,
};
use chatfn_rpc::{HealthArgs, Shutdown, bind};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "chatfn-invoker",
    version,
    about = "Runs lambdas: each run in a fresh sandbox, never past its deadline"
)]
struct Cli {
    #[command(flatten)]
    config: Config,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Asks the invoker that runs here with these settings whether calls should be sent to it
    Health(HealthArgs),
    /// Compiles the engine into --cache-dir and ends: for an image, so that no start has to. What is compiled serves
    /// machines whose processor has the same features as this one's; on others a start compiles
    CompileEngine,
}

fn main() -> anyhow::Result<ExitCode> {
    let Cli { config, command } = Cli::parse();
    match command {
        Some(Command::Health(health)) => return Ok(health.run(config.listen, &config.security)),
        Some(Command::CompileEngine) => compile_engine(&config)?,
        None => serve(config)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn serve(config: Config) -> anyhow::Result<()> {
    chatfn_telemetry::init(&config.telemetry)?;
    if config.keep_snapshot {
        return keeper::run(&config);
    }
    // While this process may still start another.
    let keeper = Keeper::start(&config)?;
    // Before the runtime, which starts threads.
    let confinement = Confinement::begin(&config)?;
    if let Some(keeper) = keeper {
        keeper.watch_over();
    }
    tokio::runtime::Runtime::new()?.block_on(async {
        let listener = bind(config.listen, &config.security).await?;
        run_confined(config, confinement, listener, Shutdown::on_signals()?).await
    })
}
