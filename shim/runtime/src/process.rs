//! The `process` part of a config as steps: what the first process and every further one go through alike.

use crate::capabilities::{self, Origin};
use crate::handover::Handover;
use crate::init::{Console, HOME_SLOT, Init, Listener, Missing, Plan, Program, Request, Step};
use crate::mounts::in_root;
use crate::scheduling::{self, MemoryPolicy};
use crate::sys::cstrings::CStrings;
use crate::{Error, FirstProgram, Result, Stdio};
use oci_spec::runtime::{PosixRlimitType, Process};
use rustix::fd::{AsRawFd, OwnedFd};
use std::ffi::CString;

/// Where programs are looked for if the environment says nothing.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What an init's command line begins with.
const INIT_WORDS: [&str; 2] = ["/dev/init", "--"];

/// What planning needs beside the process itself.
pub(crate) struct Context<'a> {
    pub(crate) process: &'a Process,
    pub(crate) stdio: Stdio,
    pub(crate) console_size: Option<(u16, u16)>,
    pub(crate) console: Console,
    pub(crate) seccomp: Option<Step>,
    pub(crate) keyring: Option<CString>,
    pub(crate) personality: Option<u64>,
    pub(crate) memory_policy: Option<&'a MemoryPolicy>,
    pub(crate) working_directory: Missing,
    pub(crate) origin: Origin,
    /// What becomes read-only once the terminal is in place.
    pub(crate) after_stdio: Vec<Step>,
    /// The gate of a process that outlives its creator.
    pub(crate) hand_over: Option<Handover>,
    /// Descriptors above stdio that stay open in the program.
    pub(crate) preserve_fds: u32,
    /// What runs the program and is the first process in its place.
    pub(crate) init: Option<FirstProgram>,
    /// Runs after the gate, before the program.
    pub(crate) last: Option<Step>,
}

/// Steps that must run while the process may still write to the host's security modules.
pub(crate) fn plan_early(process: &Process, steps: &mut Vec<Step>) -> Result<()> {
    let (label, path) = match (filled(process.apparmor_profile()), filled(process.selinux_label())) {
        (None, None) => return Ok(()),
        (Some(_), Some(_)) => {
            return Err(invalid("process", "apparmorProfile and selinuxLabel exclude each other"));
        }
        (Some(_), None) => ("apparmorProfile", c"thread-self/attr/apparmor/exec"),
        (None, Some(_)) => ("selinuxLabel", c"thread-self/attr/exec"),
    };
    if label == "apparmorProfile" && !std::path::Path::new("/sys/kernel/security/apparmor").exists() {
        return Err(invalid(
            "process.apparmorProfile",
            "AppArmor is not enabled on this host; leave the profile out",
        ));
    }
    steps.push(Step::OpenLabel { path: path.to_owned() });
    Ok(())
}

