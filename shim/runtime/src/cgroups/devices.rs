//! Which devices a container may use: rules for the v1 device controller, or a small eBPF program on v2.
//!
//! What always holds: everything is denied first; then the rules of the config apply in order; then what every container
//! needs (null, zero, terminals, making nodes) is allowed.

use super::systemd::Value;
use super::{CgroupPaths, Group, write_at};
use crate::sys::bpf::{self, Instruction};
use crate::{Error, Result};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use rustix::fd::AsFd;

/// One rule; `None` numbers are any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    allow: bool,
    kind: Kind,
    major: Option<u32>,
    minor: Option<u32>,
    access: Access,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    All,
    Block,
    Char,
}

/// Bits as the kernel's BPF_DEVCG_ACC_*: 1 mknod, 2 read, 4 write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Access(u8);

const RWM: Access = Access(7);

impl Rule {
    const fn allow(kind: Kind, major: Option<u32>, minor: Option<u32>, access: Access) -> Rule {
        Rule { allow: true, kind, major, minor, access }
    }

    fn is_everything(&self) -> bool {
        self.kind == Kind::All && self.major.is_none() && self.minor.is_none()
    }

    /// As the v1 control files take it.
    fn line(&self) -> String {
        let kind = match self.kind {
            Kind::All => return "a".into(),
            Kind::Block => 'b',
            Kind::Char => 'c',
        };
        let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
        format!("{kind} {}:{} {}", number(self.major), number(self.minor), self.access.letters())
    }
}

impl Access {
    fn letters(self) -> String {
        [(2, 'r'), (4, 'w'), (1, 'm')]
            .iter()
            .filter(|(bit, _)| self.0 & bit != 0)
            .map(|(_, letter)| letter)
            .collect()
    }
}

/// What every container may use.
const ALWAYS: &[Rule] = &[
    Rule::allow(Kind::Char, None, None, Access(1)),
    Rule::allow(Kind::Block, None, None, Access(1)),
    Rule::allow(Kind::Char, Some(1), Some(3), RWM),
    Rule::allow(Kind::Char, Some(1), Some(5), RWM),
    Rule::allow(Kind::Char, Some(1), Some(7), RWM),
    Rule::allow(Kind::Char, Some(1), Some(8), RWM),
    Rule::allow(Kind::Char, Some(1), Some(9), RWM),
    Rule::allow(Kind::Char, Some(5), Some(0), RWM),
    Rule::allow(Kind::Char, Some(5), Some(2), RWM),
    Rule::allow(Kind::Char, Some(136), None, RWM),
];

