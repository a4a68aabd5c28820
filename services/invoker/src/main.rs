//! The invoker as a process of its own.

use chatfn_invoker::{Config, run};
use chatfn_rpc::{Shutdown, bind, init_telemetry};
use clap::Parser as _;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let config = Config::parse();
    init_telemetry(&config.telemetry)?;
    let listener = bind(config.listen).await?;
    run(config, listener, Shutdown::on_signals()?).await
}
