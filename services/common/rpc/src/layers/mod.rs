//! The server's layers, one per file. `server/stack.rs` composes them, in the one order that works.

pub(crate) mod account_share;
pub(crate) mod admission;
pub(crate) mod authentication;
pub(crate) mod catch_panic;
pub(crate) mod deadline;
pub(crate) mod request_bytes;
pub(crate) mod scope;
pub(crate) mod trace;
pub(crate) mod unknown_method;

use std::{convert::Infallible, future::Future, pin::Pin};

use http::{Request, Response};
use tonic::{Status, body::Body};
use tower_service::Service;

/// What all layers take and give. No layer fails: an error is a response with a gRPC status.
pub(crate) trait Layered:
    Service<
        Request<Body>,
        Response = Response<Body>,
        Error = Infallible,
        Future: Future<Output = Answer> + Send + 'static,
    > + Clone
    + Send
    + 'static
{
}

impl<S> Layered for S where
    S: Service<
            Request<Body>,
            Response = Response<Body>,
            Error = Infallible,
            Future: Future<Output = Answer> + Send + 'static,
        > + Clone
        + Send
        + 'static
{
}

pub(crate) type Answer = Result<Response<Body>, Infallible>;
pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A response that consists of a status alone.
pub(crate) fn refuse(status: impl Into<Status>) -> Response<Body> {
    status.into().into_http()
}
