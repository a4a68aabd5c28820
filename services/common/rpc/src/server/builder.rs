//! Puts a server together.

use std::{fmt::Display, future::Future, time::Instant};

use chatfn_telemetry::{Metrics, Traces};
use http::{Request, Response};
use tokio_util::sync::CancellationToken;
use tonic::{body::Body, server::NamedService, service::RoutesBuilder};
use tonic_health::server::{HealthReporter, HealthService};
use tower_service::Service;

use super::{
    Health, ServeError, Server, ServerConfig,
    stack::{self, Layers},
};
use crate::{
    Security,
    layers::scope::{Handling, Scopes},
    method::{MethodPolicy, Methods},
    metrics::ServerMetrics,
    security::access::{HEALTH, REFLECTION},
};

/// Largest message to health and reflection: names of services and symbols.
const MAX_OPEN_BYTES: usize = 4 * 1024;

/// Collects the services of a [`Server`].
#[derive(Debug)]
pub struct ServerBuilder {
    config: ServerConfig,
    security: Security,
    traces: Traces,
    routes: RoutesBuilder,
    services: Vec<&'static str>,
    descriptors: Vec<&'static [u8]>,
    methods: Methods,
    metrics: Metrics,
    scopes: Scopes,
}

impl ServerBuilder {
    pub(super) fn new(config: ServerConfig) -> Self {
        let mut methods = Methods::default();
        // Probes and tools must get through when nothing else does, and must not hold up a shutdown.
        let probe = MethodPolicy::standard().without_admission().ended_on_drain();
        methods.set(HEALTH, probe);
        methods
            .set("grpc.health.v1.Health/Watch", MethodPolicy::long_lived().admitted_apart().ended_on_drain());
        for service in REFLECTION {
            methods.set(service, MethodPolicy::long_lived().admitted_apart().ended_on_drain());
        }
        Self {
            config,
            security: Security::none(),
            traces: Traces::off(),
            routes: RoutesBuilder::default(),
            services: Vec::new(),
            descriptors: Vec::new(),
            methods,
            metrics: Metrics::new(),
            scopes: Scopes::default(),
        }
    }

    /// Where the server counts; without it nobody sees.
    #[must_use]
    pub fn metrics(mut self, metrics: &Metrics) -> Self {
        self.metrics = metrics.clone();
        self
    }

    /// How callers prove who they are; without it they are anonymous, and come from this machine.
    #[must_use]
    pub fn security(mut self, security: Security) -> Self {
        self.security = security;
        self
    }

    /// Where calls are recorded; without it, nowhere.
    #[must_use]
    pub fn traces(mut self, traces: Traces) -> Self {
        self.traces = traces;
        self
    }

    /// Adds a generated service. Its name appears in health. Give it the message limits of
    /// [`MAX_MESSAGE_BYTES`](crate::MAX_MESSAGE_BYTES).
    #[must_use]
    pub fn service<S>(mut self, service: S) -> Self
    where
        S: Service<Request<Body>, Response = http::Response<Body>, Error = std::convert::Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.services.push(S::NAME);
        self.routes.add_service(service);
        self
    }

    /// Adds an encoded `FileDescriptorSet`. Reflection describes all that it holds, and lists the services
    /// that this server has.
    #[must_use]
    pub fn descriptors(mut self, encoded: &'static [u8]) -> Self {
        self.descriptors.push(encoded);
        self
    }

    /// Gives `package.Service/Method`, or all of `package.Service`, rules of its own.
    #[must_use]
    pub fn policy(mut self, name: &str, policy: MethodPolicy) -> Self {
        self.methods.set(name, policy);
        self
    }

    /// Has the handlers of `package.Service`, for calls that have a deadline, polled by `within`. It gets when what they use must be
    /// over, and a little later, when they are to be given up, and says then why: their caller is told, with DEADLINE_EXCEEDED. For
    /// the time that statements take at a database, for instance.
    #[must_use]
    pub fn handlers_within<F, E>(
        mut self,
        service: &'static str,
        within: impl Fn(Instant, Instant, Handling) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<Response<Body>, E>> + Send + 'static,
        E: Display,
    {
        self.scopes.set(service, within);
        self
    }

    /// Adds health and reflection (v1 and v1alpha), and composes the layers.
    ///
    /// # Errors
    /// The settings contradict one another, a descriptor set cannot be decoded, or a policy names a service
    /// that this server does not have.
    pub async fn build(mut self) -> Result<Server, ServeError> {
        self.config.validate()?;
        self.check_policies()?;

        let reporter = HealthReporter::new();
        let health = HealthService::from_health_reporter(reporter.clone());
        let health = tonic_health::pb::health_server::HealthServer::new(health);
        // Whoever reaches this server may call these, and its limit of calls does not count them: a message must not take much.
        self.routes.add_service(health.max_decoding_message_size(MAX_OPEN_BYTES));
        self.routes.add_service(self.reflection().build_v1()?.max_decoding_message_size(MAX_OPEN_BYTES));
        self.routes.add_service(self.reflection().build_v1alpha()?.max_decoding_message_size(MAX_OPEN_BYTES));
        let services: Vec<_> = self.services.iter().copied().chain([HEALTH]).chain(REFLECTION).collect();
        let platform = [
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        let described: Vec<_> = self.descriptors.iter().copied().chain(platform).collect();
        let metrics = ServerMetrics::new(&self.metrics, &services, &described);
        let health = Health::new(reporter, self.services.clone()).await;

        let (draining, cutting) = (CancellationToken::new(), CancellationToken::new());
        let layers = Layers {
            security: self.security.clone(),
            traces: self.traces,
            methods: self.methods,
            services: self.services.clone(),
            scopes: self.scopes,
            draining: draining.clone(),
            cutting: cutting.clone(),
            metrics: metrics.clone(),
        };
        let (stack, permits) = stack::compose(self.routes.routes(), &self.config, layers);
        ServerMetrics::watch_permits(&self.metrics, permits);
        Ok(Server { config: self.config, stack, security: self.security, health, draining, cutting, metrics })
    }

    fn reflection(&self) -> tonic_reflection::server::Builder<'static> {
        let builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET)
            // So that grpcurl shows the details of errors.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
            .include_reflection_service(false);
        // A set may hold the whole contract: what is listed is what can be called here.
        let own = self.services.iter().chain([&HEALTH]).chain(&REFLECTION);
        let builder = own.fold(builder, |builder, name| builder.with_service_name(*name));
        self.descriptors
            .iter()
            .fold(builder, |builder, set| builder.register_encoded_file_descriptor_set(set))
    }

    /// A policy with a typing error would silently not apply.
    fn check_policies(&self) -> Result<(), ServeError> {
        for name in self.methods.names().chain(self.scopes.services()) {
            let service = name.split_once('/').map_or(name, |(service, _)| service);
            let known =
                self.services.contains(&service) || service == HEALTH || REFLECTION.contains(&service);
            if !known {
                return Err(ServeError::UnknownService { policy: name.to_owned() });
            }
        }
        Ok(())
    }
}
