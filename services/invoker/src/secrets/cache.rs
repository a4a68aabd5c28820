//! Values that were read a moment ago, and one call of the registry at a time for each.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chatfn_domain::name::SecretName;
use secrecy::SecretString;
use tokio::time::{Instant, timeout};

use super::SecretError;

/// For how long a value, or that there is none, is taken as it was read. With the time of a call on top this stays
/// below the 250 ms that are promised.
const FRESH: Duration = Duration::from_millis(200);
/// For how long a value serves on while the registry is away.
const STALE: Duration = Duration::from_secs(3600);
/// Longest wait for the registry when there is a value that can serve on, and when there is none.
const WAIT_WITH_VALUE: Duration = Duration::from_millis(250);
const WAIT_WITHOUT: Duration = Duration::from_secs(2);
/// Secrets that are remembered: at most 64 MiB of values.
const MAX_ENTRIES: u64 = 4096;

/// A value that runs share.
pub(crate) type Value = Arc<SecretString>;

/// What was read of each secret.
pub(super) struct Cache(moka::sync::Cache<SecretName, Arc<Entry>>);

#[derive(Default)]
struct Entry {
    /// Held while the registry is asked.
    asking: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The last value that the registry gave, unless it said later that there is none, and when it was asked for it.
    known: Option<(Value, Instant)>,
    last: Option<Asked>,
}

/// The last question to the registry.
struct Asked {
    began: Instant,
    ended: Instant,
    failure: Option<SecretError>,
}

impl Cache {
    pub(super) fn new() -> Self {
        Self(moka::sync::Cache::builder().max_capacity(MAX_ENTRIES).time_to_idle(STALE).build())
    }

    /// What is known of a secret when that is good enough, and what `ask` finds otherwise; `ask` is given the longest
    /// that it may take, and dropped after that. Where `admit` refuses the question, what was read a moment ago is good
    /// enough for everybody.
    pub(super) async fn read<F>(
        &self,
        name: &SecretName,
        use_cache: bool,
        admit: impl FnOnce() -> Result<(), SecretError>,
        ask: impl Fn(Duration) -> F,
    ) -> Result<Value, SecretError>
    where
        F: Future<Output = Result<SecretString, SecretError>>,
    {
        let called = Instant::now();
        let entry = self.0.get_with_by_ref(name, Arc::default);
        if let Some(answer) = entry.state().answer(called, use_cache) {
            return answer;
        }
        let _asking = entry.asking.lock().await;
        // Who held it before may have asked for us as well.
        if let Some(answer) = entry.state().answer(called, use_cache) {
            return answer;
        }
        if let Err(refused) = admit() {
            return entry.state().unasked(called, use_cache).unwrap_or(Err(refused));
        }
        let began = Instant::now();
        let limit = if entry.state().serving().is_some() { WAIT_WITH_VALUE } else { WAIT_WITHOUT };
        let outcome = timeout(limit, ask(limit)).await.unwrap_or_else(|_| {
            Err(SecretError::Unavailable(format!("the registry did not answer within {limit:?}")))
        });
        let mut state = entry.state();
        state.learn(name, began, outcome);
        // It was asked since the call, so it covers it.
        state
            .answer(called, use_cache)
            .unwrap_or_else(|| Err(SecretError::Unavailable("try again".to_owned())))
    }
}

impl Entry {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The answer to a read that was called for at `called`, if the last question to the registry covers it: it was
    /// asked since or, with `use_cache`, a moment ago. A failure since then covers it as well, however long ago it was
    /// asked, so that many wait for one.
    fn answer(&self, called: Instant, use_cache: bool) -> Option<Result<Value, SecretError>> {
        let last = self.last.as_ref()?;
        let failed_since = last.failure.is_some() && last.ended >= called;
        let covers = last.began >= called || (use_cache && (last.began.elapsed() < FRESH || failed_since));
        if !covers {
            return None;
        }
        Some(match (&last.failure, self.serving()) {
            (None, Some(value)) => Ok(value),
            (Some(SecretError::Unavailable(_)), Some(value)) if use_cache => Ok(value),
            (Some(failure), _) => Err(failure.clone()),
            (None, None) => return None,
        })
    }

    /// The answer where the registry may not be asked: an old one, if it was away when it was asked last.
    fn unasked(&self, called: Instant, use_cache: bool) -> Option<Result<Value, SecretError>> {
        let was_away = matches!(&self.last, Some(Asked { failure: Some(SecretError::Unavailable(_)), .. }));
        if was_away && !use_cache {
            return None;
        }
        self.answer(called, true).or_else(|| self.serving().filter(|_| was_away).map(Ok))
    }

    /// The value that may be served.
    fn serving(&self) -> Option<Value> {
        let (value, read_at) = self.known.as_ref()?;
        (read_at.elapsed() < STALE).then(|| Arc::clone(value))
    }

