//! The thread that advances the epoch, so that running lambdas look at their deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often a running lambda looks at its deadline and lets others run.
const TICK: Duration = Duration::from_millis(1);
/// Ticks without any run after which the thread sleeps until the next one.
const IDLE_TICKS: u32 = 100;

/// Advances the epoch of engines once per millisecond while sandboxes are alive. Dropping it ends the thread.
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    alive: AtomicUsize,
    parked: AtomicBool,
    stop: AtomicBool,
}

impl Ticker {
    pub(crate) fn start(engines: Vec<wasmtime::Engine>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let thread = thread::Builder::new().name("chatfn-epoch".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || tick(&engines, &shared)
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Keeps the epoch advancing until the guard is dropped.
    pub(crate) fn enter(&self) -> Ticking {
        self.shared.alive.fetch_add(1, SeqCst);
        // Either this sees that the thread is about to park, or the thread sees the count: both are
        // sequentially consistent.
        if self.shared.parked.load(SeqCst)
            && let Some(thread) = &self.thread
        {
            thread.thread().unpark();
        }
        Ticking(Arc::clone(&self.shared))
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic there has been reported by the panic hook; there is nothing to add.
            let _ = thread.join();
        }
    }
}

/// See [`Ticker::enter`].
pub(crate) struct Ticking(Arc<Shared>);

impl Drop for Ticking {
    fn drop(&mut self) {
        self.0.alive.fetch_sub(1, SeqCst);
    }
}

fn tick(engines: &[wasmtime::Engine], shared: &Shared) {
    let mut idle = 0;
    while !shared.stop.load(SeqCst) {
        if shared.alive.load(SeqCst) > 0 {
            idle = 0;
        } else if idle < IDLE_TICKS {
            idle += 1;
        } else {
            shared.parked.store(true, SeqCst);
            if shared.alive.load(SeqCst) == 0 && !shared.stop.load(SeqCst) {
                thread::park();
            }
            shared.parked.store(false, SeqCst);
            continue;
        }
        thread::sleep(TICK);
        for engine in engines {
            engine.increment_epoch();
        }
    }
}
