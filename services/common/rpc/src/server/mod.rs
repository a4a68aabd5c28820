//! The one way to serve gRPC.

mod bind;
mod builder;
pub(crate) mod call_task;
mod config;
mod connection;
mod health;
mod peers;
mod serve;
mod stack;

pub use bind::{BindError, bind, require_loopback};
pub use builder::ServerBuilder;
pub use config::{ConfigError, ServerConfig};
pub use health::Health;
pub use serve::{Drained, ServeError, Server};
