//! Logs: one line for each event, on standard error.

use std::{io::IsTerminal, panic};

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One JSON object per line.
    Json,
    /// Text for people.
    Human,
}

/// What a process logs; flatten it into a service's clap arguments.
#[derive(Clone, Debug, clap::Args)]
pub struct TelemetryArgs {
    /// How log lines look
    #[arg(long, env = "CHATFN_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,

    /// What to log, as tracing directives: info, or chatfn_rpc=debug,info
    #[arg(long, env = "CHATFN_LOG", value_name = "DIRECTIVES", default_value = "info")]
    pub log_filter: String,
}

impl Default for TelemetryArgs {
    fn default() -> Self {
        Self { log_format: LogFormat::default(), log_filter: "info".to_owned() }
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter cannot be read.
    #[error("the log filter {filter:?} is not valid; write for instance info, or chatfn_rpc=debug,info")]
    Filter {
        /// The filter given.
        filter: String,
        /// What is wrong with it.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// Something else in the process logs already.
    #[error("logging is set up already")]
    AlreadySet(#[from] tracing_subscriber::util::TryInitError),
}

impl TelemetryArgs {
    /// Checks the settings, without setting anything up.
    ///
    /// # Errors
    /// The filter is not valid.
    pub fn validate(&self) -> Result<(), TelemetryError> {
        self.filter().map(drop)
    }

    fn filter(&self) -> Result<EnvFilter, TelemetryError> {
        EnvFilter::builder()
            .parse(&self.log_filter)
            .map_err(|source| TelemetryError::Filter { filter: self.log_filter.clone(), source })
    }
}

/// Sets up logging for the process, and logs panics with message and place before they unwind. Once per
/// process, before anything that logs.
///
/// # Errors
/// The filter is not valid, or logging is set up already.
pub fn init(args: &TelemetryArgs) -> Result<(), TelemetryError> {
    let filter = args.filter()?;
    let terminal = std::io::stderr().is_terminal();
    let human = match args.log_format {
        LogFormat::Auto => terminal,
        LogFormat::Json => false,
        LogFormat::Human => true,
    };
    let registry = tracing_subscriber::registry().with(filter);
    if human {
        registry.with(fmt::layer().with_writer(std::io::stderr).with_ansi(terminal)).try_init()?;
    } else {
        let json = fmt::layer().json().flatten_event(true).with_current_span(true).with_span_list(false);
        registry.with(json.with_writer(std::io::stderr)).try_init()?;
    }
    panic::set_hook(Box::new(log_panic));
    Ok(())
}

fn log_panic(panic: &panic::PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("(not a text)");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    // Captures nothing unless RUST_BACKTRACE asks for it.
    let backtrace = std::backtrace::Backtrace::capture();
    if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
        tracing::error!(panic.place = place, panic.backtrace = %backtrace, "panic at {place}: {message}");
    } else {
        tracing::error!(panic.place = place, "panic at {place}: {message}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_filter_is_explained() {
        let args = TelemetryArgs { log_filter: "chatfn=loud".to_owned(), ..TelemetryArgs::default() };
        let error = init(&args).expect_err("loud is no level");
        assert!(error.to_string().contains("chatfn=loud"), "{error}");
    }
}
