//! Which addresses lambdas may reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Decides about addresses. Everything that is not plain public unicast is refused unless the operator
/// allows its range; the operator's own refusals come first.
#[derive(Debug, Clone, Default)]
pub struct AddressPolicy {
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
}

/// An address that lambdas may not reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denied {
    /// Kind of the address, for example `loopback`.
    pub kind: &'static str,
}

impl AddressPolicy {
    /// Allows `allow` on top of public addresses, and refuses `deny` whatever else is said.
    pub fn new(allow: Vec<IpNet>, deny: Vec<IpNet>) -> Self {
        Self { allow, deny }
    }

    /// The address to connect to for `address`: itself, or the IPv4 address that it only wraps.
    ///
    /// # Errors
    /// The address may not be reached.
    pub fn check(&self, address: IpAddr) -> Result<IpAddr, Denied> {
        let address = address.to_canonical();
        let reached = behind_nat64(address).unwrap_or(address);
        let within = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&address) || net.contains(&reached));
        if within(&self.deny) {
            return Err(Denied { kind: "refused by the operator" });
        }
        if within(&self.allow) {
            return Ok(address);
        }
        match special(reached) {
            Some(kind) => Err(Denied { kind }),
            None => Ok(address),
        }
    }
}

/// The IPv4 address that a gateway puts in the place of an address under the well-known NAT64 prefix.
fn behind_nat64(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(address) = address else { return None };
    let [.., a, b, c, d] = address.octets();
    NAT64.contains(&address).then_some(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
}

/// What is special about an address; `None` for public unicast.
fn special(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => {
            SPECIAL_V4.iter().find(|(net, _)| net.contains(&address)).map(|(_, kind)| *kind)
        }
        // Only 2000::/3 is public unicast, so what is not listed here is refused as well.
        IpAddr::V6(address) => match SPECIAL_V6.iter().find(|(net, _)| net.contains(&address)) {
            Some((_, kind)) => Some(kind),
            None if GLOBAL_V6.contains(&address) => None,
            None => Some("not public"),
        },
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(segments: [u16; 3], prefix: u8) -> Ipv6Net {
    let [a, b, c] = segments;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), prefix)
}

const NAT64: Ipv6Net = v6([0x64, 0xff9b, 0], 96);
const GLOBAL_V6: Ipv6Net = v6([0x2000, 0, 0], 3);

/// After IANA's registry of special-purpose IPv4 addresses, and one cloud's host agent that has a public one.
const SPECIAL_V4: [(Ipv4Net, &str); 18] = [
    (v4(127, 0, 0, 0, 8), "loopback"),
    (v4(10, 0, 0, 0, 8), "private"),
    (v4(172, 16, 0, 0, 12), "private"),
    (v4(192, 168, 0, 0, 16), "private"),
    (v4(169, 254, 0, 0, 16), "link-local"),
    (v4(100, 64, 0, 0, 10), "carrier-grade NAT"),
    (v4(0, 0, 0, 0, 8), "unspecified"),
    (v4(192, 0, 0, 0, 24), "protocol assignments"),
    (v4(192, 0, 2, 0, 24), "documentation"),
    (v4(198, 51, 100, 0, 24), "documentation"),
    (v4(203, 0, 113, 0, 24), "documentation"),
    (v4(192, 31, 196, 0, 24), "AS112 redirection"),
    (v4(192, 52, 193, 0, 24), "multicast relay"),
    (v4(192, 88, 99, 0, 24), "6to4 relay"),
    (v4(192, 175, 48, 0, 24), "AS112 redirection"),
    (v4(198, 18, 0, 0, 15), "benchmarking"),
    (v4(168, 63, 129, 16, 32), "cloud host agent"),
    // Multicast, reserved, broadcast.
    (v4(224, 0, 0, 0, 3), "not unicast"),
];

/// Inside of 2000::/3, after IANA's registry, and what deserves a better word than "not public" outside of it.
const SPECIAL_V6: [(Ipv6Net, &str); 14] = [
    (Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128), "loopback"),
    (Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128), "unspecified"),
    (v6([0, 0, 0], 96), "IPv4-compatible"),
    (v6([0x64, 0xff9b, 1], 48), "local NAT64"),
    (v6([0xfc00, 0, 0], 7), "private"),
    (v6([0xfe80, 0, 0], 10), "link-local"),
    (v6([0xfec0, 0, 0], 10), "site-local"),
    (v6([0xff00, 0, 0], 8), "multicast"),
    // Teredo and other protocol assignments; 6to4. Both wrap IPv4 addresses.
    (v6([0x2001, 0, 0], 23), "protocol assignments"),
    (v6([0x2002, 0, 0], 16), "6to4"),
    (v6([0x2001, 0xdb8, 0], 32), "documentation"),
    (v6([0x3fff, 0, 0], 20), "documentation"),
    (v6([0x2620, 0x4f, 0x8000], 48), "AS112 redirection"),
    (v6([0x3ffe, 0, 0], 16), "6bone"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(policy: &AddressPolicy, address: &str) -> Option<&'static str> {
        policy.check(address.parse().unwrap()).err().map(|denied| denied.kind)
    }

    #[test]
    fn public_addresses_are_allowed() {
        let policy = AddressPolicy::default();
        for address in
            ["1.1.1.1", "93.184.215.14", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::1.1.1.1"]
        {
            assert_eq!(kind(&policy, address), None, "{address}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let policy = AddressPolicy::default();
        for address in [
            "127.0.0.1",
            "127.255.255.254",
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "100.100.100.200",
            "192.0.0.192",
            "192.0.2.1",
            "198.51.100.1",
            "203.0.113.1",
            "198.18.0.1",
            "198.19.255.255",
            "192.88.99.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "168.63.129.16",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "::1.1.1.1",
            "::ffff:0:127.0.0.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1.1.1.1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "2001::1",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "2001:db8::1",
            "3fff::1",
            "100::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "4000::1",
        ] {
            assert!(kind(&policy, address).is_some(), "{address} was allowed");
        }
        assert_eq!(kind(&policy, "169.254.169.254"), Some("link-local"));
        assert_eq!(kind(&policy, "::ffff:127.0.0.1"), Some("loopback"));
    }

    #[test]
    fn the_operator_allows_and_refuses_ranges() {
        let nets = |nets: &[&str]| nets.iter().map(|net| net.parse().unwrap()).collect();
        let policy =
            AddressPolicy::new(nets(&["127.0.0.0/8", "fd00::/8"]), nets(&["127.0.0.9/32", "1.1.1.0/24"]));
        assert_eq!(kind(&policy, "127.0.0.1"), None);
        assert_eq!(kind(&policy, "fd12::1"), None);
        assert_eq!(kind(&policy, "::1"), Some("loopback"), "only what is named is allowed");
        assert_eq!(kind(&policy, "10.0.0.1"), Some("private"));
        assert_eq!(kind(&policy, "127.0.0.9"), Some("refused by the operator"));
        assert_eq!(kind(&policy, "::ffff:127.0.0.9"), Some("refused by the operator"));
        assert_eq!(kind(&policy, "64:ff9b::1.1.1.1"), Some("refused by the operator"));
    }

    #[test]
    fn wrapped_addresses_are_unwrapped_for_the_connection() {
        let policy = AddressPolicy::new(vec!["127.0.0.0/8".parse().unwrap()], Vec::new());
        let connected = policy.check("::ffff:127.0.0.1".parse().unwrap());
        assert_eq!(connected, Ok("127.0.0.1".parse().unwrap()));
    }
}
