//! The last line.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use crate::{
    checker::{Invariant, Verdict},
    plan::Hurt,
};

/// What a run came to, for machines.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Whether every invariant held and every mutant was caught.
    pub passed: bool,
    /// Seed of the load and of what is chosen by chance. The order of events among processes is not in it.
    pub seed: u64,
    /// How long it took.
    pub seconds: u64,
    /// Processes ended by SIGKILL.
    pub kills: u64,
    /// Faults injected, kills included.
    pub faults: u64,
    /// Faults that could not be, and what they lack.
    pub left_out: Vec<String>,
    /// Events acknowledged.
    pub acked: usize,
    /// Events of which nobody knows whether they were.
    pub unknown: usize,
    /// Calls at the witness.
    pub effects: usize,
    /// Those beyond the first of their kind, with the key of the first.
    pub repeated_effects: usize,
    /// I1.
    pub lost: usize,
    /// I2.
    pub invented: usize,
    /// I3.
    pub duplicated_effects_with_other_key: usize,
    /// I4.
    pub reordered: usize,
    /// I5.
    pub stale_writes: usize,
    /// I6.
    pub leaked: usize,
    /// I7.
    pub started_late: usize,
    /// I8.
    pub beyond_bounds: usize,
    /// I9.
    pub unrecovered: usize,
    /// I10.
    pub wrong_attempts: usize,
    /// I11: conversations in which several ran, or none.
    pub wrong_firings: usize,
    /// I12.
    pub wrong_outcomes: usize,
    /// Events whose attempts were used up.
    pub dead_letters: usize,
    /// Events whose time was up.
    pub expired: usize,
    /// Events of conversations in which their template had fired.
    pub suppressed: usize,
    /// Events that were acknowledged over streams.
    pub streamed: usize,
    /// Events that halted their conversation until they were skipped.
    pub skipped: usize,
    /// Events that halted their conversation, and of which an operator was told that they are resumed.
    pub resumed: usize,
    /// From the end of a fault until conversations all over the lanes are served.
    pub recovery_p50_s: f64,
    /// The same.
    pub recovery_p99_s: f64,
    /// The same.
    pub recovery_max_s: f64,
    /// The longest of each kind of fault …
    pub recovery_worst_s: BTreeMap<Hurt, f64>,
    /// … and how long those may take on a machine that has nothing else to do, where somebody said.
    pub recovery_limit_s: BTreeMap<Hurt, f64>,
    /// Mistakes that were found …
    pub mutants_caught: usize,
    /// … of those that were made.
    pub mutants: usize,
}

impl Report {
    /// Adds what a run came to.
    pub fn add(&mut self, verdict: &Verdict) {
        self.acked += verdict.acknowledged;
        self.unknown += verdict.unknown;
        self.effects += verdict.effects;
        self.repeated_effects += verdict.repeated_effects;
        self.dead_letters += verdict.dead_letters;
        self.expired += verdict.expired;
        self.suppressed += verdict.suppressed;
        self.streamed += verdict.streamed;
        self.skipped += verdict.skipped;
        self.resumed += verdict.resumed;
        for (sum, invariant) in [
            (&mut self.lost, Invariant::NothingLost),
            (&mut self.invented, Invariant::NothingInvented),
            (&mut self.duplicated_effects_with_other_key, Invariant::SameKey),
            (&mut self.reordered, Invariant::Order),
            (&mut self.stale_writes, Invariant::NoStaleWrite),
            (&mut self.leaked, Invariant::NothingLeaks),
            (&mut self.started_late, Invariant::InTime),
            (&mut self.beyond_bounds, Invariant::Bounded),
            (&mut self.unrecovered, Invariant::Recovers),
            (&mut self.wrong_attempts, Invariant::ExactAttempts),
            (&mut self.wrong_firings, Invariant::FiresOnce),
            (&mut self.wrong_outcomes, Invariant::FittingOutcome),
        ] {
            *sum += verdict.count(invariant);
        }
    }

    /// Whether every fault could be injected; if that is not to be strict, what the machine lacks is no reason to fail.
    pub fn has_all_faults(&self, is_strict: bool) -> bool {
        self.left_out.is_empty() || !is_strict
    }

    /// Whether all kinds of events were among what was published: what was not there cannot have been broken.
    pub fn has_all_kinds(&self) -> bool {
        let counts = [
            self.acked,
            self.effects,
            self.dead_letters,
            self.suppressed,
            self.streamed,
            self.skipped,
            self.resumed,
        ];
        counts.iter().all(|count| *count > 0)
    }

    /// Adds how long recoveries took.
    pub fn recoveries(&mut self, recoveries: &[(Hurt, Duration)]) {
        let mut sorted: Vec<Duration> = recoveries.iter().map(|(_, took)| *took).collect();
        sorted.sort();
        let at = |share: f64| {
            let index = (sorted.len() as f64 * share).ceil() as usize;
            sorted.get(index.saturating_sub(1)).map_or(0.0, seconds)
        };
        (self.recovery_p50_s, self.recovery_p99_s, self.recovery_max_s) = (at(0.5), at(0.99), at(1.0));
        for (hurt, took) in recoveries {
            let worst = self.recovery_worst_s.entry(*hurt).or_default();
            *worst = worst.max(seconds(took));
            if let Some(limit) = hurt.limit() {
                self.recovery_limit_s.insert(*hurt, seconds(&limit));
            }
        }
    }
}

/// With three decimals.
fn seconds(duration: &Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_measured() {
        let mut report = Report::default();
        let kill = |took| (Hurt::Kill, Duration::from_secs(took));
        report.recoveries(&(1..=100).rev().map(kill).collect::<Vec<_>>());
        assert_eq!(
            (report.recovery_p50_s, report.recovery_p99_s, report.recovery_max_s),
            (50.0, 99.0, 100.0)
        );
        report.recoveries(&[]);
        assert_eq!(report.recovery_p99_s, 0.0);
    }

    #[test]
    fn the_worst_of_each_kind_is_told_beside_its_limit() {
        let mut report = Report::default();
        let recoveries =
            [(Hurt::Kill, 3_100), (Hurt::Clock, 20), (Hurt::Kill, 900), (Hurt::HalfOpen, 12_000)];
        report.recoveries(&recoveries.map(|(hurt, took)| (hurt, Duration::from_millis(took))));
        let told = serde_json::to_value(&report).unwrap();
        let worst = serde_json::json!({"kill": 3.1, "half_open": 12.0, "clock": 0.02});
        assert_eq!(told["recovery_worst_s"], worst);
        assert_eq!(told["recovery_limit_s"], serde_json::json!({"kill": 3.0, "half_open": 15.0}));
    }

    #[test]
    fn what_the_machine_lacks_fails_where_that_is_to_be_strict() {
        let mut report = Report::default();
        assert!(report.has_all_faults(true));
        report.left_out.push("clocks".to_owned());
        assert!(report.has_all_faults(false) && !report.has_all_faults(true));
    }
}
