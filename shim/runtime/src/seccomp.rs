//! Seccomp programs: compiled by libseccomp from the config, cached in a file, loaded by the container's init.
//!
//! What always holds: arguments of one rule are all required (CVE-2017-18367); a syscall that is newer than the profile
//! fails with `ENOSYS`, so that programs fall back; a file of the cache that is not whole is none; where this process has one
//! thread, the compiler runs in a short-lived child, whose memory is not kept.

use crate::init::{Listener, Step};
use crate::patience::ends_within;
use crate::sys::process::{self, Exit, Reap};
use crate::sys::seccomp::Instruction;
use crate::{Error, Result};
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
    LinuxSyscall,
};
use rustix::fd::AsFd;
use rustix::fs::{MemfdFlags, SeekFrom};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Longest program that the kernel takes, in instructions.
const PROGRAM_MAX: usize = 4096;
/// Changes whenever the same profile would compile to another program, or to another file of it.
const CACHE_VERSION: u32 = 4;
/// Most programs that the cache holds; further ones are compiled every time.
const CACHE_MAX: usize = 1024;
/// How long the compiler may take; it takes milliseconds.
const COMPILER_PATIENCE: Duration = Duration::from_secs(60);
/// From how many rules on libseccomp makes a tree of them. It makes a wrong one of none at all.
const TREE_FROM: usize = 32;

/// The step that loads the program of a config. Also a profile that allows everything is loaded: it still refuses the
/// machine's other architectures, and `/proc/PID/status` says so.
pub(crate) fn plan(seccomp: &LinuxSeccomp, cache: Option<&Path>, listener: Listener) -> Result<Step> {
    let program = load_or_compile(seccomp, cache)?;
    Ok(Step::Seccomp { program, flags: flags(seccomp, listener), listener })
}

/// The kernel's bits. A profile that does not speak of flags leaves speculation as it is: the mitigation is costly, and
/// kernels that want it for every filtered process need no flag.
fn flags(seccomp: &LinuxSeccomp, listener: Listener) -> u32 {
    const SPEC_ALLOW: u32 = 1 << 2;
    let Some(flags) = seccomp.flags() else { return SPEC_ALLOW };
    let mut bits = 0;
    for flag in flags {
        bits |= match flag {
            // There is one thread only.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => 1 << 1,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => SPEC_ALLOW,
            // It says how a listener's clients wait; without a listener there are none, and the kernel refuses it.
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => match listener {
                Listener::Parent => 1 << 5,
                Listener::None => 0,
            },
        };
    }
    bits
}

/// The version of the library that compiles profiles.
///
/// # Errors
/// The library does not say.
pub fn libseccomp_version() -> Result<String> {
    let version = libseccomp::ScmpVersion::current().map_err(|_| Error::InvalidSpec {
        field: "linux.seccomp".into(),
        why: "libseccomp has no version".into(),
    })?;
    Ok(format!("{}.{}.{}", version.major, version.minor, version.micro))
}

fn load_or_compile(seccomp: &LinuxSeccomp, cache: Option<&Path>) -> Result<Vec<Instruction>> {
    let file = cache.map(|folder| folder.join(cache_name(seccomp)));
    if let Some(program) = file.as_deref().and_then(read_cached) {
        return Ok(program);
    }
    let bytes = match is_one_thread() {
        true => compile_in_child(seccomp)?,
        // Another thread may hold the allocator's lock, which nobody would open in a child.
        false => compile(seccomp).map_err(|error| invalid(error.to_string()))?,
    };
    let program =
        decode(&bytes).ok_or_else(|| invalid("does not compile to a program that the kernel would take"))?;
    if let Some(file) = &file {
        // A cache that cannot be written costs time only.
        let _ = write_cached(file, &bytes);
    }
    Ok(program)
}

fn invalid(why: impl Into<String>) -> Error {
    Error::InvalidSpec { field: "linux.seccomp".into(), why: why.into() }
}

/// Named by what goes into the program. The folder belongs to root alone, so a name is enough to trust the contents.
fn cache_name(seccomp: &LinuxSeccomp) -> String {
    let version = libseccomp::ScmpVersion::current().map(|v| (v.major, v.minor, v.micro)).unwrap_or_default();
    let mut names = [DefaultHasher::new(), DefaultHasher::new()];
    for (salt, hasher) in names.iter_mut().enumerate() {
        (salt, CACHE_VERSION, version, std::env::consts::ARCH).hash(hasher);
        hash_profile(seccomp, hasher);
    }
    format!("{:016x}{:016x}.bpf", names[0].finish(), names[1].finish())
}

