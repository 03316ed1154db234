//! Window sizes as clients send them: JSON objects, one behind the other.
//!
//! What always holds: at most [`limits::SIZE`] bytes of an object that is not whole are kept; after something that is no size there
//! are no more.

#![forbid(unsafe_code)]

use super::ends::Inlet;
use super::limits;
use super::target::Size;

/// The sizes in a stream.
pub struct Sizes {
    inlet: Inlet,
    rest: Vec<u8>,
    over: bool,
}

impl Sizes {
    pub fn new(inlet: Inlet) -> Self {
        Self { inlet, rest: Vec::new(), over: false }
    }

    /// The next size; `None` when there will be none. Cancel safe.
    pub async fn next(&mut self) -> Option<Size> {
        loop {
            match first(&self.rest) {
                First::Size(size, length) => {
                    self.rest.drain(..length);
                    return Some(size);
                }
                First::Part if !self.over && self.rest.len() <= limits::SIZE => {}
                First::Part | First::Wrong => break,
            }
            match self.inlet.next().await {
                Some(bytes) => self.rest.extend_from_slice(&bytes),
                None => self.over = true,
            }
        }
        self.rest.clear();
        self.over = true;
        // Thrown away, so that the client's other streams go on.
        while self.inlet.next().await.is_some() {}
        None
    }
}

/// Looks for a size, for fuzzers.
pub fn parse(bytes: &[u8]) {
    first(bytes);
}

enum First {
    Size(Size, usize),
    Part,
    Wrong,
}

fn first(bytes: &[u8]) -> First {
    let mut values = serde_json::Deserializer::from_slice(bytes).into_iter::<Size>();
    match values.next() {
        Some(Ok(size)) => First::Size(size, values.byte_offset()),
        None => First::Part,
        Some(Err(error)) if error.is_eof() => First::Part,
        Some(Err(_)) => First::Wrong,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::sync::mpsc;

    use super::*;
    use crate::cri::streaming::budget::{Budget, Piece};

    #[tokio::test]
    async fn sizes_come_in_whatever_pieces_they_are_sent() {
        let (sender, receiver) = mpsc::channel(8);
        let share = Budget::default().share();
        let mut sizes = Sizes::new(Inlet::new(receiver, None));
        for piece in ["{\"Width\":80,", "\"Height\":24}\n{\"Width\":1,\"Height\":2}", "\n", "{\"Width\":-1}"]
        {
            let held = share.take(piece.len()).await.unwrap();
            sender.send(Piece { bytes: Bytes::from_static(piece.as_bytes()), held }).await.unwrap();
        }
        drop(sender);
        assert_eq!(sizes.next().await, Some(Size { columns: 80, rows: 24 }));
        assert_eq!(sizes.next().await, Some(Size { columns: 1, rows: 2 }));
        assert_eq!(sizes.next().await, None);
        assert_eq!(sizes.next().await, None);
    }
}
