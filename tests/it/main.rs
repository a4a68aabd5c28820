//! Black-box tests of the running cluster.

mod bad_input;
mod faults;
mod isolation;
mod main_job;
mod surface;
mod uniqueness;
