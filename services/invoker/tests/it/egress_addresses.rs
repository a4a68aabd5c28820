//! What no lambda reaches, whatever its settings say: no connection is even tried.

use std::net::{Ipv4Addr, Ipv6Addr};

use chatfn_invoker::egress::EgressConfig;

use crate::{
    outside::{Outside, call, call_once, get},
    witness::{Answer, Witness},
};

const NOT_ALLOWED_ADDRESS: Result<u16, &str> = Err("ADDRESS_NOT_ALLOWED");

/// The same port at 127.0.0.1 and, where the machine has IPv6, at ::1.
async fn inside() -> (Witness, Option<Witness>) {
    loop {
        let v4 = Witness::forbidden_on((Ipv4Addr::LOCALHOST, 0).into()).await;
        let address = (Ipv6Addr::LOCALHOST, v4.port()).into();
        match std::net::TcpListener::bind(address) {
            Ok(probe) => drop(probe),
            // Someone else has the port at ::1: look for another.
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => continue,
            Err(_) => return (v4, None),
        }
        return (v4, Some(Witness::forbidden_on(address).await));
    }
}

fn connections((v4, v6): &(Witness, Option<Witness>)) -> usize {
    v4.seen().connections + v6.as_ref().map_or(0, |v6| v6.seen().connections)
}

#[tokio::test]
async fn loopback_is_refused_however_it_is_written() {
    let inside = inside().await;
    let port = inside.0.port();
    let outside = Outside::new(EgressConfig { rate: 1000, ..EgressConfig::default() });
    outside.names.add("localhost", &["127.0.0.1", "::1"]);
    // The function's author allows all of them: that must not help.
    let hosts = [
        "localhost",
        "127.0.0.1",
        "127.1.2.3",
        "0.0.0.0",
        "[::]",
        "[::1]",
        "[::127.0.0.1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[2002:7f00:1::]",
    ]
    .map(|host| format!("{host}:{port}"));
    for host in [
        "localhost",
        "LOCALHOST",
        "localhost.",
        "ⓛocalhost",
        "ｌｏｃａｌｈｏｓｔ",
        "local\u{200b}host",
        "local\u{ad}host",
        "localhost。",
        "local%68ost",
        "127.0.0.1",
        "127.0.0.1.",
        "127.1",
        "127.1.2.3",
        "2130706433",
        "017700000001",
        "0177.0.0.1",
        "0x7f000001",
        "0x7f.1",
        "①②⑦.0.0.1",
        "127。0。0。1",
        "１２７．０．０．１",
        "127｡0｡0｡1",
        "127.0.1",
        "127.0x0.0.01",
        "0177.0.0x0.1",
        "00000177.0.0.1",
        "%31%32%37.0.0.1",
        "0.0.0.0",
        "0",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::127.0.0.1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::FFFF:7F00:1]",
        "[0:0:0:0:0:ffff:127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[2002:7f00:1::]",
    ] {
        let outcome = call_once(&outside, &hosts, get(format!("http://{host}:{port}/"))).await;
        assert_eq!(outcome, NOT_ALLOWED_ADDRESS, "{host}");
    }
    assert_eq!(connections(&inside), 0);
}

#[tokio::test]
async fn special_addresses_are_refused_by_name_and_by_number() {
    let inside = inside().await;
    let outside = Outside::new(EgressConfig { rate: 1000, ..EgressConfig::default() });
    for (index, address) in [
        "127.0.0.1",
        "127.255.255.254",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "::ffff:0:127.0.0.1",
        "64:ff9b::127.0.0.1",
        "64:ff9b:1::127.0.0.1",
        "2002:7f00:1::",
        "2002:a00:1::1",
        "2001::1",
        "fd00:ec2::254",
        "fe80::1",
    ]
    .into_iter()
    .enumerate()
    {
        let host = inside.0.at(&format!("n{index}.example"));
        outside.names.add(&format!("n{index}.example"), &[address]);
        let outcome = call_once(&outside, &[&host], get(format!("http://{host}/"))).await;
        assert_eq!(outcome, NOT_ALLOWED_ADDRESS, "{address}");
        let number = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        let host = inside.0.at(&number);
        let outcome = call_once(&outside, &[&host], get(format!("http://{host}/"))).await;
        assert_eq!(outcome, NOT_ALLOWED_ADDRESS, "{address} itself");
    }
    // An IDN and a name that ends with a dot are the same names.
    outside.names.add("xn--bcher-kva.example", &["127.0.0.1"]);
    for host in ["bücher.example", "BÜCHER.example.", "xn--bcher-kva.example"] {
        let url = format!("http://{}/", inside.0.at(host));
        let outcome = call_once(&outside, &[inside.0.at("xn--bcher-kva.example")], get(url)).await;
        assert_eq!(outcome, NOT_ALLOWED_ADDRESS, "{host}");
    }
    assert_eq!(connections(&inside), 0);
}

