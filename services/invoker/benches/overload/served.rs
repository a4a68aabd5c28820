//! How long the server itself had refused calls, as it says in its log: from their headers' arrival to their answer.
//!
//! Beside it, what callers see includes their own waiting for a core, and both ways.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context, layer::SubscriberExt as _, util::SubscriberInitExt as _};

static REFUSED: Mutex<Vec<Duration>> = Mutex::new(Vec::new());

/// Listens from now on.
pub(crate) fn listen() {
    let only_calls = tracing_subscriber::filter::filter_fn(|metadata| {
        metadata.is_event()
            && *metadata.level() <= Level::DEBUG
            && metadata.target().starts_with("chatfn_rpc")
    });
    tracing_subscriber::registry().with(Listener.with_filter(only_calls)).init();
}

/// Those refused since the last time that this was called.
pub(crate) fn refused() -> Vec<Duration> {
    std::mem::take(&mut REFUSED.lock().unwrap_or_else(PoisonError::into_inner))
}

struct Listener;

#[derive(Default)]
struct Call {
    duration_ms: f64,
    is_refused: bool,
}

impl Visit for Call {
    fn record_f64(&mut self, field: &Field, value: f64) {
        if field.name() == "rpc.duration_ms" {
            self.duration_ms = value;
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.is_refused |= field.name() == "rpc.code" && value == "RESOURCE_EXHAUSTED";
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

impl<S: Subscriber> Layer<S> for Listener {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut call = Call::default();
        event.record(&mut call);
        if call.is_refused {
            let duration = Duration::from_secs_f64(call.duration_ms / 1e3);
            REFUSED.lock().unwrap_or_else(PoisonError::into_inner).push(duration);
        }
    }
}
