//! Hooks: programs of the host that are told of the container's state on stdin at fixed moments of its life.
//!
//! What always holds: running one allocates nothing, so the same code serves the parent and the container's init; a hook
//! that outlives its timeout is killed and reaped, and a poststart hook also one that outlives its container by
//! [`AFTERLIFE`]; it gets its own environment only, and no descriptor above stdio.

use crate::init::channel::{self, How};
use crate::patience::{ends_within, poll_for};
use crate::sys::SysResult;
use crate::sys::cstrings::CStrings;
use crate::sys::process::{self, Exit, Reap};
use crate::{Error, Result};
use oci_spec::runtime::Hook;
use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{MemfdFlags, Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use rustix::process::Pid;
use std::collections::HashMap;
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a poststart hook may go on once its container has ended: it holds back the news of that.
const AFTERLIFE: Duration = Duration::from_secs(10);

/// At which moment hooks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

impl Moment {
    /// Name of the field in `config.json`.
    pub(crate) fn field(self) -> &'static str {
        match self {
            Moment::Prestart => "prestart",
            Moment::CreateRuntime => "createRuntime",
            Moment::CreateContainer => "createContainer",
            Moment::StartContainer => "startContainer",
            Moment::Poststart => "poststart",
            Moment::Poststop => "poststop",
        }
    }

    /// Whether it is nobody's any more when the process that runs it is gone: what it was part of is not finished.
    fn is_of_creation(self) -> bool {
        !matches!(self, Moment::Poststart | Moment::Poststop)
    }

    /// The container's state at that moment, as the specification names it.
    fn status(self) -> &'static str {
        match self {
            Moment::Prestart | Moment::CreateRuntime | Moment::CreateContainer => "creating",
            Moment::StartContainer => "created",
            Moment::Poststart => "running",
            Moment::Poststop => "stopped",
        }
    }
}

/// The hooks of one moment, ready to run.
pub(crate) struct HookList {
    pub(crate) moment: Moment,
    pub(crate) hooks: Vec<PreparedHook>,
    /// State JSON before and after the process id.
    state: (Vec<u8>, Vec<u8>),
}

/// One hook, ready to run.
pub(crate) struct PreparedHook {
    pub(crate) path: PathBuf,
    program: CString,
    argv: CStrings,
    envp: CStrings,
    timeout: Option<Duration>,
}

/// How a hook failed; numbers only, for the way from the child to the parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HookFailure {
    pub(crate) index: u32,
    pub(crate) how: How,
    pub(crate) value: i32,
}

/// What hooks are told about the container.
pub(crate) struct About<'a> {
    pub(crate) id: &'a str,
    pub(crate) bundle: &'a Path,
    pub(crate) annotations: Option<&'a HashMap<String, String>>,
}

/// Prepares the hooks of a moment; `None` if there are none.
pub(crate) fn prepare(
    moment: Moment,
    hooks: Option<&Vec<Hook>>,
    about: &About<'_>,
) -> Result<Option<HookList>> {
    let Some(hooks) = hooks.filter(|hooks| !hooks.is_empty()) else { return Ok(None) };
    let prepared = hooks.iter().map(|hook| prepare_one(moment, hook)).collect::<Result<_>>()?;
    Ok(Some(HookList { moment, hooks: prepared, state: state_json(moment, about) }))
}

/// Prepares the hooks of every moment, to see whether they can be.
pub(crate) fn check_all(spec: &oci_spec::runtime::Spec, about: &About<'_>) -> Result<()> {
    let Some(hooks) = spec.hooks() else { return Ok(()) };
    #[allow(deprecated)]
    let prestart = hooks.prestart().as_ref();
    let lists = [
        (Moment::Prestart, prestart),
        (Moment::CreateRuntime, hooks.create_runtime().as_ref()),
        (Moment::CreateContainer, hooks.create_container().as_ref()),
        (Moment::StartContainer, hooks.start_container().as_ref()),
        (Moment::Poststart, hooks.poststart().as_ref()),
        (Moment::Poststop, hooks.poststop().as_ref()),
    ];
    lists.into_iter().try_for_each(|(moment, list)| prepare(moment, list, about).map(drop))
}

