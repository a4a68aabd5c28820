//! The sandbox as its callers see it.

mod isolation;
mod language;
mod limits;
mod modules;
mod prepare;
mod support;
