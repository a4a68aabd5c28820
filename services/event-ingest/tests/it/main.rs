//! event-ingest as its callers see it: real servers, one or several on one real Postgres, with an invoker on a
//! real socket that answers as each test says.
//!
//! Everything is seen through the contract and through what the invoker was asked; tests touch the database only to
//! get in the service's way (locks, a stolen lane) and to see what nobody is told: who holds which lane, and what is stored.

mod bad_events;
mod budget;
mod deadlines;
mod details;
mod earlier;
mod fairness;
mod fencing;
mod growth;
mod halted;
mod harness;
mod invoker;
mod invoker_faults;
mod latch;
mod ledger;
mod lists;
mod messages;
mod notices;
mod obstacle;
mod operators;
mod order;
mod outage;
mod outcomes;
mod overload;
mod publish;
mod publisher;
mod replays;
mod replicas;
mod retention;
mod retries;
mod skills;
mod streams;
mod tail;