#[tokio::test]
async fn the_metadata_address_is_refused_although_it_is_named() {
    let outside = Outside::local(EgressConfig::default());
    outside.names.add("metadata.google.internal", &["169.254.169.254"]);
    outside.names.add("v6.example", &["fd00:ec2::254"]);
    outside.names.add("mapped.example", &["::ffff:169.254.169.254"]);
    let hosts = ["169.254.169.254", "metadata.google.internal", "v6.example", "mapped.example"];
    for host in [
        "169.254.169.254",
        "0xa9fea9fe",
        "2852039166",
        "metadata.google.internal",
        "v6.example",
        "mapped.example",
    ] {
        let run = outside.run(&hosts);
        let error = run.fetch(get(format!("http://{host}/latest/meta-data/"))).await.unwrap_err();
        assert_eq!(error.reason(), "ADDRESS_NOT_ALLOWED", "{host}");
        let (calls, _) = run.calls();
        assert_eq!(calls.len(), 1, "on the record");
        assert_eq!(calls[0].error.as_ref(), Some(&error));
    }
}

#[tokio::test]
async fn hosts_that_only_look_allowed_are_refused() {
    let inside = Witness::forbidden_on((Ipv4Addr::LOCALHOST, 0).into()).await;
    let port = inside.port();
    let outside = Outside::local(EgressConfig { rate: 1000, ..EgressConfig::default() });
    for name in ["evil.example", "crm.example.evil.example", "xcrm.example"] {
        outside.names.add(name, &["127.0.0.1"]);
    }
    // The address may be reached here, so it is only the name that protects.
    for (url, reason) in [
        (format!("http://crm.example@127.0.0.1:{port}/"), "INVALID_URL"),
        (format!("http://crm.example:443@evil.example:{port}/"), "INVALID_URL"),
        (format!("http://user:password@crm.example:{port}/"), "INVALID_URL"),
        (format!("http://evil.example:{port}#@crm.example/"), "HOST_NOT_ALLOWED"),
        (format!("http://evil.example:{port}?@crm.example/"), "HOST_NOT_ALLOWED"),
        (format!("http://evil.example:{port}\\@crm.example/"), "HOST_NOT_ALLOWED"),
        (format!("http://127.0.0.1:{port}/crm.example"), "HOST_NOT_ALLOWED"),
        (format!("http://crm.example.evil.example:{port}/"), "HOST_NOT_ALLOWED"),
        (format!("http://xcrm.example:{port}/"), "HOST_NOT_ALLOWED"),
        // The entry without a port stands for 80 and 443.
        (format!("http://crm.example:{port}/"), "HOST_NOT_ALLOWED"),
        (format!("http://crm.example:{port}@127.0.0.1:{port}/"), "INVALID_URL"),
        (format!("http://crm.example%00.evil.example:{port}/"), "INVALID_URL"),
        (format!("http://[::1%25lo]:{port}/"), "INVALID_URL"),
        // A look-alike is another name: this e is Cyrillic.
        (format!("http://crm.\u{435}xample:{port}/"), "HOST_NOT_ALLOWED"),
        (format!("ftp://crm.example:{port}/"), "UNSUPPORTED_SCHEME"),
        (format!("gopher://crm.example:{port}/"), "UNSUPPORTED_SCHEME"),
        (format!("ws://crm.example:{port}/"), "UNSUPPORTED_SCHEME"),
        ("file:///etc/passwd".to_owned(), "UNSUPPORTED_SCHEME"),
        ("data:text/plain,x".to_owned(), "UNSUPPORTED_SCHEME"),
        ("blob:http://crm.example/x".to_owned(), "UNSUPPORTED_SCHEME"),
        ("unix:/run/docker.sock".to_owned(), "UNSUPPORTED_SCHEME"),
    ] {
        assert_eq!(call_once(&outside, &["crm.example"], get(&*url)).await, Err(reason), "{url}");
    }
    assert_eq!(inside.seen().connections, 0);
    assert_eq!(outside.names.asked(), [""; 0], "names that are not allowed are not even resolved");
}

/// A server that is allowed at 127.0.0.1, and one at 127.0.0.2 that is not, at the same port.
async fn neighbours() -> (Witness, Witness) {
    let allowed = Witness::start(|_| Answer::ok("")).await;
    let forbidden = Witness::forbidden_on((Ipv4Addr::new(127, 0, 0, 2), allowed.port()).into()).await;
    (allowed, forbidden)
}

