//! The server and the client of `chatfn-rpc` against each other, against raw HTTP/2, and against peers that
//! misbehave. No test waits for time to pass: each waits for the condition itself, under a limit of a minute
//! that only a broken build reaches.

mod age;
mod client;
mod deadlines;
mod drain;
mod health;
mod hostile;
mod overload;
mod resend;
mod streams;
mod support;
mod trace;
