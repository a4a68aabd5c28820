//! Mistakes that event-ingest can be told to make, each with a fault that brings it to light. What the checker does not find
//! in them it would not find in the service.

use std::{path::Path, time::Duration};

use crate::{
    checker::{Invariant, Verdict, check},
    history::Template,
    places::Places,
    plan::{Passed, Run},
};

/// A mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mutant {
    /// As the service knows it.
    pub name: &'static str,
    /// What it breaks.
    pub breaks: Invariant,
    fault: Fault,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill(&'static str),
    Halt(&'static str),
    CrashAttempts,
    /// None, but as long as something takes to be tried again, …
    Retry,
    /// … or such events to be published.
    Publish(Template),
}

/// All of them.
pub const MUTANTS: [Mutant; 8] = [
    Mutant {
        name: "ack_before_commit",
        breaks: Invariant::NothingLost,
        fault: Fault::Kill("commit.acknowledged"),
    },
    Mutant {
        name: "no_epoch_check",
        breaks: Invariant::NoStaleWrite,
        fault: Fault::Halt("journal.collected"),
    },
    Mutant {
        name: "cursor_before_outcome",
        breaks: Invariant::NothingLost,
        fault: Fault::Kill("attempt.counted"),
    },
    Mutant { name: "attempts_in_memory", breaks: Invariant::ExactAttempts, fault: Fault::CrashAttempts },
    Mutant { name: "no_latch", breaks: Invariant::FiresOnce, fault: Fault::Publish(Template::Once) },
    Mutant { name: "no_halt", breaks: Invariant::Order, fault: Fault::Publish(Template::Halting) },
    Mutant {
        name: "success_as_failure",
        breaks: Invariant::FittingOutcome,
        // Of these, few failures are enough to be dead.
        fault: Fault::Publish(Template::Poison),
    },
    Mutant { name: "random_key", breaks: Invariant::SameKey, fault: Fault::Retry },
];

impl Mutant {
    /// What the checker says of a cluster that makes this mistake.
    ///
    /// # Errors
    /// The run cannot be made.
    pub async fn run(&self, program: &Path, parent: &Path, seed: u64) -> anyhow::Result<Verdict> {
        let places = Places::new(program, parent, Some(self.name))?;
        let mut run = Run::start(&places, seed).await?;
        match self.fault {
            Fault::Kill(edge) => {
                // More than once: what is on its way at that moment is chance.
                for _ in 0..3 {
                    run.kill_at(edge, Passed::ByLoad(10)).await?;
                }
            }
            Fault::Halt(edge) => run.halt_at(edge, 3.0).await?,
            Fault::CrashAttempts => run.crash_attempts().await?,
            Fault::Retry => run.retried().await?,
            Fault::Publish(template) => run.published(template).await?,
        }
        // What is lost stays lost: that is not worth a minute.
        let history = run.end(&places.folder, Duration::from_secs(10)).await?;
        places.release()?;
        Ok(check(&history))
    }

    /// Whether it was found.
    pub fn is_caught(&self, verdict: &Verdict) -> bool {
        verdict.count(self.breaks) > 0
    }
}