fn hash_profile(seccomp: &LinuxSeccomp, hasher: &mut DefaultHasher) {
    (seccomp.default_action().as_u32(None), seccomp.default_errno_ret()).hash(hasher);
    for arch in seccomp.architectures().iter().flatten() {
        (*arch as u32).hash(hasher);
    }
    for rule in seccomp.syscalls().iter().flatten() {
        (rule.names(), rule.action().as_u32(None), rule.errno_ret()).hash(hasher);
        for arg in rule.args().iter().flatten() {
            (arg.index(), arg.value(), arg.value_two(), arg.op() as u32).hash(hasher);
        }
        0xffu8.hash(hasher);
    }
}

fn read_cached(file: &Path) -> Option<Vec<Instruction>> {
    let bytes = std::fs::read(file).ok()?;
    let (bytes, sum) = bytes.split_last_chunk::<SUM>().map(|(bytes, sum)| (bytes, *sum))?;
    decode(bytes).filter(|_| sum == sum_of(bytes))
}

/// Bytes at the end of a file of the cache that are made from all before.
const SUM: usize = 8;

fn sum_of(bytes: &[u8]) -> [u8; SUM] {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish().to_ne_bytes()
}

/// Written beside and renamed, so that nobody reads half a program.
fn write_cached(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    if let Some(folder) = file.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        if std::fs::read_dir(folder)?.count() >= CACHE_MAX {
            return Ok(());
        }
    }
    // Other threads may write the same program.
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let beside = PathBuf::from(format!("{}.{}.{count}", file.display(), std::process::id()));
    let mut out =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    let written = out.write_all(bytes).and_then(|()| out.write_all(&sum_of(bytes)));
    written.and_then(|()| std::fs::rename(&beside, file)).inspect_err(|_| {
        let _ = std::fs::remove_file(&beside);
    })
}

/// The program's bytes as the kernel wants them.
fn decode(bytes: &[u8]) -> Option<Vec<Instruction>> {
    let program: Vec<Instruction> = bytes
        .chunks_exact(8)
        .map(|c| Instruction {
            code: u16::from_ne_bytes([c[0], c[1]]),
            jt: c[2],
            jf: c[3],
            k: u32::from_ne_bytes([c[4], c[5], c[6], c[7]]),
        })
        .collect();
    (bytes.len().is_multiple_of(8) && !program.is_empty() && program.len() <= PROGRAM_MAX).then_some(program)
}

fn encode(program: &[Instruction]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(program.len() * 8);
    for instruction in program {
        bytes.extend(instruction.code.to_ne_bytes());
        bytes.extend([instruction.jt, instruction.jf]);
        bytes.extend(instruction.k.to_ne_bytes());
    }
    bytes
}

/// Whether this thread is the only one of its process.
fn is_one_thread() -> bool {
    // The folder has a link for each thread besides its own two.
    rustix::fs::stat(c"/proc/self/task").is_ok_and(|folder| folder.st_nlink == 3)
}

/// Compiles in a forked child, so that libseccomp's working memory does not stay with a long-lived caller. The caller has
/// one thread, so the child may allocate.
fn compile_in_child(seccomp: &LinuxSeccomp) -> Result<Vec<u8>> {
    let system = |doing| move |errno: rustix::io::Errno| Error::System { doing, source: errno.into() };
    let out = rustix::fs::memfd_create(c"seccomp", MemfdFlags::CLOEXEC)
        .map_err(system("make a file for the seccomp program"))?;
    let child = process::spawn(0, None, || {
        let (code, bytes) = match compile(seccomp) {
            Ok(bytes) => (0, bytes),
            Err(error) => (1, error.to_string().into_bytes()),
        };
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            match rustix::io::write(&out, rest) {
                Ok(written) => rest = &rest[written..],
                Err(_) => return 2,
            }
        }
        code
    })
    .map_err(system("fork the seccomp compiler"))?;
    let is_late = !ends_within(child.pidfd.as_fd(), COMPILER_PATIENCE);
    if is_late {
        let _ = process::pidfd_send_signal(child.pidfd.as_fd(), libc::SIGKILL);
    }
    let exit =
        process::wait(child.pidfd.as_fd(), Reap::Take).map_err(system("wait for the seccomp compiler"))?;
    if is_late {
        let limit = COMPILER_PATIENCE.as_secs();
        return Err(invalid(format!("its compiler took longer than {limit} s and was killed")));
    }
    rustix::fs::seek(&out, SeekFrom::Start(0)).map_err(system("read the seccomp program"))?;
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut std::fs::File::from(out), &mut bytes)
        .map_err(|source| Error::System { doing: "read the seccomp program", source })?;
    match exit {
        Exit::Code(0) => Ok(bytes),
        Exit::Code(1) => Err(invalid(String::from_utf8_lossy(&bytes).into_owned())),
        other => Err(invalid(format!("the compiler ended with {other:?}"))),
    }
}

