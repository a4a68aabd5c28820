//! Who reaches whom: network policies and the names in certificates.

use crate::{
    manifests::{Overlay, SERVICES, container, environment, list, text, texts},
    programs::Settings,
};

/// The ports of rules that are from, or to, pods named `name`.
fn ports(rules: &[serde_json::Value], side: &str, name: &str) -> Vec<u64> {
    let is_about = |peer: &serde_json::Value| {
        let selector = &peer["podSelector"];
        let listed =
            list(&selector["matchExpressions"]).iter().any(|it| texts(&it["values"]).contains(&name));
        selector["matchLabels"]["app.kubernetes.io/name"] == name || listed
    };
    let about = rules.iter().filter(|rule| list(&rule[side]).iter().any(is_about));
    about.flat_map(|rule| list(&rule["ports"])).filter_map(|it| it["port"].as_u64()).collect()
}

#[test]
fn services_reach_what_they_call_and_nothing_else_is_open() {
    for overlay in Overlay::all() {
        let deny = overlay.get("NetworkPolicy", "default-deny");
        assert_eq!(texts(&deny["spec"]["policyTypes"]), ["Ingress", "Egress"]);
        assert_eq!(deny["spec"]["podSelector"], serde_json::json!({}));
        for service in SERVICES {
            let settings = Settings::read(service, &environment(container(overlay.pod(service))));
            let policy = |name: &str| &overlay.get("NetworkPolicy", name)["spec"];
            for call in &settings.calls {
                let callee = call.host().expect("a host");
                let port = vec![u64::from(call.port_u16().expect("a port"))];
                assert_eq!(
                    ports(list(&policy(service)["egress"]), "to", callee),
                    port,
                    "{service} to {callee}"
                );
                assert_eq!(
                    ports(list(&policy(callee)["ingress"]), "from", service),
                    port,
                    "{callee} from {service}"
                );
            }
            let mut scraped = false;
            for rule in list(&policy(service)["ingress"]) {
                let open: Vec<_> = list(&rule["ports"]).iter().filter_map(|it| it["port"].as_u64()).collect();
                let for_scrapers = serde_json::json!([{
                    "namespaceSelector": {"matchLabels": {"chatfn/scrapers": "allowed"}}
                }]);
                // Nobody is asked who scrapes, so that port is for nobody else.
                let is_for_scrapers = rule["from"] == for_scrapers;
                let port = if is_for_scrapers { settings.metrics_port() } else { settings.listen.port() };
                assert_eq!(open, [u64::from(port)], "{service}");
                scraped |= is_for_scrapers;
            }
            assert!(scraped, "nobody can scrape {service}");
        }
        for user in ["registry", "event-ingest", "migrate"] {
            let selector = &overlay.get("NetworkPolicy", "database")["spec"]["podSelector"];
            assert!(
                texts(&selector["matchExpressions"][0]["values"]).contains(&user),
                "{user} has no database"
            );
        }
    }
}

#[test]
fn a_collector_of_traces_is_reached_where_one_is_set() {
    for overlay in Overlay::all() {
        for service in SERVICES {
            let settings = Settings::read(service, &environment(container(overlay.pod(service))));
            settings.traces.validate().expect("the settings fit together");
            let is_traced = overlay.name == "traced";
            assert_eq!(settings.traces.otlp_endpoint.is_some(), is_traced, "{}: {service}", overlay.name);
            let Some(endpoint) = settings.traces.otlp_endpoint else { continue };
            let policy = &overlay.get("NetworkPolicy", "otlp")["spec"];
            assert_eq!(texts(&policy["policyTypes"]), ["Egress"]);
            let selected = texts(&policy["podSelector"]["matchExpressions"][0]["values"]);
            assert!(selected.contains(&service), "{service} does not reach {endpoint}");
            let collectors = serde_json::json!([{
                "to": [{"namespaceSelector": {"matchLabels": {"chatfn/collectors": "allowed"}}}],
                "ports": [{"protocol": "TCP", "port": endpoint.port_u16()}]
            }]);
            assert_eq!(policy["egress"], collectors);
        }
    }
}

