//! By which rules the kernel serves a process: CPU scheduler, CPU affinity, I/O priority, NUMA policy, personality.

use crate::init::Step;
use crate::sys::process::SchedAttr;
use crate::{Error, Result};
use oci_spec::runtime::{
    IOPriorityClass, Linux, LinuxIOPriority, LinuxMemoryPolicy, LinuxPersonalityDomain, LinuxSchedulerFlag,
    LinuxSchedulerPolicy, MemoryPolicyFlagType, MemoryPolicyModeType, Process, Scheduler,
};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Highest memory node that a policy may name: the kernel's largest NODES_SHIFT.
const NODES_MAX: usize = 1024;

fn invalid(field: &str, why: impl Into<String>) -> Error {
    Error::InvalidSpec { field: field.into(), why: why.into() }
}

/// The steps for `process.scheduler` and `process.ioPriority`.
pub(crate) fn plan(process: &Process, steps: &mut Vec<Step>) -> Result<()> {
    if let Some(scheduler) = process.scheduler() {
        steps.push(Step::Scheduler(attributes(scheduler)));
    }
    if let Some(priority) = process.io_priority() {
        steps.push(Step::IoPriority(io_priority(priority)?));
    }
    Ok(())
}

fn io_priority(priority: &LinuxIOPriority) -> Result<i32> {
    let class = match priority.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    let level = i32::try_from(priority.priority()).ok().filter(|level| (0..8).contains(level));
    let level = level.ok_or_else(|| invalid("process.ioPriority.priority", "must be from 0 to 7"))?;
    Ok(class << 13 | level)
}

/// What the kernel is told of a scheduler. The specification has flags for clamps of utilisation, but no fields for their
/// values, so that they are 0, as with runc.
fn attributes(scheduler: &Scheduler) -> SchedAttr {
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let flags = scheduler.flags().iter().flatten().fold(0, |flags, flag| {
        flags
            | match flag {
                LinuxSchedulerFlag::SchedResetOnFork => 0x01,
                LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
                LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
                LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
                LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
                LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
                LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
            }
    });
    SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        policy,
        flags,
        nice: scheduler.nice().unwrap_or(0),
        priority: scheduler.priority().unwrap_or(0) as u32,
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
        ..Default::default()
    }
}

/// `linux.memoryPolicy` for every process of the container.
pub(crate) fn memory_policy(linux: &Linux) -> Result<Option<MemoryPolicy>> {
    linux.memory_policy().as_ref().map(MemoryPolicy::new).transpose()
}

/// A NUMA policy as the kernel takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemoryPolicy {
    mode: i32,
    nodes: Vec<libc::c_ulong>,
}

impl MemoryPolicy {
    fn new(policy: &LinuxMemoryPolicy) -> Result<MemoryPolicy> {
        const STATIC: i32 = 1 << 15;
        const RELATIVE: i32 = 1 << 14;
        let (mode, takes_nodes) = match policy.mode() {
            MemoryPolicyModeType::MpolDefault => (0, false),
            MemoryPolicyModeType::MpolPreferred => (1, true),
            MemoryPolicyModeType::MpolBind => (2, true),
            MemoryPolicyModeType::MpolInterleave => (3, true),
            MemoryPolicyModeType::MpolLocal => (4, false),
            MemoryPolicyModeType::MpolPreferredMany => (5, true),
            MemoryPolicyModeType::MpolWeightedInterleave => (6, true),
        };
        let flags = policy.flags().iter().flatten().fold(0, |flags, flag| {
            flags
                | match flag {
                    MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
                    MemoryPolicyFlagType::MpolFRelativeNodes => RELATIVE,
                    MemoryPolicyFlagType::MpolFStaticNodes => STATIC,
                }
        });
        if flags & (STATIC | RELATIVE) == STATIC | RELATIVE {
            let why = "MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude each other";
            return Err(invalid("linux.memoryPolicy.flags", why));
        }
        let field = "linux.memoryPolicy.nodes";
        let list = policy.nodes().as_deref().unwrap_or_default();
        if !list.is_empty() && !takes_nodes {
            return Err(invalid(field, format!("{:?} takes no nodes", policy.mode().to_string())));
        }
        // Preferred without nodes is the local node.
        if list.is_empty() && takes_nodes && policy.mode() != MemoryPolicyModeType::MpolPreferred {
            return Err(invalid(field, format!("{:?} needs nodes", policy.mode().to_string())));
        }
        Ok(MemoryPolicy { mode: mode | flags, nodes: node_mask(list)? })
    }

    pub(crate) fn step(&self) -> Step {
        Step::MemoryPolicy { mode: self.mode, nodes: self.nodes.clone() }
    }
}

fn node_mask(list: &str) -> Result<Vec<libc::c_ulong>> {
    let mut mask = Vec::new();
    let bits = libc::c_ulong::BITS as usize;
    each_number(list, "linux.memoryPolicy.nodes", NODES_MAX, |node| {
        if mask.len() <= node / bits {
            mask.resize(node / bits + 1, 0);
        }
        mask[node / bits] |= 1 << (node % bits);
    })?;
    Ok(mask)
}

