//! Hurts a cluster of real processes while clients publish, and checks afterwards what a witness saw.
//!
//! | module | part |
//! |---|---|
//! | `plan` | the faults: what is killed, halted, filled up, cut off |
//! | `cluster`, `process`, `database`, `proxy` | what is hurt |
//! | `load` | clients, which write down what they ask and what they are told |
//! | `witness` | a process of its own that lambdas call, and that writes down what it sees |
//! | `checker` | pure: whether what clients and witness wrote down keeps the promises |
//! | `mutants` | the same with mistakes that the checker must find |
//!
//! `docs/FAULTS.md` says what is injected and how to read the last line. Run it with `make faults`.

pub mod checker;
pub mod cluster;
pub mod database;
pub mod history;
pub mod load;
pub mod mutants;
pub mod places;
pub mod plan;
pub mod process;
pub mod proxy;
pub mod report;
pub mod witness;
