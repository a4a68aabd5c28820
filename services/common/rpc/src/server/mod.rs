//! The one way to serve gRPC.

mod bind;
mod builder;
pub(crate) mod call_task;
mod config;
mod connection;
mod handshake;
mod health;
mod peers;
mod refused;
mod serve;
mod stack;

use bind::require_loopback;
pub use bind::{BindError, bind, check_listen};
pub use builder::ServerBuilder;
pub use call_task::reset_token;
pub use config::{ConfigError, ServerConfig};
pub use health::Health;
pub use serve::{Drained, ServeError, Server};