/// Calls `take` for every number of a list such as `0-3,7`, all below `end`.
fn each_number(list: &str, field: &str, end: usize, mut take: impl FnMut(usize)) -> Result<()> {
    let wrong = || invalid(field, format!("{list:?} is no list such as 0-3,7 of numbers below {end}"));
    for part in list.split(',').filter(|_| !list.is_empty()) {
        let (first, last) = part.trim().split_once('-').unwrap_or((part.trim(), part.trim()));
        let (first, last): (usize, usize) =
            (first.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?);
        if first > last || last >= end {
            return Err(wrong());
        }
        (first..=last).for_each(&mut take);
    }
    Ok(())
}

/// The processors of a further process, before and after it is in the container's cgroups.
pub(crate) struct ExecAffinity {
    initial: Option<CpuSet>,
    last: Option<CpuSet>,
}

impl ExecAffinity {
    pub(crate) fn of(process: &Process) -> Result<ExecAffinity> {
        let Some(affinity) = process.exec_cpu_affinity() else {
            return Ok(ExecAffinity { initial: None, last: None });
        };
        let set = |list: &Option<String>| list.as_deref().filter(|list| !list.is_empty()).map(cpu_set);
        Ok(ExecAffinity {
            initial: set(affinity.initial()).transpose()?,
            last: set(affinity.cpu_affinity_final()).transpose()?,
        })
    }

    /// The step for what holds after the process is in its cgroups.
    pub(crate) fn plan(&self, steps: &mut Vec<Step>) {
        steps.extend(self.last.map(|set| Step::Affinity(Box::new(set))));
    }

    /// Calls `spawn` on the initial processors: the child inherits them, and is born in its cgroup on v2.
    pub(crate) fn spawn<T>(&self, spawn: impl FnOnce() -> Result<T>) -> Result<T> {
        let Some(initial) = &self.initial else { return spawn() };
        let system = |doing| move |errno: rustix::io::Errno| Error::System { doing, source: errno.into() };
        let own = sched_getaffinity(None).map_err(system("read the runtime's CPU affinity"))?;
        sched_setaffinity(None, initial).map_err(|errno| {
            invalid("process.execCPUAffinity.initial", crate::error::errno_text(errno.raw_os_error()))
        })?;
        let result = spawn();
        sched_setaffinity(None, &own).map_err(system("set back the runtime's CPU affinity"))?;
        result
    }
}

fn cpu_set(list: &str) -> Result<CpuSet> {
    let mut set = CpuSet::new();
    each_number(list, "process.execCPUAffinity", CpuSet::MAX_CPU, |cpu| set.set(cpu))?;
    Ok(set)
}

/// The argument of personality(2). The specification defines no flags; those of the kernel are understood by their names.
pub(crate) fn personality(linux: &Linux) -> Result<Option<u64>> {
    const PER_LINUX32: u64 = 8;
    const FLAGS: &[(&str, u64)] = &[
        ("UNAME26", 0x0020000),
        ("ADDR_NO_RANDOMIZE", 0x0040000),
        ("FDPIC_FUNCPTRS", 0x0080000),
        ("MMAP_PAGE_ZERO", 0x0100000),
        ("ADDR_COMPAT_LAYOUT", 0x0200000),
        ("READ_IMPLIES_EXEC", 0x0400000),
        ("ADDR_LIMIT_32BIT", 0x0800000),
        ("SHORT_INODE", 0x1000000),
        ("WHOLE_SECONDS", 0x2000000),
        ("STICKY_TIMEOUTS", 0x4000000),
        ("ADDR_LIMIT_3GB", 0x8000000),
    ];
    let Some(personality) = linux.personality() else { return Ok(None) };
    let domain = match personality.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => PER_LINUX32,
    };
    let mut persona = domain;
    for name in personality.flags().iter().flatten() {
        let known = FLAGS.iter().find(|(known, _)| known == name);
        persona |= known.map(|(_, bit)| bit).ok_or_else(|| {
            invalid("linux.personality.flags", format!("{name:?} is no flag of personality(2)"))
        })?;
    }
    Ok(Some(persona))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_numbers() {
        let set = cpu_set("0-2,5").unwrap();
        assert!(set.is_set(1) && set.is_set(5) && !set.is_set(3));
        for wrong in ["3-1", "x", "1,,2", "0-99999", "-1", "1-"] {
            assert!(cpu_set(wrong).is_err(), "{wrong}");
        }
        assert_eq!(node_mask("0,64-65").unwrap(), [1, 3]);
        assert!(node_mask("").unwrap().is_empty());
    }

    #[test]
    fn memory_policies_that_contradict_themselves() {
        let parse = |text: &str| MemoryPolicy::new(&serde_json::from_str(text).unwrap());
        assert!(parse(r#"{"mode":"MPOL_DEFAULT","nodes":"0"}"#).is_err());
        assert!(parse(r#"{"mode":"MPOL_BIND"}"#).is_err());
        let both =
            r#"{"mode":"MPOL_BIND","nodes":"0","flags":["MPOL_F_STATIC_NODES","MPOL_F_RELATIVE_NODES"]}"#;
        assert!(parse(both).is_err());
        let one = r#"{"mode":"MPOL_INTERLEAVE","nodes":"0-1","flags":["MPOL_F_STATIC_NODES"]}"#;
        assert_eq!(parse(one).unwrap(), MemoryPolicy { mode: 3 | 1 << 15, nodes: vec![3] });
    }
}
