//! Who runs which lane: leases that every replica renews, gives up and takes over.
//!
//! [`share`] decides how many lanes a replica should hold, [`Lease`] is the proof of holding one, and
//! [`Manager`] keeps both true.

mod lease;
mod manager;
mod share;

pub(crate) use self::{
    lease::{Lease, LeaseTerms},
    manager::Manager,
};
