//! The command line of `chatfn-invoker`.

use std::sync::LazyLock;

use chatfn_rpc::HealthArgs;
use chatfn_settings::{Problems, Program};
use clap::{Parser, Subcommand};

use crate::Config;

/// The release, and which engine is in it.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    format!("{}\n{}", env!("CARGO_PKG_VERSION"), chatfn_engine::MADE_OF).trim_end().to_owned()
});

/// What `chatfn-invoker` is started with.
#[derive(Debug, Parser)]
#[command(
    name = "chatfn-invoker",
    version,
    long_version = VERSION.as_str(),
    about = "Runs lambdas: each run in a fresh sandbox, never past its deadline"
)]
pub struct Cli {
    /// The service's settings.
    #[command(flatten)]
    pub config: Config,

    /// What to do besides serving.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do besides serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Asks the invoker that runs here with these settings whether calls should be sent to it
    Health(HealthArgs),
    /// Compiles the engine into --cache-dir and ends: for an image, so that no start has to. What is compiled serves
    /// machines whose processor has the same features as this one's; on others a start compiles
    CompileEngine,
}

impl Program for Cli {
    fn check(&self, problems: &mut Problems) {
        self.config.check(problems);
    }
}
