//! Content.Write: one client's conversation about one ingest.
//!
//! What always holds: when the client leaves, what was written stays for the next writer of the reference.

use std::sync::Arc;

use longshore_proto::containerd::services::content::v1::{
    WriteAction, WriteContentRequest, WriteContentResponse,
};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::convert;
use crate::content::{CommitOptions, ContentStore, Digest, Writer, WriterOptions};
use crate::error::{Error, Result};
use crate::labels::from_hash;
use crate::namespaces::Namespace;

pub struct Session {
    content: Arc<ContentStore>,
    namespace: Namespace,
    lease: Option<String>,
    total: u64,
    expected: Option<Digest>,
}

impl Session {
    pub fn new(content: Arc<ContentStore>, namespace: Namespace, lease: Option<String>) -> Self {
        Self { content, namespace, lease, total: 0, expected: None }
    }

    /// Runs the conversation until either side ends it.
    pub fn start(
        self,
        requests: Streaming<WriteContentRequest>,
    ) -> ReceiverStream<Result<WriteContentResponse, Status>> {
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            if let Err(status) = self.run(requests, &sender).await {
                // The client may be gone: then nobody is there to be told.
                let _ = sender.send(Err(status)).await;
            }
        });
        ReceiverStream::new(receiver)
    }

    async fn run(
        mut self,
        mut requests: Streaming<WriteContentRequest>,
        answers: &mpsc::Sender<Result<WriteContentResponse, Status>>,
    ) -> Result<(), Status> {
        let Some(first) = requests.next().await else { return Ok(()) };
        let mut request = first?;
        let mut writer = Some(self.open(&request).await?);
        while let Some(open) = writer.take() {
            let (answer, still_open) = self.step(open, request).await?;
            writer = still_open;
            if answers.send(Ok(answer)).await.is_err() {
                return Ok(());
            }
            if writer.is_none() {
                return Ok(());
            }
            request = match requests.next().await {
                Some(next) => next?,
                None => return Ok(()),
            };
        }
        Ok(())
    }

    async fn open(&mut self, first: &WriteContentRequest) -> Result<Writer> {
        if first.r#ref.is_empty() {
            return Err(Error::invalid("content write", "the first message must have a reference"));
        }
        self.total = convert::from_size("content total", first.total)?;
        self.expected = parse_expected(first)?;
        let options = WriterOptions {
            namespace: self.namespace.clone(),
            reference: first.r#ref.clone(),
            total: self.total,
            expected: self.expected.clone(),
            lease: self.lease.clone(),
        };
        self.content.writer(options).await
    }

    /// Carries out one message; the writer comes back unless it was committed.
    async fn step(
        &mut self,
        mut writer: Writer,
        request: WriteContentRequest,
    ) -> Result<(WriteContentResponse, Option<Writer>)> {
        self.agree(&writer, &request)?;
        let action = request.action();
        if action != WriteAction::Stat {
            self.write(&mut writer, &request).await?;
        }
        let data = bytes::Bytes::from(request.data);
        if action != WriteAction::Stat && !data.is_empty() {
            writer.write(data).await?;
        }
        let mut answer = answer(&writer, action).await?;
        if action != WriteAction::Commit {
            return Ok((answer, Some(writer)));
        }
        let options = CommitOptions {
            size: (self.total > 0).then_some(self.total),
            expected: self.expected.clone(),
            labels: from_hash(request.labels),
            hashed: None,
        };
        let info = writer.commit(options).await?;
        answer.digest = info.digest.to_string();
        answer.offset = convert::size(info.size);
        answer.updated_at = Some(convert::timestamp(info.updated_at));
        Ok((answer, None))
    }

    /// Total and expected digest may be told late, but not changed.
    fn agree(&mut self, writer: &Writer, request: &WriteContentRequest) -> Result<()> {
        let what = || format!("ref {}", writer.reference());
        if let Some(expected) = parse_expected(request)? {
            if self.expected.as_ref().is_some_and(|earlier| *earlier != expected) {
                return Err(Error::invalid(what(), "the expected digest changed during the write"));
            }
            self.expected = Some(expected);
        }
        let total = convert::from_size("content total", request.total)?;
        if total > 0 {
            if self.total > 0 && total != self.total {
                return Err(Error::invalid(what(), "the total size changed during the write"));
            }
            self.total = total;
        }
        Ok(())
    }

    /// Offset 0 starts over; any other must be where the ingest ends.
    async fn write(&self, writer: &mut Writer, request: &WriteContentRequest) -> Result<()> {
        let offset = convert::from_size("content offset", request.offset)?;
        let current = writer.offset();
        if offset > 0 && offset != current {
            return Err(Error::OutOfRange {
                what: format!("ref {}", writer.reference()),
                why: format!("write at {offset} must occur at the current offset {current}"),
            });
        }
        if offset == 0 && current > 0 {
            writer.truncate(0).await?;
        }
        let end = writer.offset().saturating_add(request.data.len() as u64);
        // Without data it is the commit that finds that the size is wrong.
        if self.total > 0 && end > self.total && !request.data.is_empty() {
            return Err(Error::OutOfRange {
                what: format!("ref {}", writer.reference()),
                why: format!("write up to {end}, but the total is {}", self.total),
            });
        }
        Ok(())
    }
}

fn parse_expected(request: &WriteContentRequest) -> Result<Option<Digest>> {
    if request.expected.is_empty() { Ok(None) } else { Digest::parse(&request.expected).map(Some) }
}

async fn answer(writer: &Writer, action: WriteAction) -> Result<WriteContentResponse> {
    Ok(WriteContentResponse {
        action: action.into(),
        started_at: Some(convert::timestamp(writer.started_at())),
        updated_at: Some(convert::timestamp(writer.updated_at())),
        offset: convert::size(writer.offset()),
        total: convert::size(writer.total()),
        digest: writer.digest().await?.to_string(),
    })
}
