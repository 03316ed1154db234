//! The five capability sets of a process, as bit masks.

use crate::init::Step;
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

/// The number of a capability, as in linux/capability.h.
fn number(capability: Capability) -> u32 {
    match capability {
        Capability::Chown => 0,
        Capability::DacOverride => 1,
        Capability::DacReadSearch => 2,
        Capability::Fowner => 3,
        Capability::Fsetid => 4,
        Capability::Kill => 5,
        Capability::Setgid => 6,
        Capability::Setuid => 7,
        Capability::Setpcap => 8,
        Capability::LinuxImmutable => 9,
        Capability::NetBindService => 10,
        Capability::NetBroadcast => 11,
        Capability::NetAdmin => 12,
        Capability::NetRaw => 13,
        Capability::IpcLock => 14,
        Capability::IpcOwner => 15,
        Capability::SysModule => 16,
        Capability::SysRawio => 17,
        Capability::SysChroot => 18,
        Capability::SysPtrace => 19,
        Capability::SysPacct => 20,
        Capability::SysAdmin => 21,
        Capability::SysBoot => 22,
        Capability::SysNice => 23,
        Capability::SysResource => 24,
        Capability::SysTime => 25,
        Capability::SysTtyConfig => 26,
        Capability::Mknod => 27,
        Capability::Lease => 28,
        Capability::AuditWrite => 29,
        Capability::AuditControl => 30,
        Capability::Setfcap => 31,
        Capability::MacOverride => 32,
        Capability::MacAdmin => 33,
        Capability::Syslog => 34,
        Capability::WakeAlarm => 35,
        Capability::BlockSuspend => 36,
        Capability::AuditRead => 37,
        Capability::Perfmon => 38,
        Capability::Bpf => 39,
        Capability::CheckpointRestore => 40,
    }
}

fn mask(set: Option<&Capabilities>) -> u64 {
    set.into_iter().flatten().fold(0, |mask, capability| mask | 1 << number(*capability))
}

pub(crate) fn bit(capability: Capability) -> u64 {
    1 << number(capability)
}

/// Every capability that some set has.
pub(crate) fn all_of(sets: Option<&LinuxCapabilities>) -> u64 {
    let Some(sets) = sets else { return 0 };
    let all = [sets.bounding(), sets.effective(), sets.permitted(), sets.inheritable(), sets.ambient()];
    all.into_iter().fold(0, |all, set| all | mask(set.as_ref()))
}

/// The steps that give a process its capabilities: first what it can never get back, then the rest.
pub(crate) struct Plan {
    /// What stays in the bounding set.
    pub(crate) bounding: u64,
    sets: Sets,
    available: u64,
}

#[derive(Clone, Copy)]
struct Sets {
    effective: u64,
    permitted: u64,
    inheritable: u64,
    ambient: u64,
}

impl Sets {
    fn step(self) -> Step {
        let Sets { effective, permitted, inheritable, ambient } = self;
        Step::Capabilities { effective, permitted, inheritable, ambient }
    }
}

/// What loading a seccomp program without no_new_privs takes.
const SYS_ADMIN: u64 = 1 << 21;

impl Plan {
    /// The sets that the program gets.
    pub(crate) fn last(&self) -> Step {
        self.sets.step()
    }

    /// The program's own, with what loading a seccomp program takes in reserve.
    pub(crate) fn with_reserve(&self) -> Step {
        let permitted = self.sets.permitted | SYS_ADMIN & self.available;
        Sets { permitted, ambient: 0, ..self.sets }.step()
    }

    /// The reserve in use.
    pub(crate) fn for_loading(&self) -> Step {
        let admin = SYS_ADMIN & self.available;
        let (effective, permitted) = (self.sets.effective | admin, self.sets.permitted | admin);
        Sets { effective, permitted, ambient: 0, ..self.sets }.step()
    }
}

/// Whose privileges the process starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The runtime's own: what it lacks cannot be given.
    Runtime,
    /// A user namespace, in which the process has all.
    UserNamespace,
}

/// Plans the sets; no sets in the config means no capabilities. Those that the runtime itself lacks are left out and named
/// in `warnings`.
pub(crate) fn plan(sets: Option<&LinuxCapabilities>, origin: Origin, warnings: &mut Vec<String>) -> Plan {
    let of =
        |get: fn(&LinuxCapabilities) -> &Option<Capabilities>| mask(sets.and_then(|sets| get(sets).as_ref()));
    let available = match origin {
        Origin::UserNamespace => u64::MAX,
        Origin::Runtime => own_permitted(),
    };
    let permitted = of(LinuxCapabilities::permitted);
    let missing = permitted & !available;
    if missing != 0 {
        let names =
            (0..64).filter(|n| missing & 1 << n != 0).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
        warnings.push(format!(
            "process.capabilities: the runtime itself lacks the capabilities numbered {names}; left out"
        ));
    }
    let permitted = permitted & available;
    Plan {
        bounding: of(LinuxCapabilities::bounding),
        sets: Sets {
            effective: of(LinuxCapabilities::effective) & permitted,
            permitted,
            inheritable: of(LinuxCapabilities::inheritable) & available,
            ambient: of(LinuxCapabilities::ambient),
        },
        available,
    }
}

fn own_permitted() -> u64 {
    rustix::thread::capabilities(None).map_or(u64::MAX, |sets| sets.permitted.bits())
}
