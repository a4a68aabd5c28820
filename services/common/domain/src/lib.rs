//! The vocabulary and rules of chatfn as plain types: no runtime, no wire format, no database.
//!
//! Promises: a value of a type in here is valid (names parse, settings lie within their limits), and
//! each rule of the system is decided in exactly one of these modules:
//!
//! | module | decides |
//! |---|---|
//! | [`name`] | how accounts, functions, events and conversations are named |
//! | [`settings`] | what a function may be set to, and its defaults |
//! | [`function`] | the state of a function; the digest of a version |
//! | [`host`] | which hosts a lambda may call |
//! | [`retry`] | whether and when a failed run is tried again, and what follows when it is not |
//! | [`event`] | which payloads are well-formed; idempotency keys |
//! | [`skill`] | which skill an event is about |
//! | [`lane`] | on which lane a conversation runs |
//! | [`shares`] | how something bounded is divided among accounts |
//! | [`caller`] | who makes a call, and whose things it may name |

pub mod caller;
pub mod event;
pub mod function;
pub mod host;
pub mod lane;
pub mod name;
pub mod reasons;
pub mod retry;
pub mod settings;
pub mod shares;
pub mod skill;
