//! How many retries a function may have: a budget, so that a dependency that is down is not hit with several times the
//! usual load, by every event several times.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chatfn_domain::name::FunctionName;
use tokio::time::Instant;

/// Retries that each first attempt pays for.
const PER_FIRST_ATTEMPT: f64 = 0.15;
/// What a retry that succeeds gives back: more than it cost, so that what has waited runs soon once the dependency is
/// back. It can do so once for each event, and not at all while the dependency is down.
const PER_SUCCESS: f64 = 2.0;
/// A new budget, and what an idle one grows to by itself.
const RESERVE: f64 = 10.0;
/// Most that is saved up.
const CAPACITY: f64 = 50.0;
/// Time by which an idle budget grows by one retry, so that what waits runs even if no other event comes.
const GROWTH: Duration = Duration::from_secs(10);
/// First and longest pause of an event that waits for budget.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Budgets from which on those are forgotten that are as good as new.
const MANY: usize = 4096;
/// One that has been idle for so long has its reserve again; what it has saved up beyond that is forgotten with it.
const FORGOTTEN: Duration = Duration::from_secs(10 * 60);

/// The retry budgets of all functions, in this process: each replica has one for what it runs itself. Cheap to clone.
///
/// Over any time, a function's retries are at most 0.15 of its first attempts, plus 50 at most that were saved up, plus one
/// every 10 s, plus two for each retry that succeeded. Failures of the platform are not the dependency's and cost
/// nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct RetryBudgets(Arc<Mutex<Budgets>>);

#[derive(Debug)]
struct Budgets {
    of: HashMap<FunctionName, Budget>,
    /// How many there are when it is time to forget some.
    too_many: usize,
}

impl Default for Budgets {
    fn default() -> Self {
        Self { of: HashMap::new(), too_many: MANY }
    }
}

impl RetryBudgets {
    /// An event of the function had its first attempt.
    pub(crate) fn first_attempt(&self, function: &FunctionName) {
        self.change(function, |budget| budget.earn(PER_FIRST_ATTEMPT));
    }

    /// A retry succeeded.
    pub(crate) fn retry_succeeded(&self, function: &FunctionName) {
        self.change(function, |budget| budget.earn(PER_SUCCESS));
    }

    /// Pays for a retry, if there is enough.
    pub(crate) fn pay(&self, function: &FunctionName) -> bool {
        self.change(function, Budget::pay)
    }

    fn change<T>(&self, function: &FunctionName, change: impl FnOnce(&mut Budget) -> T) -> T {
        let now = Instant::now();
        let mut budgets = self.lock();
        if let Some(budget) = budgets.of.get_mut(function) {
            budget.grow(now);
            return change(budget);
        }
        if budgets.of.len() >= budgets.too_many {
            budgets.of.retain(|_, budget| !budget.is_as_new(now));
            // Not again for each function that comes, if they are all in use.
            budgets.too_many = MANY.max(budgets.of.len() * 2);
        }
        change(budgets.of.entry(function.clone()).or_insert_with(|| Budget::new(now)))
    }

    fn lock(&self) -> MutexGuard<'_, Budgets> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pause of an event whose retry could not be paid for `denials` times in a row (from 1): from 1 s to 60 s, halved at
/// most by `jitter`, from 0 to 1.
pub(crate) fn denial_pause(denials: u32, jitter: f64) -> Duration {
    let full = PAUSES.0.saturating_mul(1 << denials.saturating_sub(1).min(6)).min(PAUSES.1);
    full.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0)
}