#[tokio::test]
async fn the_address_that_was_checked_is_the_one_that_is_called() {
    let (allowed, forbidden) = neighbours().await;
    let outside = Outside::local(EgressConfig::default());
    outside.names.add("rebinding.example", &["127.0.0.1"]);
    outside.names.add("rebinding.example", &["127.0.0.2"]);
    let host = allowed.at("rebinding.example");
    let run = outside.run(&[&host]);
    assert_eq!(call(&run, get(format!("http://{host}/"))).await, Ok(200));
    assert_eq!(outside.names.asked(), ["rebinding.example"], "a second answer could be another");
    assert_eq!(allowed.seen().connections, 1);
    // By now the name has the other address.
    assert_eq!(call(&run, get(format!("http://{host}/"))).await, NOT_ALLOWED_ADDRESS);
    assert_eq!((allowed.seen().connections, forbidden.seen().connections), (1, 0));
}

#[tokio::test]
async fn of_several_addresses_only_those_allowed_are_tried() {
    let (allowed, forbidden) = neighbours().await;
    let outside = Outside::local(EgressConfig::default());
    outside.names.add("mixed.example", &["127.0.0.2", "::1", "::ffff:127.0.0.1"]);
    let host = allowed.at("mixed.example");
    assert_eq!(call_once(&outside, &[&host], get(format!("http://{host}/"))).await, Ok(200));
    assert_eq!((allowed.seen().connections, forbidden.seen().connections), (1, 0));
}

#[tokio::test]
async fn the_operators_refusals_come_first() {
    let server = Witness::forbidden_on((Ipv4Addr::LOCALHOST, 0).into()).await;
    let nets = |net: &str| vec![net.parse().unwrap()];
    let outside = Outside::new(EgressConfig {
        allow: nets("127.0.0.0/8"),
        deny: nets("127.0.0.1/32"),
        ..EgressConfig::default()
    });
    let host = server.at("127.0.0.1");
    assert_eq!(call_once(&outside, &[&host], get(format!("http://{host}/"))).await, NOT_ALLOWED_ADDRESS);
    assert_eq!(server.seen().connections, 0);
}

#[tokio::test]
async fn redirects_cannot_lead_where_calls_cannot() {
    let forbidden = Witness::forbidden_on((Ipv4Addr::new(127, 0, 0, 2), 0).into()).await;
    let port = forbidden.port();
    let server = Witness::start(move |request| {
        let location = request.target.trim_start_matches("/?").replace("PORT", &port.to_string());
        Answer::redirect(307, &location)
    })
    .await;
    let outside = Outside::local(EgressConfig { rate: 1000, ..EgressConfig::default() });
    outside.names.add("forbidden.example", &["127.0.0.2"]);
    outside.names.add("metadata.example", &["169.254.169.254"]);
    outside.names.add("other.example", &["127.0.0.2"]);
    outside.names.add("rebinding.example", &["127.0.0.1"]);
    outside.names.add("rebinding.example", &["127.0.0.2"]);
    let hosts = [
        server.at("crm.example"),
        server.at("rebinding.example"),
        forbidden.at("forbidden.example"),
        forbidden.at("127.0.0.2"),
        "metadata.example".to_owned(),
        "169.254.169.254".to_owned(),
    ];
    for (location, reason) in [
        ("http://forbidden.example:PORT/", "ADDRESS_NOT_ALLOWED"),
        ("//127.0.0.2:PORT/", "ADDRESS_NOT_ALLOWED"),
        ("http://2130706434:PORT/", "ADDRESS_NOT_ALLOWED"),
        ("http://169.254.169.254/latest/", "ADDRESS_NOT_ALLOWED"),
        ("http://metadata.example/", "ADDRESS_NOT_ALLOWED"),
        ("http://other.example:PORT/", "HOST_NOT_ALLOWED"),
        ("http://crm.example:1/", "HOST_NOT_ALLOWED"),
        ("http://crm.example@forbidden.example:PORT/", "INVALID_URL"),
        ("file:///etc/passwd", "UNSUPPORTED_SCHEME"),
    ] {
        let url = format!("http://{}/?{location}", hosts[0]);
        assert_eq!(call_once(&outside, &hosts, get(url)).await, Err(reason), "{location}");
    }
    // The first answer for the name is the server itself, the second is not.
    let url = format!("http://{}/?/again", hosts[1]);
    assert_eq!(call_once(&outside, &hosts, get(url)).await, NOT_ALLOWED_ADDRESS);
    assert_eq!(forbidden.seen().connections, 0);
    assert_eq!(server.seen().connections, 10);
}
