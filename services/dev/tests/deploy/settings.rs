//! Settings: known to the programs, and in agreement with one another and with the pods around them.

use std::{path::Path, time::Duration};

use chatfn_invoker::confine::ConfinementMode;

use crate::{
    manifests::{Overlay, SERVICES, container, environment, list, text},
    programs::{Settings, seconds},
};

/// The longest run of a function (`chatfn_domain::settings`).
const LONGEST_RUN: Duration = Duration::from_secs(30);
/// What a function may take by default, and what the process takes besides all runs.
const MEMORY_OF_RUN: u64 = 64 << 20;
const MEMORY_BESIDES: u64 = 200 << 20;
/// How long it takes until an ended pod is in no caller's list of addresses any more, about.
const NOTICED: Duration = Duration::from_secs(5);

#[test]
fn services_ask_who_calls_and_call_one_another() {
    for overlay in Overlay::all() {
        for service in SERVICES {
            let container = container(overlay.pod(service));
            let settings = Settings::read(service, &environment(container));
            settings.security.validate().expect("all of TLS, and all of tokens");
            assert!(settings.security.is_closed() && settings.security.token_keys.is_some());
            settings.rpc.validate().expect("the settings fit together");

            assert!(settings.listen.ip().is_unspecified(), "others call it, and its probes do by localhost");
            let port = u64::from(settings.listen.port());
            let ports = [port, u64::from(settings.metrics_port())];
            let open: Vec<_> =
                list(&container["ports"]).iter().filter_map(|it| it["containerPort"].as_u64()).collect();
            assert_eq!(open, ports, "for calls and for scrapes");
            let offered = overlay.get("Service", service);
            assert_eq!(offered["spec"]["clusterIP"], "None");
            for (index, port) in ports.into_iter().enumerate() {
                let (offered, own) = (&offered["spec"]["ports"][index], &container["ports"][index]);
                assert_eq!(offered["port"].as_u64(), Some(port));
                assert_eq!((&offered["targetPort"], &offered["name"]), (&own["name"], &own["name"]));
            }

            for call in settings.calls {
                let callee = Settings::read(
                    call.host().expect("a host"),
                    &environment(super::manifests::container(overlay.pod(call.host().expect("a host")))),
                );
                assert_eq!((call.scheme_str(), call.port_u16()), (Some("https"), Some(callee.listen.port())));
            }
        }
    }
}

#[test]
fn a_shutdown_ends_before_its_grace_and_a_run_before_the_shutdown() {
    for overlay in Overlay::all() {
        for service in SERVICES {
            let pod = overlay.pod(service);
            let settings = Settings::read(service, &environment(container(pod)));
            let grace = seconds(&pod["terminationGracePeriodSeconds"]);
            let longest = settings.longest_shutdown;
            assert!(longest < grace, "{}: {service} may take {longest:?}, and has {grace:?}", overlay.name);
            assert!(settings.drain_runs > LONGEST_RUN, "{service} cuts runs off");
            assert!(settings.rpc.drain_delay >= NOTICED, "{service} is still called when it listens no more");
        }
    }
}

#[test]
fn files_are_where_something_is_mounted() {
    for overlay in Overlay::all() {
        for service in SERVICES {
            let pod = overlay.pod(service);
            let container = container(pod);
            assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
            let mounts: Vec<_> =
                list(&container["volumeMounts"]).iter().map(|it| text(&it["mountPath"])).collect();
            for (variable, value) in environment(container) {
                if value.starts_with('/') && variable != "CHATFN_INVOKER_CACHE_DIR" {
                    let folder = Path::new(&value).parent().and_then(Path::to_str).expect("a folder");
                    assert!(
                        mounts.contains(&folder),
                        "{service}: nothing is mounted for {variable} ({value})"
                    );
                }
            }
            let volumes: Vec<_> = list(&pod["volumes"]).iter().map(|it| text(&it["name"])).collect();
            for mount in list(&container["volumeMounts"]) {
                assert!(volumes.contains(&text(&mount["name"])), "{service}: {mount}");
            }
        }
    }
}

