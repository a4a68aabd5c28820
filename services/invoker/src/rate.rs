//! How often a function may call out, and an account ask for secrets.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
};

use tokio::time::Instant;

/// Names that are remembered. Buckets of those that were quiet for a second are full and need no memory.
const MAX_BUCKETS: usize = 10_000;

/// One token bucket per name, of a function or an account: up to a second's requests at once, then evenly.
#[derive(Debug)]
pub(crate) struct RateLimits<N> {
    per_second: u32,
    buckets: Mutex<HashMap<N, Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    filled_at: Instant,
}

impl<N: Clone + Eq + Hash> RateLimits<N> {
    pub(crate) fn new(per_second: u32) -> Self {
        Self { per_second, buckets: Mutex::default() }
    }

    pub(crate) fn per_second(&self) -> u32 {
        self.per_second
    }

    /// Takes a token of `name`; `false` when it has none at `now`.
    pub(crate) fn take(&self, name: &N, now: Instant) -> bool {
        let capacity = f64::from(self.per_second);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if !buckets.contains_key(name) && buckets.len() >= MAX_BUCKETS {
            buckets.retain(|_, bucket| (now - bucket.filled_at).as_secs_f64() < 1.0);
            if buckets.len() >= MAX_BUCKETS {
                // So many at once: forgetting gives each another second's requests, refusing would hit
                // the innocent.
                buckets.clear();
            }
        }
        let bucket = buckets.entry(name.clone()).or_insert(Bucket { tokens: capacity, filled_at: now });
        let gained = (now - bucket.filled_at).as_secs_f64() * capacity;
        bucket.tokens = (bucket.tokens + gained).min(capacity);
        bucket.filled_at = now;
        let has_one = bucket.tokens >= 1.0;
        if has_one {
            bucket.tokens -= 1.0;
        }
        has_one
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chatfn_domain::name::FunctionName;

    use super::*;

    fn function(name: &str) -> FunctionName {
        format!("accounts/{name}/functions/chat.start").parse().unwrap()
    }

    #[test]
    fn a_function_has_its_own_bucket_that_refills() {
        let limits = RateLimits::new(20);
        let start = Instant::now();
        let taken = |name: &str, now| (0..100).filter(|_| limits.take(&function(name), now)).count();
        assert_eq!(taken("a", start), 20);
        assert_eq!(taken("b", start), 20);
        assert_eq!(taken("a", start + Duration::from_millis(501)), 10);
        assert_eq!(taken("a", start + Duration::from_secs(3600)), 20, "saves up no more than a second's");
    }

    #[test]
    fn quiet_functions_are_forgotten() {
        let limits = RateLimits::new(20);
        let start = Instant::now();
        for n in 0..MAX_BUCKETS {
            limits.take(&function(&n.to_string()), start);
        }
        limits.take(&function("x"), start + Duration::from_secs(2));
        assert_eq!(limits.buckets.lock().unwrap().len(), 1);
        for n in 0..3 * MAX_BUCKETS {
            limits.take(&function(&n.to_string()), start + Duration::from_secs(2));
        }
        assert!(limits.buckets.lock().unwrap().len() <= MAX_BUCKETS);
    }
}
