//! The task layer's unsafe calls: starting a program without forking the daemon (`posix_spawn` shares the daemon's memory
//! until the exec), and registering a descriptor with the event loop.
//!
//! What always holds: a child has descriptors 0, 1, 2 and 3 and no others, a session of its own, no blocked and no
//! ignored signals.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What a program is started with.
pub struct Spawn<'a> {
    /// Path of the program; may be `/proc/self/fd/N`, N greater than 3.
    pub program: &'a CStr,
    pub args: &'a [CString],
    pub env: &'a [CString],
    /// Becomes the child's descriptors 0 and 1.
    pub stdio: BorrowedFd<'a>,
    /// Becomes the child's descriptor 2.
    pub stderr: BorrowedFd<'a>,
    /// Becomes the child's descriptor 3.
    pub socket: BorrowedFd<'a>,
}

/// Starts the program and returns its pid; the caller must reap it.
///
/// # Errors
/// What `posix_spawn` says, the failure of the exec included.
pub fn spawn(what: &Spawn<'_>) -> io::Result<i32> {
    let mut actions = Actions::new()?;
    for target in 0..2 {
        actions.dup2(what.stdio, target)?;
    }
    actions.dup2(what.stderr, 2)?;
    actions.dup2(what.socket, 3)?;
    let attributes = Attributes::new_session()?;
    let argv = pointers(what.args);
    let envp = pointers(what.env);
    let mut pid: libc::pid_t = 0;
    // SAFETY: all pointers are to live, NUL-terminated data: `program`, the strings behind `argv` and `envp`
    // (each array ends with a null pointer), and the initialised `actions` and `attributes`.
    let result = unsafe {
        libc::posix_spawn(
            &mut pid,
            what.program.as_ptr(),
            &actions.0,
            &attributes.0,
            argv.as_ptr(),
            envp.as_ptr(),
        )
    };
    check(result)?;
    Ok(pid)
}

/// Registers a descriptor with the event loop, to learn when it can be read. Needs a tokio runtime.
///
/// # Errors
/// The event loop does not take it.
pub fn watch_readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the OwnedFd is a valid descriptor, and AsyncFd owns it until it is dropped: nobody closes or replaces it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

fn pointers(strings: &[CString]) -> Vec<*mut libc::c_char> {
    strings.iter().map(|s| s.as_ptr().cast_mut()).chain([std::ptr::null_mut()]).collect()
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(result)) }
}

struct Actions(libc::posix_spawn_file_actions_t);

impl Actions {
    fn new() -> io::Result<Self> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: the function initialises what it is given, or fails.
        check(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
        // SAFETY: initialised by the call above, which succeeded.
        Ok(Self(unsafe { actions.assume_init() }))
    }

    fn dup2(&mut self, from: BorrowedFd<'_>, to: libc::c_int) -> io::Result<()> {
        // SAFETY: the actions are initialised and borrowed for us alone.
        check(unsafe { libc::posix_spawn_file_actions_adddup2(&mut self.0, from.as_raw_fd(), to) })
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: initialised, and not used after this.
        unsafe { libc::posix_spawn_file_actions_destroy(&mut self.0) };
    }
}

struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    /// A new session; every signal unblocked and at its default.
    fn new_session() -> io::Result<Self> {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: the function initialises what it is given, or fails.
        check(unsafe { libc::posix_spawnattr_init(attributes.as_mut_ptr()) })?;
        // SAFETY: initialised by the call above, which succeeded.
        let mut attributes = Self(unsafe { attributes.assume_init() });
        let mut none = MaybeUninit::uninit();
        let mut all = MaybeUninit::uninit();
        let flags =
            i32::from(libc::POSIX_SPAWN_SETSID) | libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF;
        let flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
        // SAFETY: `attributes` is initialised; the signal sets are initialised before they are read.
        unsafe {
            libc::sigemptyset(none.as_mut_ptr());
            libc::sigfillset(all.as_mut_ptr());
            check(libc::posix_spawnattr_setsigmask(&mut attributes.0, none.as_ptr()))?;
            check(libc::posix_spawnattr_setsigdefault(&mut attributes.0, all.as_ptr()))?;
            check(libc::posix_spawnattr_setflags(&mut attributes.0, flags))?;
        }
        Ok(attributes)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialised, and not used after this.
        unsafe { libc::posix_spawnattr_destroy(&mut self.0) };
    }
}
