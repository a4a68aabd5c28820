//! The sandbox as its callers see it.

mod cpu;
mod crash;
mod intl;
mod language;
mod logs;
mod memory;
mod modules;
mod operations;
mod output;
mod pollution;
mod prepare;
mod promises;
mod slots;
mod source;
mod stack;
mod state;
mod support;
mod timers;
mod toolbelt;
mod toolbelt_http;
mod traces;
mod typescript;
mod web;
