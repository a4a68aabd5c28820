//! For tests: what is logged, and what a program tells of itself, to be read.

mod reader;

use std::{
    io, mem,
    sync::{Arc, Mutex, PoisonError},
};

use tracing::subscriber::DefaultGuard;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter, util::SubscriberInitExt};

pub use self::reader::{MetricsReader, free_addresses};

/// Prints what the process warns of from now on, so that a test that fails tells why; not if the process has a log already.
pub fn print_warnings() {
    let warnings = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new("warn"))
        .with_ansi(false)
        .with_writer(io::stderr)
        .finish();
    let _ = warnings.try_init();
}

/// Keeps what is logged, as text without colours. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Keeps what the process logs from now on, as far as `filter` lets it through.
    ///
    /// # Panics
    /// If the process has a log already: a test that calls this needs a process of its own.
    #[must_use]
    pub fn of_process(filter: &str) -> Self {
        let log = Self::default();
        log.subscriber(filter).init();
        log
    }

    /// The same for this thread, until the guard is dropped.
    #[must_use]
    pub fn of_thread(filter: &str) -> (Self, DefaultGuard) {
        let log = Self::default();
        let guard = log.subscriber(filter).set_default();
        (log, guard)
    }

    /// All that was logged and not taken.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// The same, which is then forgotten.
    #[must_use]
    pub fn take(&self) -> String {
        let bytes = mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn subscriber(&self, filter: &str) -> impl SubscriberInitExt + use<> {
        tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(filter))
            .with_ansi(false)
            .with_writer(self.clone())
            .finish()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
