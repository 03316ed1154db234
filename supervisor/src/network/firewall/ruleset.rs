//! The rules of all networks, as one transaction for `nft -f -`. As text: `nft -j` of nftables 1.0.6 cannot write a translation by
//! a map of addresses with ports.
//!
//! What always holds: the table is ours alone; published ports are elements of its maps, which a transaction leaves as they
//! are, so that rules change under traffic.

use std::fmt::Write;

use super::Rules;
use super::forwarding::Ours;
use super::kernel::Element;
use crate::network::GROUP;
use crate::network::cidr::Family;

/// Maps from what was published to the container: for ports on one address, and for those on all.
pub const EXACT: [&str; 2] = ["exact4", "exact6"];
pub const ANY: [&str; 2] = ["any4", "any6"];

/// Who else may come to a published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside {
    /// Packets of other machines are translated before the host's input rules could see them.
    Translated,
    /// They reach the port that the shim holds, through the host's input rules.
    Filtered,
}

/// The transaction that brings the table to these networks. What is passed on because of us alone is passed on for us alone.
pub fn text(table: &str, networks: &[&Rules], outside: Outside, forwarding: Ours) -> String {
    let mut out = String::with_capacity(2048);
    head(&mut out, table);
    let mut rule = |chain: &str, rule: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "add rule inet {table} {chain} {rule}");
    };
    rule("published", format!("dnat ip to ip daddr . meta l4proto . th dport map @{}", EXACT[0]));
    rule("published", format!("dnat ip6 to ip6 daddr . meta l4proto . th dport map @{}", EXACT[1]));
    rule("published", format!("meta nfproto ipv4 dnat ip to meta l4proto . th dport map @{}", ANY[0]));
    rule("published", format!("meta nfproto ipv6 dnat ip6 to meta l4proto . th dport map @{}", ANY[1]));
    let bridges = networks.iter().map(|network| format!("\"{}\"", network.bridge)).collect::<Vec<_>>();
    let bridges = bridges.join(", ");
    match outside {
        Outside::Translated => rule("prerouting", "fib daddr type local jump published".to_owned()),
        Outside::Filtered if bridges.is_empty() => {}
        Outside::Filtered => {
            rule("prerouting", format!("iifname {{ {bridges} }} fib daddr type local jump published"));
        }
    }
    // Not from loopback addresses: the answer could not come back to them. The shim passes those on.
    rule("output", "ip daddr != 127.0.0.0/8 fib daddr type local jump published".to_owned());
    rule("output", "ip6 daddr != ::1 fib daddr type local jump published".to_owned());
    // Other daemons of ours on this host have interfaces of the same group.
    for (family, _) in [("ipv4", forwarding.v4), ("ipv6", forwarding.v6)].iter().filter(|(_, ours)| *ours) {
        rule("forward", format!("meta nfproto {family} iifgroup != {GROUP} oifgroup != {GROUP} drop"));
    }
    rule("forward", "ct state established,related accept".to_owned());
    for Rules { bridge, .. } in networks.iter().filter(|network| network.internal) {
        rule("forward", format!("iifname \"{bridge}\" oifname != \"{bridge}\" drop"));
        rule("forward", format!("oifname \"{bridge}\" iifname != \"{bridge}\" drop"));
    }
    rule("forward", "ct status dnat accept".to_owned());
    for Rules { bridge, talk, .. } in networks {
        let verdict = if *talk { "accept" } else { "drop" };
        rule("forward", format!("iifname \"{bridge}\" oifname \"{bridge}\" {verdict}"));
    }
    if !bridges.is_empty() {
        // From other networks, and from outside past what is published.
        rule("forward", format!("oifname {{ {bridges} }} drop"));
    }
    for network in networks.iter().filter(|network| !network.internal) {
        for subnet in &network.subnets {
            let family = match subnet.family() {
                Family::V4 => "ip",
                Family::V6 => "ip6",
            };
            let bridge = &network.bridge;
            if network.masquerade {
                let leaving = format!("{family} saddr {subnet} oifname != \"{bridge}\" masquerade");
                rule("postrouting", leaving);
            }
            // Back to the network that it came from: the answer must come this way, too.
            let hairpin = format!("{family} saddr {subnet} oifname \"{bridge}\" ct status dnat masquerade");
            rule("postrouting", hairpin);
        }
    }
    out
}

/// Makes what is missing, and empties the chains.
fn head(out: &mut String, table: &str) {
    let maps = [
        (EXACT[0], "ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service"),
        (EXACT[1], "ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service"),
        (ANY[0], "inet_proto . inet_service : ipv4_addr . inet_service"),
        (ANY[1], "inet_proto . inet_service : ipv6_addr . inet_service"),
    ];
    let chains = [
        ("prerouting", "{ type nat hook prerouting priority -100; policy accept; }"),
        ("output", "{ type nat hook output priority -100; policy accept; }"),
        ("postrouting", "{ type nat hook postrouting priority 100; policy accept; }"),
        ("forward", "{ type filter hook forward priority 0; policy accept; }"),
        ("published", ""),
    ];
    let _ = writeln!(out, "add table inet {table}");
    for (map, kind) in maps {
        let _ = writeln!(out, "add map inet {table} {map} {{ type {kind}; }}");
    }
    for (chain, hook) in chains {
        let _ = writeln!(out, "add chain inet {table} {chain} {hook}");
        let _ = writeln!(out, "flush chain inet {table} {chain}");
    }
}

/// What brings the maps of a table to these elements.
pub fn published(table: &str, elements: &[Element]) -> String {
    let maps = EXACT.iter().chain(&ANY);
    let flushed = maps.fold(String::new(), |text, map| text + &format!("flush map inet {table} {map}\n"));
    elements.iter().fold(flushed, |text, one| text + &element(table, one))
}

/// How many rules a transaction adds.
pub fn count(text: &str) -> usize {
    text.lines().filter(|line| line.starts_with("add rule ")).count()
}

/// A published port, as a line of a transaction.
fn element(table: &str, element: &Element) -> String {
    let Element { protocol, host, port, target, target_port } = element;
    let family = usize::from(host.is_ipv6());
    let (map, address) = match host.is_unspecified() {
        true => (ANY[family], String::new()),
        false => (EXACT[family], format!("{host} . ")),
    };
    format!("add element inet {table} {map} {{ {address}{protocol} . {port} : {target} . {target_port} }}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_internal_network_reaches_nobody_and_is_not_translated() {
        let subnet = "10.9.0.0/24".parse().unwrap();
        let network = Rules {
            bridge: "b1".into(),
            subnets: vec![subnet],
            internal: true,
            masquerade: true,
            talk: true,
        };
        let text = text("t", &[&network], Outside::Translated, Ours::default());
        assert!(text.contains("iifname \"b1\" oifname != \"b1\" drop"));
        assert!(!text.contains("iifgroup"));
        assert!(!text.contains("masquerade"));
    }

    #[test]
    fn a_filtering_host_sees_what_comes_from_outside() {
        let network =
            Rules { bridge: "b1".into(), subnets: vec![], internal: false, masquerade: true, talk: false };
        let filtered = text("t", &[&network], Outside::Filtered, Ours { v4: true, v6: false });
        assert!(filtered.contains("nfproto ipv4 iifgroup") && !filtered.contains("nfproto ipv6 iifgroup"));
        assert!(filtered.contains("prerouting iifname { \"b1\" } fib daddr type local jump published"));
        assert!(filtered.contains("iifname \"b1\" oifname \"b1\" drop"));
        assert!(!text("t", &[], Outside::Filtered, Ours::default()).contains("prerouting iifname"));
    }
}
