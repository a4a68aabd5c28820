//! Thin handlers.

mod convert;
mod delivery;
mod ledger;
mod page;
mod publish;
mod replay;
mod stream;
mod tail;

pub(crate) use self::{
    delivery::DeliveryHandler, publish::PublishHandler, replay::ReplayHandler, tail::Tails,
};
