//! What the programs say of their own settings.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    process::{Command, Output, Stdio},
};

use chatfn_tests::{cluster::binary, identities::Identities};

const SERVICES: [&str; 3] = ["registry", "invoker", "event-ingest"];
const DATABASE: (&str, &str) =
    ("DATABASE_URL", "postgres://me:hunter2@db.invalid:6432/chat?application_name=x");

/// Asks a program, in an environment of these variables alone.
fn ask<'a>(
    service: &str,
    environment: impl IntoIterator<Item = (&'a str, &'a str)>,
    flags: &[&str],
) -> (String, String, Option<i32>) {
    let mut command = Command::new(binary(service));
    command.env_clear().envs(environment).args(flags).stdin(Stdio::null());
    let Output { status, stdout, stderr } = command.output().expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (text(stdout), text(stderr), status.code())
}

/// The variables of what `--print-config` has said.
fn variables(printed: &str) -> BTreeMap<&str, &str> {
    let lines = printed.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_once('=').expect("VARIABLE=value")).collect()
}

#[test]
fn defaults_are_fine_and_printed_without_secrets() {
    for service in SERVICES {
        let (out, err, code) = ask(service, [DATABASE], &["--check-config"]);
        assert_eq!(code, Some(0), "{err}");
        assert_eq!(out, format!("chatfn-{service}: the settings can be used\n"));

        let (out, err, code) = ask(service, [DATABASE], &["--print-config"]);
        assert_eq!((code, err.as_str()), (Some(0), ""));
        assert!(!out.contains("hunter2"), "{out}");
        if service != "invoker" {
            assert!(out.contains("# DATABASE_URL=postgres://me@db.invalid:6432/chat\n"), "{out}");
        }
        let variable = format!("CHATFN_{}_LISTEN", service.to_uppercase().replace('-', "_"));
        assert!(variables(&out)[variable.as_str()].starts_with("127.0.0.1:5005"), "{out}");
    }
}

#[test]
fn what_is_printed_can_be_used_as_an_environment() {
    let keys = ("CHATFN_REGISTRY_SECRET_KEYS", "a: AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
    for (service, flags) in [
        ("registry", &["--watch-stall=250ms", "--serve-secret-access=false"][..]),
        (
            "invoker",
            &["--egress-allow-cidr=10.0.0.0/8,fd00::/8", "--lp-base-url=https://{service}.example/a"],
        ),
        ("event-ingest", &["--log-filter=warn,chatfn_rpc=debug", "--max-runs=3"]),
    ] {
        let (first, err, _) = ask(service, [DATABASE, keys], &[flags, &["--print-config"]].concat());
        assert_eq!(err, "");
        assert!(!first.contains("AAECAwQ"), "{first}");
        let flag = flags[0].split('=').next().expect("a flag");
        assert!(first.contains(&format!("# from {flag}\n")), "{first}");
        let environment = variables(&first);
        let (second, err, _) =
            ask(service, environment.clone().into_iter().chain([DATABASE, keys]), &["--print-config"]);
        assert_eq!(err, "");
        assert_eq!(variables(&second), environment, "{service}");
        assert!(!second.contains("# default") && second.contains("# from the environment"), "{second}");
    }
}

#[test]
fn every_problem_is_named_with_what_to_change() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (junk, secret) = (file("junk", "{}"), file("keys", "not a key"));
    let open = file("open", "");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o666)).unwrap();

    let flags = [
        "--listen=0.0.0.0:0",
        "--invoker=https://invoker:1",
        &format!("--templates={}/none", folder.path().display()),
        &format!("--secret-keys-file={secret}"),
        "--database-url=mysql://me:hunter2@db",
        "--token-keys=/nowhere",
        "--rpc-keepalive=0s",
        "--rpc-default-timeout=10m",
        "--log-filter=chatfn=loud",
    ];
    refused(
        "registry",
        &flags,
        &[
            "--listen: refusing to listen on 0.0.0.0:0",
            "--invoker: https://invoker:1/ must begin with http://",
            "--templates: the template in",
            "line 1 of the secrets' keys is not `<id>: <32 bytes in base64>`",
            "--database-url: the Postgres URL is not of the form",
            "--token-issuer is not set, and goes together with --token-keys",
            "--rpc-keepalive must be greater than zero",
            "--rpc-default-timeout (600s) must not exceed --rpc-max-timeout",
            "--log-filter: the log filter \"chatfn=loud\" is not valid",
        ],
    );
    let flags = [
        "--database-url=postgres://me@db/chat",
        &format!("--snapshot-file={open}"),
        &format!("--account-quotas-file={}/none", folder.path().display()),
        "--queue=1",
        "--dedupe-days=31",
        "--stream-idle=0s",
        &format!("--tls-cert={}/none", folder.path().display()),
        &format!("--tls-key={}/none", folder.path().display()),
        &format!("--tls-ca={junk}"),
    ];
    refused(
        "event-ingest",
        &flags,
        &[
            "--snapshot-file: every user may read or write it",
            "--account-quotas-file",
            "--queue (1) must be at least 500",
            "--dedupe-days (31) must not exceed --retention-days (30)",
            "--stream-idle must be greater than zero",
            "--tls-cert: ",
            "--tls-key: ",
            "--registry: http://127.0.0.1:50051/ must begin with https://",
        ],
    );
    let flags = [
        &format!("--snapshot-file={}/none/snapshot", folder.path().display()),
        &format!("--cache-dir={junk}"),
        &format!("--egress-ca-file={junk}"),
        "--max-runs=2000",
        "--egress-dns-timeout=0s",
        "--egress-connect-timeout=0s",
    ];
    let flags: Vec<_> = flags.iter().map(|flag| flag.as_ref()).collect();
    refused(
        "invoker",
        &flags,
        &[
            "--snapshot-file: the folder",
            "--cache-dir: cannot use the cache folder",
            "--egress-ca-file: the file of certificate authorities",
            "--max-runs (2000) must not exceed --rpc-max-calls (1024)",
            "--egress-dns-timeout must be greater than zero",
            "--egress-connect-timeout must be greater than zero",
        ],
    );
}