fn prepare_one(moment: Moment, hook: &Hook) -> Result<PreparedHook> {
    let invalid =
        |why: &str| Error::InvalidSpec { field: format!("hooks.{}", moment.field()), why: why.into() };
    if !hook.path().is_absolute() {
        return Err(invalid(&format!("path {:?} must be absolute", hook.path())));
    }
    let path = hook.path().to_str().ok_or_else(|| invalid("path is not UTF-8"))?;
    let nul = |_| invalid("contains a NUL byte");
    let timeout = match hook.timeout() {
        Some(seconds) if seconds <= 0 => return Err(invalid("timeout must be greater than zero")),
        Some(seconds) => Some(Duration::from_secs(seconds as u64)),
        None => None,
    };
    let default_args = [path.to_owned()];
    let args = hook.args().as_deref().filter(|args| !args.is_empty()).unwrap_or(&default_args);
    Ok(PreparedHook {
        path: hook.path().clone(),
        program: CString::new(path).map_err(nul)?,
        argv: CStrings::new(args, 0).map_err(nul)?,
        envp: CStrings::new(hook.env().as_deref().unwrap_or_default(), 0).map_err(nul)?,
        timeout,
    })
}

/// The state of runtime-spec's "State" section, cut where the process id goes.
fn state_json(moment: Moment, about: &About<'_>) -> (Vec<u8>, Vec<u8>) {
    let text = |value: &str| serde_json::Value::from(value).to_string();
    let before = format!(
        r#"{{"ociVersion":"{}","id":{},"status":"{}","pid":"#,
        crate::SPEC_VERSION,
        text(about.id),
        moment.status()
    );
    let mut after = format!(r#","bundle":{}"#, text(&about.bundle.to_string_lossy()));
    if let Some(annotations) = about.annotations.filter(|a| !a.is_empty()) {
        let annotations =
            annotations.iter().map(|(k, v)| format!("{}:{}", text(k), text(v))).collect::<Vec<_>>();
        after.push_str(&format!(r#","annotations":{{{}}}"#, annotations.join(",")));
    }
    after.push('}');
    (before.into_bytes(), after.into_bytes())
}

/// Runs the poststop hooks of a container whose shim is gone, all of them.
///
/// # Errors
/// Hooks that cannot be, and the first hook that fails.
pub fn run_poststop(spec: &oci_spec::runtime::Spec, id: &str, bundle: &Path) -> Result<()> {
    let about = About { id, bundle, annotations: spec.annotations().as_ref() };
    let hooks = spec.hooks().as_ref().and_then(|hooks| hooks.poststop().as_ref());
    match prepare(Moment::Poststop, hooks, &about)? {
        Some(hooks) => hooks.each(0).reduce(Result::and).unwrap_or(Ok(())),
        None => Ok(()),
    }
}

/// Runs the poststart hooks of a container whose gate was opened by [`crate::handover::open_gate`].
///
/// # Errors
/// The first hook that fails; such a container is not wanted, and the caller kills it.
pub fn run_poststart(spec: &oci_spec::runtime::Spec, id: &str, bundle: &Path, pid: i32) -> Result<()> {
    let about = About { id, bundle, annotations: spec.annotations().as_ref() };
    let hooks = spec.hooks().as_ref().and_then(|hooks| hooks.poststart().as_ref());
    match prepare(Moment::Poststart, hooks, &about)? {
        Some(hooks) => hooks.run(pid),
        None => Ok(()),
    }
}

/// Why a hook has no exit.
enum Gone {
    Errno(Errno),
    TimedOut,
    Outlived,
}

impl From<Errno> for Gone {
    fn from(errno: Errno) -> Self {
        Gone::Errno(errno)
    }
}

/// Who runs hooks.
#[derive(Clone, Copy)]
enum By<'a> {
    /// The runtime, which may have other threads.
    Runtime,
    /// The same, beside a container that lives.
    RuntimeBeside(BorrowedFd<'a>),
    /// The container's init, which is one thread.
    Init,
}

impl By<'_> {
    fn container(&self) -> Option<BorrowedFd<'_>> {
        match self {
            By::RuntimeBeside(container) => Some(*container),
            By::Runtime | By::Init => None,
        }
    }
}

impl HookList {
    /// Runs every hook, whatever becomes of the others, and answers what failed.
    pub(crate) fn run_each(&self, pid: i32) -> Vec<String> {
        self.each(pid).filter_map(|outcome| outcome.err().map(|error| error.to_string())).collect()
    }

    fn each(&self, pid: i32) -> impl Iterator<Item = Result<()>> {
        let run = move |index| self.run_at(index, pid, By::Runtime).map_err(|failure| self.error(failure));
        (0..self.hooks.len()).map(run)
    }

    /// Runs the hooks in the host's namespaces, one after the other, until one fails.
    pub(crate) fn run(&self, pid: i32) -> Result<()> {
        self.run_all(pid, By::Runtime).map_err(|failure| self.error(failure))
    }

    /// The same while the container lives, and a little longer.
    pub(crate) fn run_beside(&self, pid: i32, container: BorrowedFd<'_>) -> Result<()> {
        self.run_all(pid, By::RuntimeBeside(container)).map_err(|failure| self.error(failure))
    }

    /// Runs the hooks as children of the container's init; it tells them its own process id as it sees it.
    pub(crate) fn run_inside(&self) -> Result<(), HookFailure> {
        self.run_all(rustix::process::getpid().as_raw_nonzero().get(), By::Init)
    }

    fn run_all(&self, pid: i32, by: By<'_>) -> Result<(), HookFailure> {
        (0..self.hooks.len()).try_for_each(|index| self.run_at(index, pid, by))
    }

    fn run_at(&self, index: usize, pid: i32, by: By<'_>) -> Result<(), HookFailure> {
        let fail = |how, value| Err(HookFailure { index: index as u32, how, value });
        match self.run_one(&self.hooks[index], pid, by) {
            Err(Gone::TimedOut) => fail(How::HookTimeout, 0),
            Err(Gone::Outlived) => fail(How::HookOutlived, 0),
            Err(Gone::Errno(errno)) => fail(How::Errno, errno.raw_os_error()),
            Ok(Exit::Code(0)) => Ok(()),
            Ok(Exit::Code(code)) => fail(How::HookExit, code),
            Ok(Exit::Signal(signal)) => fail(How::HookSignal, signal),
        }
    }

    fn run_one(&self, hook: &PreparedHook, pid: i32, by: By<'_>) -> Result<Exit, Gone> {
        // A file rather than a pipe: a hook that does not read its stdin must not hold anybody up.
        let stdin = rustix::fs::memfd_create(c"state", MemfdFlags::CLOEXEC)?;
        let mut digits = [0u8; 12];
        for part in [&self.state.0, decimal(pid, &mut digits), &self.state.1] {
            write_all(stdin.as_fd(), part)?;
        }
        rustix::fs::seek(&stdin, SeekFrom::Start(0))?;
        let parent = self.moment.is_of_creation().then(rustix::process::getpid);
        let ends = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
        let spawn = |_: &OwnedFd, report: &OwnedFd| {
            process::spawn(0, None, || hook.child(stdin.as_fd(), report.as_fd(), parent))
        };
        let (said, child) = match by {
            By::Init => channel::alone_with_child(ends, spawn)?,
            By::Runtime | By::RuntimeBeside(_) => channel::with_child(ends, spawn)?,
        };
        let exit = wait_for(&child, hook.timeout, by.container())?;
        let mut errno = [0u8; 4];
        match rustix::io::read(&said, &mut errno) {
            Ok(4) => Err(Errno::from_raw_os_error(i32::from_ne_bytes(errno)).into()),
            _ => Ok(exit),
        }
    }

    /// The text for a failure, made by the parent.
    pub(crate) fn error(&self, failure: HookFailure) -> Error {
        let (path, timeout) = self
            .hooks
            .get(failure.index as usize)
            .map_or((PathBuf::new(), None), PreparedHook::path_and_timeout);
        failed(self.moment.field(), path, timeout, failure.how, failure.value)
    }
}

/// The error of a hook; its timeout is in seconds.
pub(crate) fn failed(kind: &'static str, path: PathBuf, timeout: Option<u64>, how: How, value: i32) -> Error {
    let why = match (how, timeout) {
        (How::HookExit, _) => format!("exited with code {value}"),
        (How::HookSignal, _) => format!("was ended by signal {value}"),
        (How::HookTimeout, Some(seconds)) => {
            format!("ran longer than its timeout of {seconds} s and was killed")
        }
        (How::HookTimeout, None) => "ran too long".into(),
        (How::HookOutlived, _) => {
            format!("still ran {} s after the container had ended, and was killed", AFTERLIFE.as_secs())
        }
        _ => format!("cannot be executed: {}", crate::error::errno_text(value)),
    };
    Error::Hook { kind, path, why }
}

impl PreparedHook {
    /// For error texts: the program, and the timeout in seconds.
    pub(crate) fn path_and_timeout(&self) -> (PathBuf, Option<u64>) {
        (self.path.clone(), self.timeout.map(|timeout| timeout.as_secs()))
    }

    /// A hook dies with `parent`, if that is given.
    fn child(&self, stdin: BorrowedFd<'_>, report: BorrowedFd<'_>, parent: Option<Pid>) -> i32 {
        if let Some(parent) = parent {
            let _ = process::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong);
            // Too late already; a parent in another pid namespace has no number here.
            if rustix::process::getppid().is_some_and(|now| now != parent) {
                return 255;
            }
        }
        let errno = match self.set_up(stdin) {
            Ok(()) => process::execve(&self.program, &self.argv, &self.envp),
            Err(errno) => errno,
        };
        let _ = rustix::io::write(report, &errno.raw_os_error().to_ne_bytes());
        127
    }

    fn set_up(&self, stdin: BorrowedFd<'_>) -> SysResult<()> {
        process::reset_signals()?;
        let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        rustix::stdio::dup2_stdin(stdin)?;
        if let Ok(null) = null {
            rustix::stdio::dup2_stdout(&null)?;
            rustix::stdio::dup2_stderr(&null)?;
        }
        // Not closed but marked, as the report of a failing execve goes through one of them.
        process::close_on_exec_above_stdio()
    }
}