/// Why a profile cannot be compiled; only its text leaves the compiler's process.
#[derive(Debug, thiserror::Error)]
enum CompileError {
    #[error("libseccomp: {0}")]
    Library(#[from] libseccomp::error::SeccompError),
    #[error("cannot read the program back: {0}")]
    Read(#[from] std::io::Error),
    #[error("architecture {0:?} is not known to this libseccomp")]
    Architecture(Arch),
    #[error("rule for {name:?}: argument index {index} is not between 0 and 5")]
    Argument { name: String, index: usize },
}

fn compile(seccomp: &LinuxSeccomp) -> Result<Vec<u8>, CompileError> {
    let default = action(seccomp.default_action(), seccomp.default_errno_ret());
    let mut filter = ScmpFilterContext::new(default)?;
    filter.set_ctl_nnp(false)?;
    if seccomp.syscalls().iter().flatten().map(|rule| rule.names().len()).sum::<usize>() > TREE_FROM {
        // A binary tree: about ten comparisons for any syscall rather than hundreds. Not in every libseccomp.
        let _ = filter.set_ctl_optimize(2);
    }
    for arch in seccomp.architectures().iter().flatten() {
        filter.add_arch(architecture(*arch).ok_or(CompileError::Architecture(*arch))?)?;
    }
    for rule in seccomp.syscalls().iter().flatten() {
        let action_of_rule = action(rule.action(), rule.errno_ret());
        if action_of_rule == default {
            continue;
        }
        for name in rule.names() {
            // Unknown to this libseccomp: as if the profile did not have it.
            if let Ok(syscall) = ScmpSyscall::from_name(name) {
                add_rule(&mut filter, name, syscall, action_of_rule, rule)?;
            }
        }
    }
    let program = decode(&export(&filter)?).unwrap_or_default();
    Ok(encode(&with_unknown_syscalls(seccomp, default, program)))
}

/// The compiled program; libseccomp writes it to a file only.
fn export(filter: &ScmpFilterContext) -> Result<Vec<u8>, CompileError> {
    let file = rustix::fs::memfd_create(c"bpf", MemfdFlags::CLOEXEC).map_err(std::io::Error::from)?;
    filter.export_bpf(&file)?;
    rustix::fs::seek(&file, SeekFrom::Start(0)).map_err(std::io::Error::from)?;
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut std::fs::File::from(file), &mut bytes)?;
    Ok(bytes)
}

fn add_rule(
    filter: &mut ScmpFilterContext,
    name: &str,
    syscall: ScmpSyscall,
    action: ScmpAction,
    rule: &LinuxSyscall,
) -> Result<(), CompileError> {
    let args = rule.args().as_deref().unwrap_or_default();
    if let Some(arg) = args.iter().find(|arg| arg.index() > 5) {
        return Err(CompileError::Argument { name: name.into(), index: arg.index() });
    }
    let compare: Vec<_> = args.iter().map(comparison).collect();
    let repeated = (0..6).any(|index| args.iter().filter(|arg| arg.index() == index).count() > 1);
    match (compare.is_empty(), repeated) {
        (true, _) => drop(filter.add_rule(action, syscall)?),
        (false, false) => drop(filter.add_rule_conditional(action, syscall, &compare)?),
        // The same argument twice can only mean alternatives; the specification leaves it open and runc does so.
        (false, true) => {
            for one in &compare {
                filter.add_rule_conditional(action, syscall, &[*one])?;
            }
        }
    }
    Ok(())
}

fn comparison(arg: &LinuxSeccompArg) -> ScmpArgCompare {
    let (op, datum) = match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => (ScmpCompareOp::NotEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpLt => (ScmpCompareOp::Less, arg.value()),
        LinuxSeccompOperator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpEq => (ScmpCompareOp::Equal, arg.value()),
        LinuxSeccompOperator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpGt => (ScmpCompareOp::Greater, arg.value()),
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            (ScmpCompareOp::MaskedEqual(arg.value()), arg.value_two().unwrap_or(0))
        }
    };
    ScmpArgCompare::new(arg.index() as u32, op, datum)
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> ScmpAction {
    match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => ScmpAction::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(errno.unwrap_or(libc::EPERM as u32) as i32),
        LinuxSeccompAction::ScmpActNotify => ScmpAction::Notify,
        LinuxSeccompAction::ScmpActTrace => ScmpAction::Trace(errno.unwrap_or(libc::EPERM as u32) as u16),
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
    }
}

