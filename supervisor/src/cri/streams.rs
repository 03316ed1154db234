//! What the streaming server carries: processes and ports of pods.

#![forbid(unsafe_code)]

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::net::TcpStream;

use super::streaming::{Attach, Exec, Process, Size, StdinEnd, Target};
use crate::error::Result;
use crate::pods::{self, Pods};
use crate::tasks::AttachStreams;

/// All pods, as the streaming server sees them.
pub struct Streams(pub Arc<Pods>);

impl Target for Streams {
    fn exec<'a>(&'a self, exec: &'a Exec, size: Option<Size>) -> BoxFuture<'a, Result<Process>> {
        let Exec { container, args, tty, stdin, stdout, stderr } = exec;
        let streams = AttachStreams { stdin: *stdin, stdout: *stdout, stderr: *stderr };
        let size = size.map(|size| (size.columns.into(), size.rows.into()));
        let wanted = pods::Exec { args: args.clone(), tty: *tty, size };
        async move {
            let stream = self.0.exec(container, &wanted, streams).await?;
            Ok(Process::new(stream, StdinEnd::Closes))
        }
        .boxed()
    }

    fn attach<'a>(&'a self, attach: &'a Attach) -> BoxFuture<'a, Result<Process>> {
        let Attach { container, stdin, stdout, stderr, .. } = attach;
        let streams = AttachStreams { stdin: *stdin, stdout: *stdout, stderr: *stderr };
        async move {
            let (stream, once) = self.0.attach(container, streams).await?;
            Ok(Process::new(stream, if once { StdinEnd::Closes } else { StdinEnd::Stays }))
        }
        .boxed()
    }

    fn connect<'a>(&'a self, pod: &'a str, port: u16) -> BoxFuture<'a, Result<TcpStream>> {
        self.0.connect(pod, port).boxed()
    }
}