    fn learn(&mut self, name: &SecretName, began: Instant, outcome: Result<SecretString, SecretError>) {
        let was_away = self.last.as_ref().is_some_and(|last| last.failure.is_some());
        let failure = match outcome {
            Ok(value) => {
                self.known = Some((Arc::new(value), began));
                None
            }
            Err(error @ SecretError::Unavailable(_)) => {
                if !was_away && self.known.is_some() {
                    tracing::warn!(secret = %name, %error, "serving the last known value of {name}");
                }
                Some(error)
            }
            Err(error) => {
                self.known = None;
                Some(error)
            }
        };
        self.last = Some(Asked { began, ended: Instant::now(), failure });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::future::join_all;
    use secrecy::ExposeSecret as _;

    use super::*;

    fn name() -> SecretName {
        "accounts/acme/secrets/token".parse().unwrap()
    }

    /// A registry that counts questions.
    #[derive(Default)]
    struct Registry {
        asked: AtomicU32,
        value: Mutex<Option<Result<String, SecretError>>>,
    }

    impl Registry {
        fn says(&self, value: Result<&str, SecretError>) {
            *self.value.lock().unwrap() = Some(value.map(ToOwned::to_owned));
        }

        /// Never answers.
        fn hangs(&self) {
            *self.value.lock().unwrap() = None;
        }

        async fn read(&self, cache: &Cache, use_cache: bool) -> Result<String, SecretError> {
            let ask = |_| async {
                self.asked.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(10)).await;
                let value = self.value.lock().unwrap().clone();
                match value {
                    Some(value) => value.map(SecretString::from),
                    None => std::future::pending().await,
                }
            };
            let value = cache.read(&name(), use_cache, || Ok(()), ask).await?;
            Ok(value.expose_secret().to_owned())
        }

        fn asked(&self) -> u32 {
            self.asked.load(Ordering::Relaxed)
        }
    }

    fn away() -> SecretError {
        SecretError::Unavailable("away".to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn reads_that_coincide_are_one_question() {
        let (cache, registry) = (Cache::new(), Registry::default());
        registry.says(Ok("one"));
        let reads = join_all((0..100).map(|_| registry.read(&cache, true))).await;
        assert!(reads.into_iter().all(|read| read.as_deref() == Ok("one")));
        join_all((0..100).map(|_| registry.read(&cache, false))).await;
        assert_eq!(registry.asked(), 2, "and reads that must not be answered from memory are one, too");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_and_a_deletion_are_seen_soon() {
        let (cache, registry) = (Cache::new(), Registry::default());
        registry.says(Ok("one"));
        assert_eq!(registry.read(&cache, true).await.as_deref(), Ok("one"));
        registry.says(Ok("two"));
        assert_eq!(registry.read(&cache, true).await.as_deref(), Ok("one"), "remembered");
        assert_eq!(registry.read(&cache, false).await.as_deref(), Ok("two"), "asked for");
        registry.says(Err(SecretError::NotFound(name())));
        tokio::time::advance(FRESH).await;
        assert_eq!(registry.read(&cache, true).await, Err(SecretError::NotFound(name())));
        registry.says(Err(away()));
        tokio::time::advance(FRESH).await;
        assert_eq!(registry.read(&cache, true).await, Err(away()), "what was deleted does not come back");
        registry.says(Ok("three"));
        tokio::time::advance(FRESH).await;
        assert_eq!(registry.read(&cache, true).await.as_deref(), Ok("three"));
    }

    #[tokio::test(start_paused = true)]
    async fn without_the_registry_the_last_value_serves_on() {
        let (cache, registry) = (Cache::new(), Registry::default());
        registry.says(Ok("one"));
        registry.read(&cache, true).await.unwrap();
        for minute in 0..59 {
            if minute % 2 == 0 {
                registry.says(Err(away()))
            } else {
                registry.hangs()
            }
            tokio::time::advance(Duration::from_secs(60)).await;
            let called = Instant::now();
            let asked = registry.asked();
            let reads = join_all((0..10).map(|_| registry.read(&cache, true))).await;
            assert!(reads.into_iter().all(|read| read.as_deref() == Ok("one")));
            assert!(called.elapsed() <= WAIT_WITH_VALUE, "{:?}", called.elapsed());
            assert_eq!(registry.asked(), asked + 1, "one of them has tried");
        }
        assert!(
            registry.read(&cache, false).await.is_err(),
            "nobody gets an old value who asked for a new one"
        );
        tokio::time::advance(Duration::from_secs(120)).await;
        assert!(registry.read(&cache, true).await.is_err(), "an hour is over");
        registry.says(Ok("two"));
        tokio::time::advance(FRESH).await;
        assert_eq!(registry.read(&cache, true).await.as_deref(), Ok("two"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_that_is_not_admitted_has_the_last_answer_for_a_moment() {
        let (cache, registry) = (Cache::new(), Registry::default());
        registry.says(Ok("one"));
        let unasked = async |use_cache| {
            let refuse = || Err(SecretError::TooOften(7));
            let read = cache.read(&name(), use_cache, refuse, |_| std::future::pending()).await;
            read.map(|value| value.expose_secret().to_owned())
        };
        assert_eq!(unasked(true).await, Err(SecretError::TooOften(7)), "nothing was read yet");
        assert_eq!(registry.read(&cache, false).await.as_deref(), Ok("one"));
        assert_eq!(unasked(false).await.as_deref(), Ok("one"), "a moment ago");
        tokio::time::advance(FRESH).await;
        assert_eq!(unasked(false).await, Err(SecretError::TooOften(7)));
        assert_eq!(registry.read(&cache, true).await.as_deref(), Ok("one"), "it is not forgotten");
        registry.says(Err(away()));
        tokio::time::advance(FRESH).await;
        assert_eq!(registry.read(&cache, true).await.as_deref(), Ok("one"));
        for _ in 0..2 {
            assert_eq!(unasked(true).await.as_deref(), Ok("one"), "the registry was away");
            assert_eq!(
                unasked(false).await,
                Err(SecretError::TooOften(7)),
                "an old value is not what it asked for"
            );
            tokio::time::advance(Duration::from_secs(60)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_gives_up_leaves_the_question_to_the_next() {
        let (cache, registry) = (Cache::new(), Registry::default());
        registry.hangs();
        let impatient = timeout(Duration::from_millis(50), registry.read(&cache, true));
        let patient = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let read = registry.read(&cache, true);
            registry.says(Ok("one"));
            read.await
        };
        let (impatient, patient) = tokio::join!(impatient, patient);
        assert!(impatient.is_err());
        assert_eq!(patient.as_deref(), Ok("one"));
    }
}