fn architecture(arch: Arch) -> Option<ScmpArch> {
    Some(match arch {
        Arch::ScmpArchNative => ScmpArch::Native,
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX86_64 => ScmpArch::X8664,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchArm => ScmpArch::Arm,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        Arch::ScmpArchMips => ScmpArch::Mips,
        Arch::ScmpArchMips64 => ScmpArch::Mips64,
        Arch::ScmpArchMips64n32 => ScmpArch::Mips64N32,
        Arch::ScmpArchMipsel => ScmpArch::Mipsel,
        Arch::ScmpArchMipsel64 => ScmpArch::Mipsel64,
        Arch::ScmpArchMipsel64n32 => ScmpArch::Mipsel64N32,
        Arch::ScmpArchPpc => ScmpArch::Ppc,
        Arch::ScmpArchPpc64 => ScmpArch::Ppc64,
        Arch::ScmpArchPpc64le => ScmpArch::Ppc64Le,
        Arch::ScmpArchS390 => ScmpArch::S390,
        Arch::ScmpArchS390x => ScmpArch::S390X,
        Arch::ScmpArchParisc => ScmpArch::Parisc,
        Arch::ScmpArchParisc64 => ScmpArch::Parisc64,
        Arch::ScmpArchRiscv64 => ScmpArch::Riscv64,
        Arch::ScmpArchLoongarch64 => ScmpArch::Loongarch64,
        Arch::ScmpArchM68k => ScmpArch::M68k,
        Arch::ScmpArchSh => ScmpArch::Sh,
        Arch::ScmpArchSheb => ScmpArch::Sheb,
    })
}

/// Puts a prologue in front of the program, if the profile refuses what it does not name: a syscall with a higher number
/// than any that the profile names did not exist when the profile was written, and fails with `ENOSYS`. Of every
/// architecture on its own, as the numbers differ.
fn with_unknown_syscalls(
    seccomp: &LinuxSeccomp,
    default: ScmpAction,
    program: Vec<Instruction>,
) -> Vec<Instruction> {
    // A tracer answers for new syscalls itself.
    let permissive = matches!(default, ScmpAction::Allow | ScmpAction::Log | ScmpAction::Trace(_));
    if permissive {
        return program;
    }
    // Of each architecture: the test of it, its section, and the jump over what is behind it; so made from the end.
    let mut prologue = Vec::new();
    for (audit, highest) in highest_numbers(seccomp) {
        let section = section(audit, &highest);
        let mut part = vec![op(JUMP_EQUAL, audit, 0, section.len() as u8 + 1)];
        part.extend(section);
        part.push(op(JUMP, prologue.len() as u32, 0, 0));
        part.append(&mut prologue);
        prologue = part;
    }
    let mut whole = vec![op(LOAD, OFFSET_ARCH, 0, 0)];
    whole.extend(prologue);
    whole.extend(program);
    whole
}

/// Refuses syscalls above the highest number; falls through its end for all others.
fn section(audit: u32, highest: &Highest) -> Vec<Instruction> {
    let enosys = op(RETURN, RETURN_ERRNO | libc::ENOSYS as u32, 0, 0);
    let mut section = vec![op(LOAD, OFFSET_NUMBER, 0, 0)];
    if matches!(audit, AUDIT_S390 | AUDIT_S390X) {
        // Numbers that the kernel does not know arrive as this one, which nobody has used for decades.
        section.extend([op(JUMP_EQUAL, 0, 0, 1), enosys]);
    }
    if let Some(number) = highest.ordinary {
        if audit == AUDIT_X86_64 {
            section.push(op(JUMP_BITS, X32_BIT, 2, 0));
        }
        section.extend([op(JUMP_GREATER, number, 0, 1), enosys]);
    }
    if let Some(number) = highest.x32 {
        section.extend([op(JUMP_BITS, X32_BIT, 0, 2), op(JUMP_GREATER, number, 0, 1), enosys]);
    }
    section
}

