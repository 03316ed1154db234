//! The part of the connection tracker's netlink interface (linux/netfilter/nfnetlink_conntrack.h) that finds flows and has them
//! forgotten, without I/O.

use std::net::{IpAddr, SocketAddr};

use super::{
    Family, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, attribute, attributes, single,
    split,
};

const SUBSYSTEM: u16 = 1;
const NEW: u16 = SUBSYSTEM << 8;
const GET: u16 = SUBSYSTEM << 8 | 1;
const DELETE: u16 = SUBSYSTEM << 8 | 2;

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const NESTED: u16 = super::NESTED;

/// A flow as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    pub protocol: u8,
    /// Where its first packet was sent to.
    pub to: SocketAddr,
    /// Who answers: somebody else if it is translated.
    pub answers: SocketAddr,
}

/// What is sent to have all flows of a family (IPv4 or IPv6) told.
#[must_use]
pub fn list(family: Family) -> Vec<u8> {
    single(GET, NLM_F_REQUEST | NLM_F_DUMP, family as u8, |_| {})
}

/// Reads one datagram of the answer to [`list`]: what has to be sent, each by itself, to have those flows forgotten that are
/// wanted. True: there are no more.
pub fn take(datagram: &[u8], wanted: impl Fn(&Flow) -> bool, found: &mut Vec<Vec<u8>>) -> bool {
    let mut rest = datagram;
    while let Some((kind, body, next)) = split(rest) {
        rest = next;
        match kind {
            NLMSG_DONE | NLMSG_ERROR => return true,
            NEW => {
                let (Some(family), Some(list)) = (body.first(), body.get(4..)) else { continue };
                if flow(list).is_some_and(|flow| wanted(&flow)) {
                    found.push(delete(*family, list));
                }
            }
            _ => {}
        }
    }
    datagram.is_empty()
}

fn flow(list: &[u8]) -> Option<Flow> {
    let (mut original, mut reply) = (None, None);
    for (kind, value) in attributes(list) {
        match kind {
            TUPLE_ORIGINAL => original = Some(value),
            TUPLE_REPLY => reply = Some(value),
            _ => {}
        }
    }
    let original = tuple(original?)?;
    let reply = tuple(reply?)?;
    Some(Flow { protocol: original.protocol, to: original.destination, answers: reply.source })
}

struct Tuple {
    protocol: u8,
    source: SocketAddr,
    destination: SocketAddr,
}

fn tuple(list: &[u8]) -> Option<Tuple> {
    let (mut addresses, mut ports) = ((None, None), (None, None, None));
    for (kind, value) in attributes(list) {
        for (kind, value) in attributes(value).map(|(inner, value)| ((kind, inner), value)) {
            match kind {
                (1, 1 | 3) => addresses.0 = address(value),
                (1, 2 | 4) => addresses.1 = address(value),
                (2, 1) => ports.0 = value.first().copied(),
                (2, 2) => ports.1 = port(value),
                (2, 3) => ports.2 = port(value),
                _ => {}
            }
        }
    }
    let source = SocketAddr::new(addresses.0?, ports.1?);
    Some(Tuple { protocol: ports.0?, source, destination: SocketAddr::new(addresses.1?, ports.2?) })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    v4.or_else(|| Some(<[u8; 16]>::try_from(bytes).ok()?.into()))
}

fn port(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

/// By the attributes that name it: its number keeps a newer flow of the same addresses from being meant.
fn delete(family: u8, list: &[u8]) -> Vec<u8> {
    single(DELETE, NLM_F_REQUEST | NLM_F_ACK, family, |body| {
        for (kind, value) in attributes(list) {
            match kind {
                TUPLE_ORIGINAL => attribute(body, kind | NESTED, value),
                ID | ZONE => attribute(body, kind, value),
                _ => {}
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::{header, nested};
    use super::*;

    fn put_tuple(list: &mut Vec<u8>, kind: u16, from: ([u8; 4], u16), to: ([u8; 4], u16)) {
        nested(list, kind, |tuple| {
            nested(tuple, 1, |ip| {
                attribute(ip, 1, &from.0);
                attribute(ip, 2, &to.0);
            });
            nested(tuple, 2, |proto| {
                attribute(proto, 1, &[17]);
                attribute(proto, 2, &from.1.to_be_bytes());
                attribute(proto, 3, &to.1.to_be_bytes());
            });
        });
    }

    #[test]
    fn a_flow_is_read_and_named_for_its_end() {
        let mut told = Vec::new();
        header(&mut told, NEW, 0, 0, 2);
        let (client, host, container) = (([9, 9, 9, 9], 999), ([10, 0, 0, 1], 53), ([172, 17, 0, 2], 5353));
        put_tuple(&mut told, TUPLE_ORIGINAL, client, host);
        put_tuple(&mut told, TUPLE_REPLY, container, client);
        attribute(&mut told, ID, &[1, 2, 3, 4]);
        let length = told.len() as u32;
        told[..4].copy_from_slice(&length.to_ne_bytes());
        let mut found = Vec::new();
        let wanted = |flow: &Flow| {
            assert_eq!(flow.to, SocketAddr::from(host));
            assert_eq!(flow.answers, SocketAddr::from(container));
            flow.protocol == 17
        };
        assert!(!take(&told, wanted, &mut found));
        let (kind, body, _) = split(&found[0]).unwrap();
        assert_eq!((kind, body[0]), (DELETE, 2));
        let kinds: Vec<u16> = attributes(&body[4..]).map(|(kind, _)| kind).collect();
        assert_eq!(kinds, [TUPLE_ORIGINAL, ID]);
    }

    proptest::proptest! {
        #[test]
        fn no_answer_panics(bytes: Vec<u8>) {
            take(&bytes, |_| true, &mut Vec::new());
        }
    }
}