fn filled(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

fn invalid(field: &str, why: impl Into<String>) -> Error {
    Error::InvalidSpec { field: field.into(), why: why.into() }
}

/// Finishes a plan with everything from stdio to the program.
pub(crate) fn plan(mut steps: Vec<Step>, context: Context<'_>, warnings: &mut Vec<String>) -> Result<Plan> {
    let process = context.process;
    let user = process.user();
    steps.push(stdio(context.stdio, process, context.console_size, context.console)?);
    steps.extend(context.after_stdio);
    steps.extend(context.keyring.map(Step::Keyring));
    plan_limits(process, &mut steps)?;
    scheduling::plan(process, &mut steps)?;
    steps.extend(context.memory_policy.map(MemoryPolicy::step));
    steps.extend(context.personality.map(Step::Personality));
    let program = program(process, context.init)?;
    if needs_home(process) {
        steps.push(Step::Home { uid: user.uid() });
    }
    if let Some(value) = label_value(process)? {
        steps.push(Step::SetLabel { value });
    }
    let mut keep = context.hand_over.as_ref().map(|gate| gate.fds().to_vec()).unwrap_or_default();
    keep.extend(program.init.as_ref().map(|init| init.file.as_raw_fd()));
    steps.push(Step::CloseFds { first: 3 + context.preserve_fds, keep });
    let path = process.cwd().to_str().ok_or_else(|| invalid("process.cwd", "is not UTF-8"))?;
    if !path.starts_with('/') {
        return Err(invalid("process.cwd", format!("{path:?} must be absolute")));
    }
    steps.push(Step::WorkingDirectory {
        path: in_root(path)?,
        shown: path.into(),
        missing: context.working_directory,
    });
    steps.push(Step::Umask(user.umask().unwrap_or(0o022)));
    let no_new_privileges = process.no_new_privileges() == Some(true);
    // Without no_new_privs loading a program is a privilege that goes before the gate; else as late as possible, but one with
    // a supervisor while the parent still serves the process.
    let supervised = matches!(&context.seccomp, Some(Step::Seccomp { listener: Listener::Parent, .. }));
    let (early_seccomp, supervised_seccomp, late_seccomp) = match (no_new_privileges, supervised) {
        (false, _) => (context.seccomp, None, None),
        (true, true) => (None, context.seccomp, None),
        (true, false) => (None, None, context.seccomp),
    };
    if no_new_privileges {
        steps.push(Step::NoNewPrivileges);
    }
    let capabilities = capabilities::plan(process.capabilities().as_ref(), context.origin, warnings);
    steps.push(Step::BoundingSet { keep: capabilities.bounding });
    let groups = user.additional_gids().clone().unwrap_or_default();
    steps.push(Step::User { uid: user.uid(), gid: user.gid(), groups });
    match early_seccomp {
        // The program is looked for by system calls that older profiles do not know: before, and with its own privileges.
        Some(load) => steps.extend([
            capabilities.with_reserve(),
            Step::FindProgram,
            capabilities.for_loading(),
            load,
            capabilities.last(),
        ]),
        None => steps.extend([capabilities.last(), Step::FindProgram]),
    }
    steps.extend(supervised_seccomp);
    steps.push(context.hand_over.map_or(Step::Ask(Request::Gate), Step::Wait));
    steps.extend(context.last);
    steps.extend(late_seccomp);
    steps.push(Step::Execute);
    crate::procfs::plan(&mut steps)?;
    Ok(Plan::new(steps, program, 3 + context.preserve_fds))
}

/// Whether a process could be planned, as far as no host is needed to tell.
pub(crate) fn check(process: &Process) -> Result<()> {
    label_value(process)?;
    plan_limits(process, &mut Vec::new())?;
    crate::scheduling::plan(process, &mut Vec::new())?;
    program(process, None).map(drop)
}

fn label_value(process: &Process) -> Result<Option<CString>> {
    let text = match (filled(process.apparmor_profile()), filled(process.selinux_label())) {
        (Some(profile), _) => format!("exec {profile}"),
        (None, Some(label)) => label.to_owned(),
        (None, None) => return Ok(None),
    };
    CString::new(text).map(Some).map_err(|_| invalid("process", "a security label contains a NUL byte"))
}

fn stdio(stdio: Stdio, process: &Process, size: Option<(u16, u16)>, console: Console) -> Result<Step> {
    let uid = process.user().uid();
    match (stdio, process.terminal().unwrap_or(false)) {
        (Stdio::Fds { stdin, stdout, stderr }, false) => {
            let safe = |fd: OwnedFd| {
                crate::init::channel::above_stdio(fd).map_err(|errno| Error::System {
                    doing: "duplicate a stdio descriptor",
                    source: errno.into(),
                })
            };
            Ok(Step::Stdio { fds: [safe(stdin)?, safe(stdout)?, safe(stderr)?], uid })
        }
        (Stdio::Terminal, true) => {
            let configured =
                process.console_size().as_ref().map(|size| (size.width() as u16, size.height() as u16));
            let (columns, rows) = size.or(configured).unwrap_or((0, 0));
            Ok(Step::Terminal { columns, rows, uid, console })
        }
        (Stdio::Fds { .. }, true) => {
            Err(invalid("process.terminal", "is true, but no terminal was asked for"))
        }
        (Stdio::Terminal, false) => {
            Err(invalid("process.terminal", "is false, but a terminal was asked for"))
        }
    }
}

fn program(process: &Process, init: Option<FirstProgram>) -> Result<Program> {
    let args = process.args().as_deref().unwrap_or_default();
    let name = args.first().filter(|name| !name.is_empty()).ok_or_else(|| {
        invalid("process.args", "must name a program; give a command, or an image with an entrypoint")
    })?;
    let env = process.env().as_deref().unwrap_or_default();
    let nul = |field: &'static str| move |_| invalid(field, "contains a NUL byte");
    let candidates = if name.contains('/') {
        vec![CString::new(name.as_str()).map_err(nul("process.args"))?]
    } else {
        let path =
            env.iter().rev().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
        let join = |folder: &str| format!("{}/{name}", if folder.is_empty() { "." } else { folder });
        let found = path.split(':').map(|folder| CString::new(join(folder)));
        found.collect::<Result<Vec<_>, _>>().map_err(nul("process.args"))?
    };
    let init = init.map(|init| {
        let (file, words, runs) = match init {
            FirstProgram::Runs(file) => (file, INIT_WORDS.len(), args),
            FirstProgram::Alone(file) => (file, 1, &[][..]),
        };
        let file = crate::init::channel::above_stdio(file).map_err(|errno| Error::System {
            doing: "duplicate the init's descriptor",
            source: errno.into(),
        })?;
        let words = INIT_WORDS.into_iter().take(words).chain(runs.iter().map(String::as_str));
        Ok(Init { file, argv: CStrings::new(words, 0).map_err(nul("process.args"))?, alone: runs.is_empty() })
    });
    Ok(Program {
        init: init.transpose()?,
        name: name.clone(),
        candidates,
        argv: CStrings::new(args, 0).map_err(nul("process.args"))?,
        envp: CStrings::new(env, HOME_SLOT).map_err(nul("process.env"))?,
    })
}

fn needs_home(process: &Process) -> bool {
    !process.env().iter().flatten().any(|variable| variable.starts_with("HOME="))
}

fn plan_limits(process: &Process, steps: &mut Vec<Step>) -> Result<()> {
    for limit in process.rlimits().as_deref().unwrap_or_default() {
        let (resource, name) = rlimit(limit.typ());
        if limit.soft() > limit.hard() {
            return Err(invalid(
                "process.rlimits",
                format!("{name}: the soft limit is above the hard limit"),
            ));
        }
        steps.push(Step::Rlimit { resource, name, soft: limit.soft(), hard: limit.hard() });
    }
    Ok(())
}

fn rlimit(kind: PosixRlimitType) -> (u32, &'static str) {
    match kind {
        PosixRlimitType::RlimitCpu => (0, "RLIMIT_CPU"),
        PosixRlimitType::RlimitFsize => (1, "RLIMIT_FSIZE"),
        PosixRlimitType::RlimitData => (2, "RLIMIT_DATA"),
        PosixRlimitType::RlimitStack => (3, "RLIMIT_STACK"),
        PosixRlimitType::RlimitCore => (4, "RLIMIT_CORE"),
        PosixRlimitType::RlimitRss => (5, "RLIMIT_RSS"),
        PosixRlimitType::RlimitNproc => (6, "RLIMIT_NPROC"),
        PosixRlimitType::RlimitNofile => (7, "RLIMIT_NOFILE"),
        PosixRlimitType::RlimitMemlock => (8, "RLIMIT_MEMLOCK"),
        PosixRlimitType::RlimitAs => (9, "RLIMIT_AS"),
        PosixRlimitType::RlimitLocks => (10, "RLIMIT_LOCKS"),
        PosixRlimitType::RlimitSigpending => (11, "RLIMIT_SIGPENDING"),
        PosixRlimitType::RlimitMsgqueue => (12, "RLIMIT_MSGQUEUE"),
        PosixRlimitType::RlimitNice => (13, "RLIMIT_NICE"),
        PosixRlimitType::RlimitRtprio => (14, "RLIMIT_RTPRIO"),
        PosixRlimitType::RlimitRttime => (15, "RLIMIT_RTTIME"),
    }
}