/// The highest numbers that a profile names on an architecture; x32 is x86-64 with numbers of its own.
#[derive(Default)]
struct Highest {
    ordinary: Option<u32>,
    x32: Option<u32>,
}

/// Of the architectures of the profile and of the machine's own, by their `AUDIT_ARCH_*`.
fn highest_numbers(seccomp: &LinuxSeccomp) -> BTreeMap<u32, Highest> {
    let named = seccomp.architectures().iter().flatten().filter_map(|arch| architecture(*arch));
    let named = named.filter(|arch| *arch != ScmpArch::Native);
    let mut found: BTreeMap<u32, Highest> = BTreeMap::new();
    for arch in named.chain(native()) {
        let Some(audit) = audit_arch(arch) else { continue };
        let names = seccomp.syscalls().iter().flatten().flat_map(|rule| rule.names());
        let numbers = names.filter_map(|name| ScmpSyscall::from_name_by_arch(name, arch).ok()).map(i32::from);
        // Those that the architecture does not have are negative.
        let highest = numbers.filter(|number| *number > 0).max().map(|number| number as u32);
        if highest.is_some() {
            let entry = found.entry(audit).or_default();
            *(if arch == ScmpArch::X32 { &mut entry.x32 } else { &mut entry.ordinary }) = highest;
        }
    }
    found
}

fn op(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_BITS: u16 = 0x45;
const RETURN: u16 = 0x06;
const RETURN_ERRNO: u32 = 0x0005_0000;
/// Where the kernel's `seccomp_data` has them.
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;

/// Set in every syscall number of x32.
const X32_BIT: u32 = 0x4000_0000;

const AUDIT_X86_64: u32 = 0xc000_003e;
const AUDIT_S390: u32 = 0x16;
const AUDIT_S390X: u32 = 0x8000_0016;

/// This machine's architecture.
fn native() -> Option<ScmpArch> {
    match std::env::consts::ARCH {
        "x86_64" => Some(ScmpArch::X8664),
        "aarch64" => Some(ScmpArch::Aarch64),
        "riscv64" => Some(ScmpArch::Riscv64),
        "s390x" => Some(ScmpArch::S390X),
        "powerpc64" if cfg!(target_endian = "little") => Some(ScmpArch::Ppc64Le),
        "loongarch64" => Some(ScmpArch::Loongarch64),
        _ => None,
    }
}

/// An architecture as seccomp programs see it (`AUDIT_ARCH_*`), of those that Linux runs containers on.
fn audit_arch(arch: ScmpArch) -> Option<u32> {
    Some(match arch {
        ScmpArch::X86 => 0x4000_0003,
        ScmpArch::X8664 | ScmpArch::X32 => AUDIT_X86_64,
        ScmpArch::Arm => 0x4000_0028,
        ScmpArch::Aarch64 => 0xc000_00b7,
        ScmpArch::Mips => 0x0000_0008,
        ScmpArch::Mips64 => 0x8000_0008,
        ScmpArch::Mips64N32 => 0xa000_0008,
        ScmpArch::Mipsel => 0x4000_0008,
        ScmpArch::Mipsel64 => 0xc000_0008,
        ScmpArch::Mipsel64N32 => 0xe000_0008,
        ScmpArch::Ppc => 0x0000_0014,
        ScmpArch::Ppc64 => 0x8000_0015,
        ScmpArch::Ppc64Le => 0xc000_0015,
        ScmpArch::S390 => AUDIT_S390,
        ScmpArch::S390X => AUDIT_S390X,
        ScmpArch::Riscv64 => 0xc000_00f3,
        ScmpArch::Loongarch64 => 0xc000_0102,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_survive_the_cache() {
        let program = vec![Instruction { code: 6, jt: 0, jf: 0, k: 0x7fff_0000 }; 3];
        assert_eq!(decode(&encode(&program)).unwrap(), program);
        assert!(decode(&[1, 2, 3]).is_none() && decode(&[]).is_none());
    }

    #[test]
    fn this_thread_is_known_not_to_be_alone() {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || wait.recv());
        assert!(!is_one_thread());
        drop(go);
        let _ = other.join().unwrap();
        let child = process::spawn(0, None, || i32::from(!is_one_thread())).unwrap();
        assert_eq!(
            process::wait(child.pidfd.as_fd(), Reap::Take).unwrap(),
            Exit::Code(0),
            "a child is alone"
        );
    }
}
