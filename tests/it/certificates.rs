//! Certificates that expire while they are in use.

use std::time::{Duration, SystemTime};

use chatfn_proto::registry::v1::{
    WatchDeploymentsRequest, WatchStart, deployment_watch_service_client::DeploymentWatchServiceClient,
    watch_deployments_request::Message,
};
use chatfn_rpc::{ErrorReport, RequestExt as _, Service::Invoker};
use chatfn_tests::{
    cluster::Cluster,
    eventually,
    identities::{Call, Identities},
};
use futures_util::{StreamExt as _, stream};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tonic::{Code, Request};

use crate::identity::end;

/// An invoker whose certificates expire soon after they were made.
struct Expiring {
    identities: Identities,
    authority: Issuer<'static, KeyPair>,
}

impl Expiring {
    /// Of an authority that the services of these identities will trust, too.
    fn trusted_by(others: &Identities) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate").pem();
        let authorities = [others.read("ca.crt"), certificate.into_bytes()].concat();
        let identities = Identities::make();
        others.replace("ca.crt", &authorities);
        identities.replace("ca.crt", &authorities);
        Self { identities, authority: Issuer::new(params, key) }
    }

    /// Calls with a certificate that is valid for so long.
    fn call(&self, valid_for: Duration) -> Call {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.subject_alt_names.push(SanType::URI("spiffe://chatfn/invoker".try_into().expect("ASCII")));
        params.not_after = (SystemTime::now() + valid_for).into();
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.authority).expect("a certificate");
        self.identities.replace("invoker.key", key.serialize_pem().as_bytes());
        self.identities.replace("invoker.crt", certificate.pem().as_bytes());
        self.identities.service(Invoker)
    }
}

/// A watch goes on for as long as its caller may watch, and no longer.
#[tokio::test]
async fn a_watch_ends_when_its_certificate_expires() {
    let identities = Identities::make();
    let expiring = Expiring::trusted_by(&identities);
    let cluster = Cluster::start_secure(&identities).await;
    // On a slow machine it may have expired before it is used.
    let mut watch = eventually("the deployments are watched", async || {
        let client = cluster.registry.client_as(&expiring.call(Duration::from_secs(4)));
        let start = WatchStart { watcher: "test".into(), ..WatchStart::default() };
        let start = WatchDeploymentsRequest { message: Some(Message::Start(start)) };
        let requests = stream::iter([start]).chain(stream::pending());
        let request = Request::new(requests).without_deadline();
        DeploymentWatchServiceClient::new(client).watch_deployments(request).await.ok()
    })
    .await
    .into_inner();
    let end = ErrorReport::from_status(&end(&mut watch).await);
    assert_eq!((end.code, end.reason.as_deref()), (Code::Unauthenticated, Some("CERTIFICATE_EXPIRED")));
}
