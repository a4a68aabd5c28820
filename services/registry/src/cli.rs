//! The command line of `chatfn-registry`.

use chatfn_rpc::HealthArgs;
use chatfn_settings::{Problems, Program};
use chatfn_telemetry::TelemetryArgs;
use clap::{Parser, Subcommand};

use crate::Config;

/// What `chatfn-registry` is started with.
#[derive(Debug, Parser)]
#[command(name = "chatfn-registry", version, about = "chatfn's control plane")]
pub struct Cli {
    /// The service's settings.
    #[command(flatten)]
    pub config: Config,

    /// Logs.
    #[command(flatten)]
    pub telemetry: TelemetryArgs,

    /// What to do besides serving.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do besides serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Asks the registry that runs here with these settings whether calls should be sent to it
    Health(HealthArgs),
}

impl Program for Cli {
    fn check(&self, problems: &mut Problems) {
        self.config.check(problems);
        problems.check_flag("log-filter", self.telemetry.validate());
    }

    fn shown(&self) -> Vec<(&'static str, String)> {
        vec![("DATABASE_URL", self.config.database.url.to_string())]
    }
}