#[test]
fn lambdas_reach_no_private_address() {
    for overlay in Overlay::all() {
        let rules = list(&overlay.get("NetworkPolicy", "invoker")["spec"]["egress"]);
        let blocks = rules.iter().flat_map(|rule| list(&rule["to"])).filter(|it| it["ipBlock"].is_object());
        let blocks: Vec<_> =
            blocks.map(|it| (text(&it["ipBlock"]["cidr"]), texts(&it["ipBlock"]["except"]))).collect();
        assert_eq!(blocks.iter().map(|(cidr, _)| *cidr).collect::<Vec<_>>(), ["0.0.0.0/0", "2000::/3"]);
        for private in [
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "169.254.0.0/16",
            "100.64.0.0/10",
            "127.0.0.0/8",
        ] {
            assert!(blocks[0].1.contains(&private), "{}: {private} is open", overlay.name);
        }
    }
}

#[test]
fn all_services_are_scraped_and_invokers_scaled_by_what_is_told() {
    let production = Overlay::all().into_iter().find(|it| it.name == "production").expect("an overlay");
    let monitor = &production.get("ServiceMonitor", "chatfn")["spec"];
    assert_eq!(monitor["endpoints"][0]["path"], "/metrics");
    for service in SERVICES {
        let offered = production.get("Service", service);
        let labels = monitor["selector"]["matchLabels"].as_object().expect("labels");
        assert!(
            labels.iter().all(|(label, value)| offered["metadata"]["labels"][label] == *value),
            "{service}"
        );
        let ports = list(&offered["spec"]["ports"]);
        let scraped: Vec<_> =
            ports.iter().filter(|port| port["name"] == monitor["endpoints"][0]["port"]).collect();
        assert_eq!(scraped.len(), 1, "{service} has no port that is scraped");
    }
    let scaler = &production.get("HorizontalPodAutoscaler", "invoker")["spec"];
    let external =
        list(&scaler["metrics"]).iter().find_map(|metric| metric["external"]["metric"]["name"].as_str());
    let told = chatfn_event_ingest::METRICS.iter().map(|metric| metric.name);
    assert!(told.into_iter().any(|name| Some(name) == external), "{external:?} is no metric");
    assert!(
        list(&scaler["metrics"]).iter().any(|metric| metric["resource"]["name"] == "cpu"),
        "or without Prometheus none"
    );
}

#[test]
fn certificates_name_their_service() {
    let production = Overlay::all().into_iter().find(|it| it.name == "production").expect("an overlay");
    for service in SERVICES {
        let spec = &production.get("Certificate", service)["spec"];
        let domain = Settings::read(service, &environment(container(production.pod(service))))
            .security
            .tls_trust_domain;
        assert_eq!(texts(&spec["uris"]), [format!("spiffe://{domain}/{service}")]);
        let names = texts(&spec["dnsNames"]);
        // By others, and by its own probes.
        assert!(names.contains(&service) && names.contains(&"localhost"), "{names:?}");
        for usage in ["digital signature", "server auth", "client auth"] {
            assert!(texts(&spec["usages"]).contains(&usage), "{service} lacks {usage}");
        }
        let volumes = list(&production.pod(service)["volumes"]);
        let secret = volumes.iter().find(|it| it["name"] == "tls").map(|it| &it["secret"]["secretName"]);
        assert_eq!(secret, Some(&spec["secretName"]));
        let issuer = text(&spec["issuerRef"]["name"]);
        production.get("Issuer", issuer);
    }
    let kinds: Vec<_> =
        production.of("Certificate").filter(|it| it["apiVersion"] != "cert-manager.io/v1").collect();
    assert!(kinds.is_empty());
}
