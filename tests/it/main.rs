//! Black-box tests of the running cluster.

mod actors;
mod bad_input;
mod certificates;
mod egress_policy;
mod faults;
mod health;
mod identity;
mod interop;
mod isolation;
mod main_job;
mod metrics;
mod monitoring;
mod restore;
mod rolling;
mod settings;
mod snapshot;
mod surface;
mod templates;
mod traces;
mod uniqueness;
mod unreadable;
mod upgrade;
mod walkthrough;
