//! The image's recipe: it cannot be built without a container engine, but what it names must be there.

use std::{collections::BTreeSet, fs, path::Path};

use crate::manifests::{Overlay, SERVICES, container, environment, folder, text};

fn root() -> std::path::PathBuf {
    folder().join("..")
}

/// The instructions, each in one line.
fn recipe() -> Vec<String> {
    let text = fs::read_to_string(folder().join("Dockerfile")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
    lines.replace("\\\n", " ").lines().map(str::to_owned).collect()
}

/// The words of all instructions that begin so.
fn words<'a>(recipe: &'a [String], instruction: &str) -> Vec<Vec<&'a str>> {
    let found = recipe.iter().filter_map(|line| line.strip_prefix(instruction)?.strip_prefix(' '));
    found.map(|rest| rest.split_whitespace().collect()).collect()
}

#[test]
fn what_is_copied_is_there_and_reaches_the_build() {
    let recipe = recipe();
    let ignored = fs::read_to_string(folder().join("Dockerfile.dockerignore")).unwrap();
    let sent: Vec<_> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    for file in &sent {
        assert!(root().join(file).exists(), "there is no {file}");
    }
    let copies = words(&recipe, "COPY");
    for copy in copies.iter().filter(|it| !it[0].starts_with("--from")) {
        let (_, sources) = copy.split_last().expect("a destination");
        for source in sources {
            assert!(root().join(source).exists(), "there is no {source}");
            assert!(
                *source == "." || sent.iter().any(|it| Path::new(source).starts_with(it)),
                "{source} is not sent"
            );
        }
    }
    // All members, or cargo does not read the workspace.
    let workspace = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members =
        workspace.split_once("members = [").and_then(|(_, rest)| rest.split_once(']')).expect("members").0;
    for member in members.split('"').skip(1).step_by(2) {
        assert!(sent.iter().any(|it| Path::new(member).starts_with(it)), "{member} is not sent");
    }
}

#[test]
fn programs_are_those_that_cargo_builds_and_the_manifests_start() {
    let recipe = recipe().join("\n");
    let names = |prefix: &str| -> BTreeSet<String> {
        let words = recipe.split_whitespace().filter_map(|word| word.strip_prefix(prefix));
        words.map(str::to_owned).collect()
    };
    let installed = names("target/release/");
    let mut started = BTreeSet::new();
    for overlay in Overlay::all() {
        for (_, pod) in overlay.workloads() {
            let container = container(pod);
            if text(&container["image"]).contains("chatfn") {
                started.insert(text(&container["command"][0]).to_owned());
            }
        }
    }
    assert_eq!(installed, started);
    for program in &installed {
        let beside = Path::new(env!("CARGO_BIN_EXE_chatfn-dev")).with_file_name(program);
        assert!(beside.exists(), "cargo builds no {program}, or `make test` was not run");
    }
}

#[test]
fn the_image_is_made_with_the_project_s_toolchain_from_pinned_bases() {
    let recipe = recipe();
    let toolchain = fs::read_to_string(root().join("rust-toolchain.toml")).unwrap();
    let channel = toolchain.split('"').nth(1).expect("a channel");
    let bases: Vec<_> = words(&recipe, "FROM").iter().map(|it| it[0]).collect();
    assert!(bases[0].starts_with(&format!("docker.io/library/rust:{channel}-")), "{}", bases[0]);
    assert!(recipe.contains(&format!("ENV RUSTUP_TOOLCHAIN={channel}")));
    for base in bases {
        let digest = base.split_once("@sha256:").map(|(_, digest)| digest).unwrap_or_default();
        assert!(
            digest.len() == 64 && digest.bytes().all(|it| it.is_ascii_hexdigit()),
            "{base} is not pinned"
        );
    }
}

#[test]
fn the_engine_is_where_the_invoker_looks_and_belongs_to_its_user() {
    let recipe = recipe();
    let cache = "/var/cache/chatfn-invoker";
    assert!(recipe.contains(&format!("ENV CHATFN_INVOKER_CACHE_DIR={cache}")));
    let user = words(&recipe, "USER")[0][0].to_owned();
    let copy =
        recipe.iter().find(|it| it.ends_with("/out/cache/ /var/cache/")).expect("the engine is copied");
    assert!(copy.contains(&format!("--chown={user} ")), "{copy}");
    assert!(recipe.iter().any(|it| it.contains("--cache-dir /out/cache/chatfn-invoker compile-engine")));
    for overlay in Overlay::all() {
        for service in SERVICES {
            let pod = overlay.pod(service);
            let context = &pod["securityContext"];
            assert_eq!(format!("{}:{}", context["runAsUser"], context["runAsGroup"]), user);
        }
        let environment = environment(container(overlay.pod("invoker")));
        assert_eq!(environment["CHATFN_INVOKER_CACHE_DIR"], cache);
    }
}