#[test]
fn runs_fit_into_the_memory_of_an_invoker() {
    for overlay in Overlay::all() {
        let container = container(overlay.pod("invoker"));
        let it = Settings::read("invoker", &environment(container)).invoker.expect("an invoker");
        let runs = u64::from(it.max_runs + it.max_children) * MEMORY_OF_RUN;
        let fixed = (it.prepared_bytes + it.egress.buffer_bytes) as u64 + MEMORY_BESIDES;
        let limit = text(&container["resources"]["limits"]["memory"]);
        let gib: u64 = limit.strip_suffix("Gi").and_then(|it| it.parse().ok()).expect("whole GiB");
        assert!(runs + fixed <= gib << 30, "{}: {} MiB in {limit}", overlay.name, (runs + fixed) >> 20);
        if overlay.name != "small" {
            assert!(it.confinement == ConfinementMode::Enforce);
            assert!(
                container["resources"]["limits"]["cpu"].is_string(),
                "loops for ever take no more than that"
            );
        }
    }
}

#[test]
fn the_database_has_room_for_what_the_readme_says() {
    let production = Overlay::all().into_iter().find(|it| it.name == "production").expect("an overlay");
    // Of each replica, and how many replicas there may be, all of which drain while a release rolls out.
    let [(of_registry, registries), (of_ingest, ingests)] = ["registry", "event-ingest"].map(|service| {
        let settings = Settings::read(service, &environment(container(production.pod(service))));
        let scaler = &production.get("HorizontalPodAutoscaler", service)["spec"];
        (u64::from(settings.connections), scaler["maxReplicas"].as_u64().expect("a number"))
    });
    let sum = of_registry * registries + of_ingest * ingests;
    for (file, says) in [
        ("README.md", format!("{of_registry} connections per registry and {of_ingest} per event-ingest")),
        ("README.md", format!("{registries} × {of_registry} + {ingests} × {of_ingest} = {sum} ")),
        ("README.md", format!("2 × {sum} + 1 = {} at most", 2 * sum + 1)),
        ("base/event-ingest.yaml", format!("Each replica has {of_ingest} connections to Postgres.")),
    ] {
        let text = std::fs::read_to_string(super::manifests::folder().join(file)).unwrap();
        assert!(text.contains(&says), "{file} does not say: {says}");
    }
}

#[test]
fn the_authority_of_the_database_is_where_the_readme_s_url_looks() {
    let readme = std::fs::read_to_string(super::manifests::folder().join("README.md")).unwrap();
    let urls = readme.split('`').filter(|it| it.starts_with("postgres://") && it.contains("verify-full"));
    let urls: Vec<_> = urls.collect();
    assert_eq!(urls.len(), 1);
    chatfn_pg::DatabaseUrl::from(urls[0]).connect_options().expect("the driver reads it");
    let file = Path::new(urls[0].split_once("&sslrootcert=").expect("an authority").1);
    let production = Overlay::all().into_iter().find(|it| it.name == "production").expect("an overlay");
    let mut users = 0;
    for (name, pod) in production.workloads() {
        let container = container(pod);
        if !environment(container).contains_key("DATABASE_URL") {
            continue;
        }
        users += 1;
        let folder = file.parent().and_then(Path::to_str);
        let mount = list(&container["volumeMounts"]).iter().find(|it| it["mountPath"].as_str() == folder);
        let mount = mount.unwrap_or_else(|| panic!("{name} does not have {}", file.display()));
        let volume = list(&pod["volumes"]).iter().find(|it| it["name"] == mount["name"]).expect("a volume");
        assert_eq!(volume["configMap"]["name"], "chatfn-database-ca");
    }
    assert_eq!(users, 3, "registry, event-ingest and the migration");
}

#[test]
fn what_must_be_there_before_is_named_in_the_readme() {
    let readme = std::fs::read_to_string(super::manifests::folder().join("README.md")).unwrap();
    for overlay in Overlay::all() {
        // cert-manager makes these.
        let made: Vec<_> = overlay.of("Certificate").map(|it| text(&it["spec"]["secretName"])).collect();
        let mut wanted = Vec::new();
        for (_, pod) in overlay.workloads() {
            for volume in list(&pod["volumes"]) {
                wanted.extend(volume["secret"]["secretName"].as_str());
                wanted.extend(volume["configMap"]["name"].as_str());
            }
            for variable in list(&container(pod)["env"]) {
                let from = &variable["valueFrom"];
                wanted.extend(from["secretKeyRef"]["name"].as_str());
                wanted.extend(from["configMapKeyRef"]["name"].as_str());
            }
        }
        wanted.retain(|name| !made.contains(name));
        assert!(wanted.contains(&"chatfn-database"));
        for name in wanted {
            let name = name.replace("registry-tls", "$s-tls").replace("event-ingest-tls", "$s-tls");
            let name = name.replace("invoker-tls", "$s-tls");
            assert!(readme.contains(&name), "{}: README.md does not say how to make {name}", overlay.name);
        }
    }
}
