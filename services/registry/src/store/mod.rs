//! All SQL of the registry, in the schema `registry` (`migrations/0001_registry.sql` and those after it).
//!
//! Whoever changes anything of a function, its versions and its deployment included, holds the lock on the
//! function's row; the revision of the deployments is locked after it. Before all of that comes the claim of a request's
//! id, so that a repetition waits and holds nothing that the request it repeats may need.

pub(crate) mod audit;
pub(crate) mod deployments;
pub(crate) mod functions;
pub(crate) mod requests;
pub(crate) mod secrets;
pub(crate) mod versions;

/// A row's time as microseconds since 1970, for the wire.
pub(crate) fn timestamp(micros: i64) -> prost_types::Timestamp {
    let nanos = i32::try_from(micros.rem_euclid(1_000_000)).expect("below a million") * 1_000;
    prost_types::Timestamp { seconds: micros.div_euclid(1_000_000), nanos }
}