/// Waits for a hook, no longer than its timeout, nor long after the end of its container, if that is watched.
fn wait_for(
    child: &process::Child,
    timeout: Option<Duration>,
    container: Option<BorrowedFd<'_>>,
) -> Result<Exit, Gone> {
    let began = Instant::now();
    let hook = child.pidfd.as_fd();
    if let Some(container) = container {
        let mut either = [
            PollFd::from_borrowed_fd(hook, PollFlags::IN),
            PollFd::from_borrowed_fd(container, PollFlags::IN),
        ];
        poll_for(&mut either, timeout.unwrap_or(Duration::MAX))?;
        let outlives = either[0].revents().is_empty() && !either[1].revents().is_empty();
        let left = timeout.map_or(Duration::MAX, |timeout| timeout.saturating_sub(began.elapsed()));
        if outlives && left > AFTERLIFE && !ends_within(hook, AFTERLIFE) {
            return end(child, Gone::Outlived);
        }
    }
    match timeout.map(|timeout| timeout.saturating_sub(began.elapsed())) {
        Some(left) if !ends_within(hook, left) => end(child, Gone::TimedOut),
        _ => Ok(process::wait(hook, Reap::Take)?),
    }
}

/// Kills a hook.
fn end(child: &process::Child, why: Gone) -> Result<Exit, Gone> {
    let _ = process::pidfd_send_signal(child.pidfd.as_fd(), libc::SIGKILL);
    process::wait(child.pidfd.as_fd(), Reap::Take)?;
    Err(why)
}

fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> SysResult<()> {
    while !bytes.is_empty() {
        bytes = &bytes[rustix::io::write(fd, bytes)?..];
    }
    Ok(())
}

/// Writes a positive number without allocating.
fn decimal(value: i32, buffer: &mut [u8; 12]) -> &[u8] {
    let mut at = buffer.len();
    let mut rest = value.unsigned_abs();
    loop {
        at -= 1;
        buffer[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            return &buffer[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_is_json_with_the_pid_in_place() {
        let annotations = HashMap::from([("a\"b".to_owned(), "c\n".to_owned())]);
        let about = About { id: "x\"y", bundle: Path::new("/b"), annotations: Some(&annotations) };
        let (before, after) = state_json(Moment::Poststop, &about);
        let mut digits = [0; 12];
        let whole = [before.as_slice(), decimal(4711, &mut digits), &after].concat();
        let value: serde_json::Value = serde_json::from_slice(&whole).unwrap();
        assert_eq!(value["pid"], 4711);
        assert_eq!(value["id"], "x\"y");
        assert_eq!(value["status"], "stopped");
        assert_eq!(value["annotations"]["a\"b"], "c\n");
    }
}
