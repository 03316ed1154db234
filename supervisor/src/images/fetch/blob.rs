//! Fetching a blob: exact ranges side by side, each tried again on its own from where it stopped.
//!
//! What always holds: a byte of the ingest is written once per run, so that what readers have seen stays; no more is taken than
//! the descriptor's size; an answer to a range is used only if it is that range.

#![forbid(unsafe_code)]

use std::ops::Range;
use std::sync::Arc;

use ::http::StatusCode;
use ::http::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue, RANGE};
use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use reqwest::Response;
use tokio::sync::Semaphore;

use super::Remote;
use super::error::FetchError;
use super::feed::Feed;
use super::host::Host;
use super::http::next_chunk;
use super::response::content_range;
use super::retry::Patience;
use crate::content::Digest;
use crate::content::store::blocking;

/// Bytes of one range. A blob up to this size is fetched whole.
const CHUNK: u64 = 8 << 20;
/// Ranges of one blob at one time.
const WINDOW: usize = 4;
/// Bytes that are gathered before they are written.
const BATCH: usize = 1 << 20;
/// Attempts count anew after this much has come.
const PROGRESS: u64 = 1 << 20;

/// One blob to fetch into an ingest.
pub struct BlobFetch<'a> {
    pub remote: &'a Remote,
    /// Index of the host.
    pub host: usize,
    pub digest: &'a Digest,
    pub feed: &'a Arc<Feed>,
    /// Connections, shared by all blobs of a pull.
    pub connections: &'a Semaphore,
}

enum Part {
    Done,
    /// The host does not know ranges: this answer is the whole blob.
    Whole(Box<Response>),
}

