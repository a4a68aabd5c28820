//! Runs the events of the lanes that this process holds.
//!
//! [`run_lane`] is the life of one lane: it reads events, asks `queue` what may run, the [`Gate`] for
//! leave, the [`Journal`] to count the attempt durably, the invoker to run it, and `decide` what follows.

mod decide;
mod gate;
mod heads;
mod invoke;
mod journal;
mod lane;
mod queue;

pub(crate) use self::{
    gate::Gate,
    heads::Heads,
    invoke::Invoker,
    journal::Journal,
    lane::{Ended, Shared, run_lane},
};
