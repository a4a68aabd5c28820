//! Places where a test ends or halts this process, and mistakes that it can be told to make.
//!
//! Only in builds with the feature `failpoints`, which no release has (`make faults`, docs/FAULTS.md): otherwise [`edge`] is
//! empty and [`mutant`] is `false`, and nothing is left of them. No crate does it: `fail`, the known one, has had no release
//! since 2022, and neither kills a process nor is armed from outside while the process runs.

#[cfg(not(feature = "failpoints"))]
pub(crate) use self::absent::{edge, mutant, sent};
#[cfg(feature = "failpoints")]
pub(crate) use self::present::{edge, mutant, sent};

#[cfg(not(feature = "failpoints"))]
mod absent {
    /// Nothing.
    #[inline(always)]
    pub(crate) const fn edge(_: &str) {}

    /// The same future.
    #[inline(always)]
    pub(crate) fn sent<F>(_: &str, asking: F) -> F {
        asking
    }

    /// Never.
    #[inline(always)]
    pub(crate) const fn mutant(_: &str) -> bool {
        false
    }
}

#[cfg(feature = "failpoints")]
mod present {
    use std::{
        env, fs,
        path::PathBuf,
        sync::{LazyLock, Mutex, PoisonError},
    };

    use futures_util::FutureExt as _;
    use nix::sys::signal::{Signal, raise};

    /// Names a file that arms one edge while it exists: `<edge> <kill|stop> <passes>`.
    static ORDERS: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| env::var_os("CHATFN_FAILPOINT_FILE").map(Into::into));
    /// The mistake to make.
    static MUTANT: LazyLock<Option<String>> = LazyLock::new(|| env::var("CHATFN_MUTANT").ok());
    /// Passes of the edge that is armed.
    static PASSES: Mutex<(String, u64)> = Mutex::new((String::new(), 0));

    /// Ends this process by SIGKILL, or halts it by SIGSTOP, if the file says so and this is the pass.
    pub(crate) fn edge(name: &str) {
        let Some(file) = &*ORDERS else { return };
        let Ok(orders) = fs::read_to_string(file) else { return };
        let mut words = orders.split_whitespace();
        let (Some(armed), Some(action), Some(wanted)) = (words.next(), words.next(), words.next()) else {
            return;
        };
        if armed != name {
            return;
        }
        let mut passes = PASSES.lock().unwrap_or_else(PoisonError::into_inner);
        if passes.0 != orders {
            *passes = (orders.clone(), 0);
        }
        passes.1 += 1;
        if wanted.parse() != Ok(passes.1) {
            return;
        }
        // First, so that the next process does not end here, too.
        if fs::remove_file(file).is_err() {
            return;
        }
        let signal = if action == "kill" { Signal::SIGKILL } else { Signal::SIGSTOP };
        let _ = raise(signal);
    }

    /// An edge between asking and being answered: what a future does first is to ask.
    pub(crate) async fn sent<F: Future>(name: &str, asking: F) -> F::Output {
        let mut asking = std::pin::pin!(asking);
        if let Some(answer) = asking.as_mut().now_or_never() {
            return answer;
        }
        edge(name);
        asking.await
    }

    /// Whether this is the mistake to make.
    pub(crate) fn mutant(name: &str) -> bool {
        MUTANT.as_deref() == Some(name)
    }
}
