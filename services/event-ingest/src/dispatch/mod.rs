//! Runs the events of the lanes that this process holds.
//!
//! [`run_lane`] is the life of one lane: it reads events, asks `queue` what may run, the [`Gate`] for
//! leave, the [`Journal`] to count the attempt durably, the invoker to run it, and `decide` what follows; for a retry,
//! [`RetryBudgets`] has the last word. What operators ask for ([`Interventions`]) it does, too.

mod budget;
mod decide;
mod gate;
mod heads;
mod interventions;
mod invoke;
mod journal;
mod lane;
mod notices;
mod per_lane;
mod queue;
mod recent;
mod turns;

#[cfg(test)]
pub(crate) use self::recent::After;
pub(crate) use self::{
    budget::RetryBudgets,
    gate::Gate,
    heads::Heads,
    interventions::Interventions,
    invoke::Invoker,
    journal::Journal,
    lane::{Ended, Shared, run_lane},
    notices::Notices,
    recent::Piece,
};