fn parse(rules: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>> {
    let mut parsed = Vec::with_capacity(rules.len() + ALWAYS.len());
    for (index, rule) in rules.iter().enumerate() {
        let invalid =
            |why: String| Error::InvalidSpec { field: format!("linux.resources.devices[{index}]"), why };
        let kind = match rule.typ() {
            None | Some(LinuxDeviceType::A) => Kind::All,
            Some(LinuxDeviceType::B) => Kind::Block,
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => Kind::Char,
            Some(LinuxDeviceType::P) => return Err(invalid("a FIFO is no device".into())),
        };
        let number = |value: Option<i64>| match value {
            None | Some(-1) => Ok(None),
            Some(n) => u32::try_from(n).map(Some).map_err(|_| invalid(format!("{n} is no device number"))),
        };
        let mut access = Access(0);
        for letter in rule.access().as_deref().unwrap_or("rwm").chars() {
            access.0 |= match letter {
                'm' => 1,
                'r' => 2,
                'w' => 4,
                other => return Err(invalid(format!("access {other:?} is none of r, w, m"))),
            };
        }
        let rule = Rule {
            allow: rule.allow(),
            kind,
            major: number(rule.major())?,
            minor: number(rule.minor())?,
            access,
        };
        if rule.kind == Kind::All && !rule.is_everything() {
            // Numbers mean one device of each kind.
            parsed.extend([Rule { kind: Kind::Block, ..rule }, Rule { kind: Kind::Char, ..rule }]);
        } else {
            parsed.push(rule);
        }
    }
    // What came before a rule about everything has no effect any more.
    if let Some(at) = parsed.iter().rposition(|rule| rule.is_everything()) {
        parsed.drain(..at);
    }
    Ok(parsed)
}

/// Applies the rules to the container's cgroup.
pub(super) fn apply(cgroups: &CgroupPaths, rules: &[LinuxDeviceCgroup]) -> Result<()> {
    let mut rules = parse(rules)?;
    let mut allow_all = false;
    if let Some(first) = rules.first().filter(|rule| rule.is_everything()) {
        allow_all = first.allow;
        rules.remove(0);
    }
    if !allow_all {
        rules.extend_from_slice(ALWAYS);
    }
    match (cgroups.v1("devices"), cgroups.v2()) {
        (Some(group), _) => apply_v1(group, allow_all, &rules),
        (None, Some(group)) => apply_v2(group, allow_all, &rules),
        (None, None) => {
            Err(Error::NoController { field: "linux.resources.devices".into(), controller: "devices" })
        }
    }
}

fn apply_v1(group: &Group, allow_all: bool, rules: &[Rule]) -> Result<()> {
    let write = |allow: bool, line: &str| {
        let file = if allow { "devices.allow" } else { "devices.deny" };
        write_at(group, file, line).map_err(|errno| Error::Cgroup {
            path: file.into(),
            value: line.into(),
            source: errno.into(),
        })
    };
    write(allow_all, "a")?;
    for rule in rules {
        write(rule.allow, &rule.line())?;
    }
    Ok(())
}

fn apply_v2(group: &Group, allow_all: bool, rules: &[Rule]) -> Result<()> {
    let system = |doing| move |errno: rustix::io::Errno| Error::System { doing, source: errno.into() };
    let program =
        bpf::load_device_program(&compile(allow_all, rules)).map_err(system("load the device program"))?;
    // Attaching needs a readable descriptor.
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let dir = rustix::fs::openat(group.dir(), c".", flags, rustix::fs::Mode::empty())
        .map_err(system("open the cgroup"))?;
    // An earlier one of ours is replaced at once: no access falls in between. Those of others stay.
    let old =
        bpf::attached_device_program(dir.as_fd()).map_err(system("look for the device program of before"))?;
    bpf::attach_device_program(dir.as_fd(), program.as_fd(), old.as_ref().map(AsFd::as_fd))
        .map_err(system("attach the device program"))
}

/// The rules as systemd takes them, so that its own filter agrees with ours. It knows lists of what is allowed only; where
/// the rules are no such list, it is told nothing, and our filter decides alone.
pub(super) fn systemd_properties(
    rules: &[LinuxDeviceCgroup],
    add: &mut impl FnMut(&str, Value),
) -> Result<()> {
    let mut rules = parse(rules)?;
    let entry =
        |path: String, access: Access| Value::Struct(vec![Value::Str(path), Value::Str(access.letters())]);
    let mut allowed = Vec::new();
    let allow_all = rules.first().is_some_and(|rule| rule.is_everything() && rule.allow);
    if rules.first().is_some_and(Rule::is_everything) {
        rules.remove(0);
    }
    if allow_all && rules.is_empty() {
        add("DeviceAllow", Value::Array("(ss)".into(), Vec::new()));
        add("DevicePolicy", Value::str("auto"));
        return Ok(());
    }
    rules.extend_from_slice(ALWAYS);
    for rule in &rules {
        let kind = if rule.kind == Kind::Block { "block" } else { "char" };
        let path = match (rule.major, rule.minor) {
            (None, None) => format!("{kind}-*"),
            (Some(major), None) => format!("{kind}-{major}"),
            (Some(major), Some(minor)) => format!("/dev/{kind}/{major}:{minor}"),
            (None, Some(_)) => return Ok(()),
        };
        if allow_all || !rule.allow {
            return Ok(());
        }
        allowed.push(entry(path, rule.access));
    }
    // An empty list takes back what was there.
    add("DeviceAllow", Value::Array("(ss)".into(), Vec::new()));
    add("DevicePolicy", Value::str("strict"));
    add("DeviceAllow", Value::Array("(ss)".into(), allowed));
    Ok(())
}

/// The rules as eBPF. The program gets `{access_type, major, minor}` in r1, where access_type is
/// `(access << 16) | type`; it returns 1 to allow. Rules are tested from the last to the first.
fn compile(allow_all: bool, rules: &[Rule]) -> Vec<Instruction> {
    let op = |code: u8, dst: u8, src: u8, offset: i16, immediate: i32| Instruction {
        code,
        registers: dst | src << 4,
        offset,
        immediate,
    };
    const LOAD_WORD: u8 = 0x61;
    const MOVE_REGISTER: u8 = 0xbf;
    const MOVE_32: u8 = 0xb4;
    const AND: u8 = 0x54;
    const SHIFT_RIGHT: u8 = 0x74;
    const JUMP_NOT_EQUAL: u8 = 0x55;
    const JUMP_NOT_EQUAL_REGISTER: u8 = 0x5d;
    const EXIT: u8 = 0x95;
    let mut program = vec![
        op(LOAD_WORD, 2, 1, 0, 0),
        op(AND, 2, 0, 0, 0xffff),
        op(LOAD_WORD, 3, 1, 0, 0),
        op(SHIFT_RIGHT, 3, 0, 0, 16),
        op(LOAD_WORD, 4, 1, 4, 0),
        op(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let mut tests = Vec::new();
        match rule.kind {
            Kind::All => {}
            Kind::Block => tests.push(op(JUMP_NOT_EQUAL, 2, 0, 0, 1)),
            Kind::Char => tests.push(op(JUMP_NOT_EQUAL, 2, 0, 0, 2)),
        }
        if rule.access != RWM {
            tests.push(op(MOVE_REGISTER, 1, 3, 0, 0));
            tests.push(op(AND, 1, 0, 0, i32::from(rule.access.0)));
            // An allowing rule must cover the whole access; a denying one applies if it covers any of it.
            match rule.allow {
                true => tests.push(op(JUMP_NOT_EQUAL_REGISTER, 1, 3, 0, 0)),
                false => tests.push(op(0x15, 1, 0, 0, 0)),
            }
        }
        if let Some(major) = rule.major {
            tests.push(op(JUMP_NOT_EQUAL, 4, 0, 0, major as i32));
        }
        if let Some(minor) = rule.minor {
            tests.push(op(JUMP_NOT_EQUAL, 5, 0, 0, minor as i32));
        }
        // Every failing test jumps behind the two instructions that answer.
        let end = tests.len() + 2;
        for (at, test) in tests.iter_mut().enumerate() {
            if matches!(test.code, JUMP_NOT_EQUAL | JUMP_NOT_EQUAL_REGISTER | 0x15) {
                test.offset = (end - at - 1) as i16;
            }
        }
        program.extend(tests);
        program.extend([op(MOVE_32, 0, 0, 0, i32::from(rule.allow)), op(EXIT, 0, 0, 0, 0)]);
    }
    program.extend([op(MOVE_32, 0, 0, 0, i32::from(allow_all)), op(EXIT, 0, 0, 0, 0)]);
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(
        allow: bool,
        typ: Option<LinuxDeviceType>,
        major: Option<i64>,
        access: &str,
    ) -> LinuxDeviceCgroup {
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(allow).set_typ(typ).set_major(major).set_access(Some(access.into()));
        rule
    }

    #[test]
    fn rules_before_a_rule_about_everything_do_not_count() {
        let rules = parse(&[
            rule(true, Some(LinuxDeviceType::C), Some(10), "rwm"),
            rule(false, None, None, "rwm"),
            rule(true, Some(LinuxDeviceType::B), Some(8), "r"),
        ])
        .unwrap();
        assert_eq!(rules.len(), 2);
        assert!(rules[0].is_everything() && !rules[0].allow);
        assert_eq!(rules[1].line(), "b 8:* r");
    }

    #[test]
    fn the_kernel_takes_the_program() {
        let rules = parse(&[
            rule(true, Some(LinuxDeviceType::C), Some(10), "rw"),
            rule(false, Some(LinuxDeviceType::C), Some(11), "w"),
            rule(true, None, Some(3), "m"),
        ])
        .unwrap();
        bpf::load_device_program(&compile(false, &rules)).unwrap();
        bpf::load_device_program(&compile(true, ALWAYS)).unwrap();
    }
}