impl BlobFetch<'_> {
    /// Fetches the parts that are missing. What was written when this fails can be gone on with.
    pub async fn run(&self, missing: Vec<Range<u64>>) -> Result<(), FetchError> {
        let size = self.feed.size();
        if let [only] = missing.as_slice()
            && *only == (0..size)
            && size <= CHUNK
        {
            return self.small(size).await;
        }
        let mut chunks = missing.iter().flat_map(split).collect::<Vec<_>>().into_iter();
        let mut running = FuturesUnordered::new();
        loop {
            while running.len() < WINDOW
                && let Some(chunk) = chunks.next()
            {
                running.push(self.chunk(chunk));
            }
            match running.next().await {
                None => return Ok(()),
                Some(Ok(Part::Done)) => {}
                Some(Ok(Part::Whole(answer))) => {
                    // What else is under way comes to its end first, so that nothing is written twice.
                    while running.next().await.is_some() {}
                    return self.whole(*answer).await;
                }
                Some(Err(error)) => return Err(error),
            }
        }
    }

    fn host(&self) -> &Host {
        &self.remote.hosts[self.host]
    }

    fn what(&self) -> String {
        format!("blob {}", self.digest)
    }

    async fn request(&self, range: Option<&Range<u64>>) -> Result<Response, FetchError> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(range) = range {
            let text = format!("bytes={}-{}", range.start, range.end - 1);
            if let Ok(value) = HeaderValue::from_str(&text) {
                headers.insert(RANGE, value);
            }
        }
        let path = format!("{}/blobs/{}", self.remote.repository, self.digest);
        self.host().request(&self.what(), &path, headers).await
    }

    // Without a range at first; what is missing after a broken answer is asked for by range.
    async fn small(&self, size: u64) -> Result<(), FetchError> {
        let mut patience = Patience::new();
        let mut at = 0;
        let mut whole = true;
        loop {
            let error = if whole {
                match self.connect(None).await {
                    Ok((mut answer, _permit)) => match self.check_whole(&answer, size) {
                        Ok(()) => match self.receive(&mut answer, &mut at, size).await {
                            Ok(()) => return self.expect_end(&mut answer, size).await,
                            Err(error) => error,
                        },
                        Err(error) => return Err(error),
                    },
                    Err(error) => error,
                }
            } else {
                match self.chunk(at..size).await? {
                    Part::Done => return Ok(()),
                    Part::Whole(answer) => return self.whole(*answer).await,
                }
            };
            patience.wait(error).await?;
            whole = at == 0;
        }
    }

    async fn connect(
        &self,
        range: Option<&Range<u64>>,
    ) -> Result<(Response, Option<tokio::sync::SemaphorePermit<'_>>), FetchError> {
        let permit = self.connections.acquire().await.ok();
        Ok((self.request(range).await?, permit))
    }

    async fn chunk(&self, range: Range<u64>) -> Result<Part, FetchError> {
        let mut patience = Patience::new();
        let (mut at, mut counted) = (range.start, range.start);
        loop {
            let error = match self.connect(Some(&(at..range.end))).await {
                Ok((answer, _)) if answer.status() == StatusCode::OK => {
                    return Ok(Part::Whole(Box::new(answer)));
                }
                Ok((mut answer, _permit)) => {
                    self.check_range(&answer, at..range.end)?;
                    match self.receive(&mut answer, &mut at, range.end).await {
                        Ok(()) => return Ok(Part::Done),
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            if at - counted >= PROGRESS {
                patience.renew();
                counted = at;
            }
            patience.wait(error).await?;
        }
    }

    fn check_range(&self, answer: &Response, wanted: Range<u64>) -> Result<(), FetchError> {
        let expected = Some((wanted.start, wanted.end - 1, self.feed.size()));
        if answer.status() == StatusCode::PARTIAL_CONTENT && content_range(answer.headers()) == expected {
            return Ok(());
        }
        Err(FetchError::ContentRange { what: self.what(), host: self.host().name.clone() })
    }

    fn check_whole(&self, answer: &Response, size: u64) -> Result<(), FetchError> {
        match answer.content_length() {
            Some(length) if length > size => Err(self.too_long(size)),
            _ => Ok(()),
        }
    }

    // The whole blob on one stream: of it only what is missing is written.
    async fn whole(&self, mut answer: Response) -> Result<(), FetchError> {
        let size = self.feed.size();
        let mut patience = Patience::new();
        loop {
            self.check_whole(&answer, size)?;
            let error = match self.receive_whole(&mut answer, size).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            patience.wait(error).await?;
            answer = self.request(None).await?;
        }
    }

    async fn receive_whole(&self, answer: &mut Response, size: u64) -> Result<(), FetchError> {
        let missing = self.feed.parts().missing();
        let mut position = 0;
        while let Some(chunk) = next_chunk(answer).await? {
            self.feed.arrive(chunk.len());
            let start = position;
            position += chunk.len() as u64;
            if position > size {
                return Err(self.too_long(size));
            }
            for range in missing.iter().map(|range| range.start.max(start)..range.end.min(position)) {
                if range.is_empty() {
                    continue;
                }
                let piece = chunk.slice((range.start - start) as usize..(range.end - start) as usize);
                self.write(range.start, vec![piece]).await?;
            }
        }
        if position < size { Err(self.short(position, size)) } else { Ok(()) }
    }

    // Writes what comes from `at` on, up to `end`.
    async fn receive(&self, answer: &mut Response, at: &mut u64, end: u64) -> Result<(), FetchError> {
        let (mut batch, mut gathered) = (Vec::new(), 0u64);
        loop {
            let next = next_chunk(answer).await;
            if let Ok(Some(chunk)) = &next {
                self.feed.arrive(chunk.len());
                gathered += chunk.len() as u64;
                if *at + gathered > end {
                    break Err(self.too_long(self.feed.size()));
                }
                batch.push(chunk.clone());
            }
            let ended = !matches!(next, Ok(Some(_)));
            if !batch.is_empty() && (ended || gathered >= BATCH as u64 || *at + gathered == end) {
                self.write(*at, std::mem::take(&mut batch)).await?;
                *at += std::mem::take(&mut gathered);
            }
            match next {
                _ if *at == end => break Ok(()),
                Ok(Some(_)) => {}
                Ok(None) => break Err(self.short(*at, end)),
                Err(error) => break Err(error),
            }
        }
    }

    // A body that goes on after its size is not the blob.
    async fn expect_end(&self, answer: &mut Response, size: u64) -> Result<(), FetchError> {
        match next_chunk(answer).await {
            Ok(Some(more)) if !more.is_empty() => Err(self.too_long(size)),
            _ => Ok(()),
        }
    }

    async fn write(&self, offset: u64, batch: Vec<Bytes>) -> Result<(), FetchError> {
        let feed = self.feed.clone();
        blocking(move || {
            let mut at = offset;
            for piece in &batch {
                feed.parts().write_at(at, piece)?;
                at += piece.len() as u64;
            }
            feed.advance();
            Ok(())
        })
        .await?;
        Ok(())
    }

    fn too_long(&self, wanted: u64) -> FetchError {
        FetchError::Long { what: self.what(), host: self.host().name.clone(), wanted }
    }

    fn short(&self, got: u64, wanted: u64) -> FetchError {
        FetchError::Short { what: self.what(), host: self.host().name.clone(), got, wanted }
    }
}

fn split(range: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
    let (mut at, end) = (range.start, range.end);
    std::iter::from_fn(move || {
        let start = at;
        // Ranges end at multiples of the chunk size, so that an interrupted fetch asks for the same ones again.
        at = (start / CHUNK * CHUNK + CHUNK).min(end);
        (start < end).then_some(start..at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_split_at_multiples() {
        let chunks: Vec<_> = split(&(5..CHUNK * 2 + 1)).collect();
        assert_eq!(chunks, [5..CHUNK, CHUNK..2 * CHUNK, 2 * CHUNK..2 * CHUNK + 1]);
        assert_eq!(split(&(7..7)).count(), 0);
    }
}
