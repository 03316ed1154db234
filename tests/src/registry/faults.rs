//! What a test can make a registry do wrong, and to which requests.

use std::time::Duration;

/// One misbehaviour.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Answer with this status and an error body in the registry's form.
    Status(u16),
    /// 429 with `Retry-After` in seconds.
    TooMany(u64),
    /// Send only this many bytes of the body, then close the connection; the length header is the true one.
    CutAfter(usize),
    /// Send other bytes of the same length.
    Corrupt,
    /// Send the body, then bytes without end; no length header.
    Endless,
    /// Send nothing for this long, then go on.
    Stall(Duration),
    /// Ignore a `Range` header: answer 200 with the whole body.
    IgnoreRange,
    /// Send at most this many bytes a second.
    Slow(u64),
    /// Take this many bytes of an upload, then close the connection without an answer.
    CutUpload(usize),
    /// Forget the upload: it is not known any more.
    ForgetUpload,
}

/// A fault and the requests that it strikes.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Strikes requests that contain this, written as `METHOD /path`.
    pub path: String,
    pub fault: Fault,
    /// How many times it strikes; `None`: always.
    pub times: Option<u32>,
}
