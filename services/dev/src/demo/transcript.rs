//! How the demo prints: numbered steps, facts below them.

use std::{fmt::Display, time::Instant};

/// The transcript on standard output.
pub(crate) struct Transcript {
    started: Instant,
    step: u32,
}

impl Transcript {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), step: 0 }
    }

    /// Starts a step.
    pub(crate) fn step(&mut self, title: impl Display) {
        self.step += 1;
        println!("\n{}. {title}  [{:.1} s]", self.step, self.started.elapsed().as_secs_f64());
    }

    /// States a fact.
    pub(crate) fn fact(&self, name: &str, value: impl Display) {
        println!("   {name:<18} {value}");
    }
}