/// Checks that a program names these problems, in lines of their own, and shows no password.
fn refused(service: &str, flags: &[&str], expected: &[&str]) {
    let (out, err, code) = ask(service, [], &[&["--check-config"], flags].concat());
    assert_eq!((out.as_str(), code), ("", Some(2)), "{err}");
    for problem in expected {
        assert!(err.lines().any(|line| line.starts_with(&format!("- {problem}"))), "{problem}\n{err}");
    }
    assert!(!err.contains("hunter2") && !err.contains("not a key"), "{err}");
}

#[test]
fn certificates_must_be_the_services_own() {
    let identities = Identities::make();
    for service in SERVICES {
        let mut flags = identities.flags(service);
        flags.extend(["--listen=0.0.0.0:0", "--check-config"].map(str::to_owned));
        let calls = [("registry", "https://127.0.0.1:50051"), ("invoker", "https://127.0.0.1:50052")];
        let calls = calls.into_iter().filter(|(callee, _)| match service {
            "event-ingest" => true,
            "registry" => *callee == "invoker",
            _ => *callee == "registry",
        });
        flags.extend(calls.map(|(callee, url)| format!("--{callee}={url}")));
        let asked = |flags: &[String]| {
            let flags: Vec<_> = flags.iter().map(String::as_str).collect();
            let (_, err, code) = ask(service, [DATABASE], &flags);
            (code, err)
        };
        assert_eq!(asked(&flags), (Some(0), String::new()));

        let other = if service == "registry" { "invoker" } else { "registry" };
        for (flag, file) in [("--tls-cert", format!("{other}.crt")), ("--tls-key", format!("{other}.key"))] {
            let of = |it: &&mut String| it.starts_with(&format!("{flag}="));
            *flags.iter_mut().find(of).expect("it is set") = format!("{flag}={}", identities.path(&file));
        }
        let (code, err) = asked(&flags);
        assert!(err.contains(&format!("/{service} among its alternative names")) && code == Some(2), "{err}");
    }
}
