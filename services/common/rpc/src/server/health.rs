//! The gRPC health of a server.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tonic_health::{ServingStatus, server::HealthReporter};

/// What `grpc.health.v1` says about a server: the same for the server as a whole (`""`) and for each of
/// its services. NOT_SERVING until told otherwise.
#[derive(Clone, Debug)]
pub struct Health {
    reporter: HealthReporter,
    services: Arc<[&'static str]>,
    is_ready: Arc<AtomicBool>,
}

impl Health {
    pub(super) async fn new(reporter: HealthReporter, services: Vec<&'static str>) -> Self {
        let health = Self { reporter, services: services.into(), is_ready: Arc::default() };
        // tonic-health starts the server as a whole as SERVING.
        health.set_not_ready().await;
        health
    }

    /// From now on SERVING: call it when everything that calls need is there.
    pub async fn set_ready(&self) {
        self.is_ready.store(true, Ordering::Relaxed);
        self.set(ServingStatus::Serving).await;
    }

    /// From now on NOT_SERVING: calls are still answered, but load balancers should send none.
    pub async fn set_not_ready(&self) {
        self.is_ready.store(false, Ordering::Relaxed);
        self.set(ServingStatus::NotServing).await;
    }

    /// Whether it says SERVING.
    pub fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Relaxed)
    }

    async fn set(&self, status: ServingStatus) {
        for service in self.services.iter().copied().chain([""]) {
            self.reporter.set_service_status(service, status).await;
        }
    }
}
