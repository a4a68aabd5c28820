//! The invoker as a process of its own.

use chatfn_invoker::{
    Config,
    confine::Confinement,
    keeper::{self, Keeper},
    run_confined,
};
use chatfn_rpc::{Shutdown, bind, init_telemetry};
use clap::Parser as _;

fn main() -> anyhow::Result<()> {
    let config = Config::parse();
    init_telemetry(&config.telemetry)?;
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