#[derive(Debug)]
struct Budget {
    retries: f64,
    /// Up to when it has grown.
    grown: Instant,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self { retries: RESERVE, grown: now }
    }

    fn grow(&mut self, now: Instant) {
        let idle = now.saturating_duration_since(self.grown);
        self.grown = now;
        if self.retries < RESERVE {
            self.retries = (self.retries + idle.div_duration_f64(GROWTH)).min(RESERVE);
        }
    }

    fn is_as_new(&self, now: Instant) -> bool {
        // Growing by the reserve takes less.
        now.saturating_duration_since(self.grown) >= FORGOTTEN
    }

    fn earn(&mut self, retries: f64) {
        self.retries = (self.retries + retries).min(CAPACITY);
    }

    fn pay(&mut self) -> bool {
        let has_enough = self.retries >= 1.0;
        if has_enough {
            self.retries -= 1.0;
        }
        has_enough
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::cases;

    #[derive(Debug, Clone, Copy)]
    enum Step {
        First,
        Pay,
        Succeed,
        Idle(u64),
    }

    /// Steps from numbers: these are cheaper to generate than steps, by far.
    fn step(number: u16) -> Step {
        let [kind, idle] = number.to_be_bytes();
        match kind % 12 {
            0..=3 => Step::First,
            4..=9 => Step::Pay,
            10 => Step::Succeed,
            _ => Step::Idle((idle % 40).into()),
        }
    }

    proptest! {
        #![proptest_config(cases())]

        #[test]
        fn retries_are_bounded_by_what_was_earned(steps in prop::collection::vec(any::<u16>(), 0..200)) {
            let mut now = Instant::now();
            let mut budget = Budget::new(now);
            let (mut paid, mut first, mut succeeded, mut idle) = (0.0, 0.0, 0.0, 0.0);
            for number in steps {
                budget.grow(now);
                match step(number) {
                    Step::First => { budget.earn(PER_FIRST_ATTEMPT); first += 1.0; }
                    Step::Succeed => { budget.earn(PER_SUCCESS); succeeded += 1.0; }
                    Step::Idle(seconds) => { now += Duration::from_secs(seconds); idle += seconds as f64; }
                    Step::Pay => if budget.pay() { paid += 1.0 },
                }
                prop_assert!((0.0..=CAPACITY).contains(&budget.retries));
                let most = RESERVE + first * PER_FIRST_ATTEMPT + succeeded * PER_SUCCESS + idle / 10.0;
                prop_assert!(paid <= most + 1e-6, "{paid} of {most}");
            }
        }

        #[test]
        fn a_dead_dependency_costs_at_most_a_fifth_more(events in 1_500u32..5_000, per_second in 10u32..1_000) {
            // Every event fails for as long as it may, on a budget that had been filled to the brim.
            let mut now = Instant::now();
            let mut budget = Budget { retries: CAPACITY, grown: now };
            let mut attempts = 0;
            for _ in 0..events {
                now += Duration::from_secs(1) / per_second;
                budget.grow(now);
                budget.earn(PER_FIRST_ATTEMPT);
                attempts += 1;
                while budget.pay() {
                    attempts += 1;
                }
            }
            prop_assert!(f64::from(attempts) <= f64::from(events) * 1.2 + 1.0, "{attempts} for {events}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_function_has_its_own_and_what_waits_runs_at_last() {
        let budgets = RetryBudgets::default();
        let function = |template: &str| format!("accounts/acme/functions/{template}").parse().unwrap();
        let (one, other) = (function("chat.start"), function("chat.end"));
        let spend = |name| std::iter::repeat_with(|| budgets.pay(name)).take_while(|paid| *paid).count();
        assert_eq!(spend(&one), 10);
        assert_eq!(spend(&other), 10);
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(spend(&one), 3);
        budgets.retry_succeeded(&one);
        assert_eq!(spend(&one), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn those_of_functions_that_are_idle_are_forgotten() {
        let budgets = RetryBudgets::default();
        let begin = |numbers: std::ops::Range<usize>| {
            for number in numbers {
                budgets.first_attempt(&format!("accounts/a{number}/functions/chat.start").parse().unwrap());
            }
            budgets.lock().of.len()
        };
        assert_eq!(begin(0..MANY + 1), MANY + 1, "all are in use");
        tokio::time::advance(FORGOTTEN).await;
        assert_eq!(begin(MANY + 1..2 * MANY), 2 * MANY, "there is no need yet");
        assert_eq!(begin(2 * MANY..2 * MANY + 1), MANY, "those that are in use stay");
    }

    #[test]
    fn pauses_grow_to_a_minute() {
        let pauses: Vec<u64> = (1..9).map(|denials| denial_pause(denials, 0.0).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(denial_pause(u32::MAX, 1.0), Duration::from_secs(30));
    }
}
