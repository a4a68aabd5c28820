//! Thin handlers.

mod convert;
mod delivery;
mod page;
mod publish;

pub(crate) use self::{delivery::DeliveryHandler, publish::PublishHandler};
