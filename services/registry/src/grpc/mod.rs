//! The services of the contract: thin handlers that check, call and translate.

mod audit;
mod function;
mod secret;
mod template;
mod watch;
pub(crate) mod wire;

pub(crate) use self::{
    audit::AuditHandler,
    function::FunctionHandler,
    secret::{SecretAccessHandler, SecretHandler},
    template::TemplateHandler,
    watch::WatchHandler,
};
