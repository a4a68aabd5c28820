//! The addresses of a server's name, in another order each time.

use std::{
    io,
    net::SocketAddr,
    task::{Context, Poll},
    vec,
};

use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use rand::seq::SliceRandom as _;
use tower_service::Service;

use crate::layers::BoxFuture;

/// Asks the system anew for each connection, so that replicas that have come since are found, and those that have left are
/// not. A headless Service of Kubernetes has the addresses of all replicas; the connections of all clients spread over
/// them, because each begins with another one. Those that cannot be reached are passed over.
#[derive(Clone, Debug)]
pub(super) struct Shuffled<R = GaiResolver>(R);

impl Shuffled {
    pub(super) fn new() -> Self {
        Self(GaiResolver::new())
    }
}

impl<R> Service<Name> for Shuffled<R>
where
    R: Service<Name, Response: Iterator<Item = SocketAddr>, Error = io::Error, Future: Send + 'static>,
{
    type Response = vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = BoxFuture<io::Result<Self::Response>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let resolving = self.0.call(name);
        Box::pin(async move {
            let mut addresses: Vec<_> = resolving.await?.collect();
            addresses.shuffle(&mut rand::rng());
            Ok(addresses.into_iter())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use futures_util::future::{Ready, ready};

    use super::*;

    struct Fixed(Vec<SocketAddr>);

    impl Service<Name> for Fixed {
        type Response = vec::IntoIter<SocketAddr>;
        type Error = io::Error;
        type Future = Ready<io::Result<Self::Response>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Name) -> Self::Future {
            ready(Ok(self.0.clone().into_iter()))
        }
    }

    #[tokio::test]
    async fn every_replica_comes_first_sometimes_and_none_is_lost() {
        let all: Vec<SocketAddr> = (1..=3).map(|n| SocketAddr::from(([10, 0, 0, n], 50_051))).collect();
        let mut resolver = Shuffled(Fixed(all.clone()));
        let mut first = HashSet::new();
        // That one of three is not among the first ones has a probability of 3 * (2/3)^500.
        for _ in 0..500 {
            let mut found: Vec<_> = resolver.call("replicas".parse().unwrap()).await.unwrap().collect();
            first.insert(found[0]);
            found.sort();
            assert_eq!(found, all);
        }
        assert_eq!(first.len(), all.len());
    }
}
