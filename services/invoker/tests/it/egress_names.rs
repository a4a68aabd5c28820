//! Names that lead inside, by the resolver of the product and a name server that is an attacker's: 127.0.0.1 stands for
//! the public address that it may say, 127.0.0.2 for the private one that it must not lead to.

use std::{net::Ipv4Addr, time::Duration};

use chatfn_invoker::egress::EgressConfig;
use serde_json::json;

use crate::{
    dns::{
        BROKEN,
        Entry::{Alias, At, Other},
        MUTE, NameServer,
    },
    outside::{Outside, call, call_once, get},
    service::{LOCAL, Service, result, version},
    witness::{Answer, Witness},
};

const REFUSED: Result<u16, &str> = Err("ADDRESS_NOT_ALLOWED");

struct World {
    public: Witness,
    private: Witness,
    names: NameServer,
    outside: Outside,
}

impl World {
    async fn new() -> Self {
        let public = Witness::start(|request| match request.target.strip_prefix("/to?") {
            Some(location) => Answer::redirect(307, location),
            None => Answer::ok(""),
        })
        .await;
        let private = Witness::forbidden_on((Ipv4Addr::new(127, 0, 0, 2), public.port()).into()).await;
        let names = NameServer::start().await;
        let outside = Outside::resolving(
            EgressConfig { rate: 1000, dns_timeout: Duration::from_secs(10), ..EgressConfig::default() },
            &names,
        );
        Self { public, private, names, outside }
    }

    /// Calls a name that the author allows.
    async fn call(&self, name: &str) -> Result<u16, &'static str> {
        let host = self.public.at(name);
        call_once(&self.outside, &[&host], get(format!("http://{host}/"))).await
    }

    #[track_caller]
    fn assert_connections(&self, public: usize) {
        assert_eq!((self.public.seen().connections, self.private.seen().connections), (public, 0));
    }
}

#[tokio::test]
async fn a_name_that_rebinds_does_not_lead_inside() {
    let world = World::new().await;
    world.names.add("rebinding.example", &[At("127.0.0.1")]);
    world.names.add("rebinding.example", &[At("127.0.0.2")]);
    assert_eq!(world.call("rebinding.example").await, Ok(200));
    assert_eq!(world.names.asked("rebinding.example"), 1, "a second look could see another address");
    world.assert_connections(1);
    assert_eq!(world.call("rebinding.example").await, REFUSED);
    assert_eq!(world.names.asked("rebinding.example"), 2, "nothing was kept, so this is the second answer");
    world.assert_connections(1);
}

#[tokio::test]
async fn a_name_that_rebinds_during_a_redirect_does_not_lead_inside() {
    let world = World::new().await;
    world.names.add("rebinding.example", &[At("127.0.0.1")]);
    world.names.add("rebinding.example", &[At("127.0.0.2")]);
    let host = world.public.at("rebinding.example");
    let run = world.outside.run(&[&host]);
    assert_eq!(call(&run, get(format!("http://{host}/to?/"))).await, REFUSED);
    let (calls, _) = run.calls();
    assert_eq!(calls[0].error.as_ref().unwrap().reason(), "ADDRESS_NOT_ALLOWED");
    world.assert_connections(1);
}

#[tokio::test]
async fn of_a_mixed_answer_only_the_public_address_is_called() {
    let world = World::new().await;
    world.names.add("mixed.example", &[At("127.0.0.2"), At("::1"), At("127.0.0.1"), At("10.0.0.1")]);
    assert_eq!(world.call("mixed.example").await, Ok(200));
    world.assert_connections(1);
}

#[tokio::test]
async fn private_addresses_are_refused_in_every_form_of_answer() {
    let world = World::new().await;
    let names = &world.names;
    names.add("direct.example", &[At("127.0.0.2")]);
    names.add("mapped.example", &[At("::ffff:127.0.0.2")]);
    names.add("nat64.example", &[At("64:ff9b::127.0.0.2")]);
    names.add("sixtofour.example", &[At("2002:7f00:2::")]);
    names.add("compatible.example", &[At("::127.0.0.2")]);
    names.add("metadata.example", &[At("169.254.169.254"), At("fd00:ec2::254")]);
    // Aliases, all in one answer and one by one.
    names.add("chain.example", &[Alias("middle.example"), Other("middle.example", "127.0.0.2")]);
    names.add("far.example", &[Alias("further.example")]);
    names.add("further.example", &[Alias("direct.example")]);
    for name in [
        "direct.example",
        "DIRECT.example.",
        "mapped.example",
        "nat64.example",
        "sixtofour.example",
        "compatible.example",
        "metadata.example",
        "chain.example",
        "far.example",
    ] {
        let host = world.public.at(name);
        let allowed = host.to_lowercase().replace(".:", ":");
        let outcome = call_once(&world.outside, &[allowed], get(format!("http://{host}/"))).await;
        assert_eq!(outcome, REFUSED, "{name}");
    }
    assert!(names.asked("further.example") > 0, "the alias was followed");
    world.assert_connections(0);
}

#[tokio::test]
async fn a_server_that_does_not_answer_costs_its_time_and_no_more() {
    let mut world = World::new().await;
    let config = EgressConfig { dns_timeout: Duration::from_millis(300), ..EgressConfig::default() };
    world.outside = Outside::resolving(config, &world.names);
    for name in [MUTE, BROKEN, "unknown.example"] {
        assert_eq!(world.call(name).await, Err("DNS_FAILED"), "{name}");
    }
    assert!(world.names.asked(MUTE) > 0);
    world.assert_connections(0);
}

#[tokio::test]
async fn a_lambda_meets_the_same_and_its_record_says_so() {
    let World { public, private, names, .. } = World::new().await;
    names.add("rebinding.example", &[At("127.0.0.1")]);
    names.add("rebinding.example", &[At("127.0.0.2")]);
    let host = public.at("rebinding.example");
    let source = format!(
        "async function lambda() {{
           const first = await fetch('http://{host}/');
           const second = await fetch('http://{host}/').catch((error) => error.code);
           return [first.status, second];
         }}"
    );
    let name_server = format!("--egress-name-server={}", names.address);
    let service = Service::start([version(1, &source, &[&host])], &[LOCAL, &name_server]).await;
    let report = service.invoke("e-1").await.unwrap();
    assert_eq!(result(&report), json!([200, "ADDRESS_NOT_ALLOWED"]));
    let [made, refused] = &report.outbound_calls[..] else { panic!("{:?}", report.outbound_calls) };
    assert_eq!((made.status, &*made.error_reason), (200, ""));
    assert_eq!((refused.status, &*refused.error_reason), (0, "ADDRESS_NOT_ALLOWED"));
    assert!(refused.error_message.contains("--egress-allow-cidr"), "{}", refused.error_message);
    assert!(!refused.error_message.contains("127.0.0.2"), "names inside are not for authors");
    assert_eq!((public.seen().connections, private.seen().connections), (1, 0));
}
