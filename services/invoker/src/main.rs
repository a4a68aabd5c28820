//! The invoker as a process of its own.

use std::process::ExitCode;

use chatfn_invoker::{
    Cli, Command, Config, compile_engine,
    confine::Confinement,
    keeper::{self, Keeper},
    run_confined,
};
use chatfn_rpc::{Shutdown, bind};

// With glibc's, memory management takes a seventh of a service's time (make bench-ingest).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<ExitCode> {
    let Cli { config, command } = match chatfn_settings::parse() {
        Ok(cli) => cli,
        Err(said) => return Ok(said),
    };
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
