//! Output as clients get it over SSE and WebSocket: text where it is text, base64 where it is not.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream::BoxStream};
use isopod_model::{
    Error, Result,
    exec::{Exec, OutputStream},
};
use isopod_node_api::OutputEvent;
use serde::Serialize;
use std::{borrow::Cow, collections::VecDeque};

/// One thing to tell a follower.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Piece {
    /// Bytes of a stream.
    Output {
        /// Which stream.
        stream: OutputStream,
        /// Offset of the first byte.
        offset: u64,
        /// The bytes; never cut within a character when they are text.
        data: Bytes,
    },
    /// Bytes that are not kept any more.
    Skipped {
        /// Which stream.
        stream: OutputStream,
        /// Offset of the first missing byte.
        offset: u64,
        /// How many.
        bytes: u64,
    },
    /// The end, after everything else.
    Exit(Box<Exec>),
}

/// The data of a `stdout` or `stderr` event.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = OutputChunk)]
pub(crate) struct Chunk<'a> {
    /// Offset of its first byte in the stream, in bytes.
    offset: u64,
    /// The text, or base64.
    data: Cow<'a, str>,
    /// `base64` when the bytes are not UTF-8; absent for text.
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
}

impl<'a> Chunk<'a> {
    /// The form of some bytes.
    pub(crate) fn new(offset: u64, data: &'a [u8]) -> Self {
        match std::str::from_utf8(data) {
            Ok(text) => Self { offset, data: Cow::Borrowed(text), encoding: None },
            Err(_) => Self { offset, data: Cow::Owned(STANDARD.encode(data)), encoding: Some("base64") },
        }
    }
}

/// The data of a `skipped` event.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = OutputSkipped)]
pub(crate) struct Skip {
    /// Which stream.
    pub(crate) stream: OutputStream,
    /// Offset of the first missing byte.
    pub(crate) offset: u64,
    /// How many bytes are missing.
    pub(crate) bytes: u64,
}

/// The name of a stream's events.
pub(crate) fn stream_name(stream: OutputStream) -> &'static str {
    match stream {
        OutputStream::Stdout => "stdout",
        OutputStream::Stderr => "stderr",
    }
}

/// What a journal gives, as pieces in which no character is split; exactly one exit or error comes last.
pub(crate) struct Pieces {
    events: BoxStream<'static, Result<OutputEvent>>,
    joiner: Joiner,
    ready: VecDeque<Piece>,
    done: bool,
}

impl Pieces {
    /// Follows `events`.
    pub(crate) fn new(events: BoxStream<'static, Result<OutputEvent>>) -> Self {
        Self { events, joiner: Joiner::default(), ready: VecDeque::with_capacity(3), done: false }
    }

    /// The next piece; dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Option<Result<Piece>> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                self.done = matches!(piece, Piece::Exit(_));
                return Some(Ok(piece));
            }
            if self.done {
                return None;
            }
            match self.events.next().await {
                Some(Ok(event)) => self.joiner.push(event, &mut self.ready),
                Some(Err(error)) => {
                    self.done = true;
                    return Some(Err(error));
                }
                None => {
                    self.done = true;
                    let reason = "the output broke off; attach again from the last offset".to_owned();
                    return Some(Err(Error::Unavailable { reason }));
                }
            }
        }
    }
}

/// Holds back the beginning of a character until its end arrives.
#[derive(Debug, Default)]
struct Joiner {
    /// Of each stream: the offset and the up to three bytes that are held back.
    held: [Option<(u64, Bytes)>; 2],
}

impl Joiner {
    fn push(&mut self, event: OutputEvent, pieces: &mut VecDeque<Piece>) {
        match event {
            OutputEvent::Output { stream, offset, data } => {
                let (offset, data) = self.joined(stream, offset, data, pieces);
                let whole = data.len() - split_character(&data);
                if whole < data.len() {
                    self.held[stream as usize] = Some((offset + whole as u64, data.slice(whole..)));
                }
                if whole > 0 {
                    pieces.push_back(Piece::Output { stream, offset, data: data.slice(..whole) });
                }
            }
            OutputEvent::Skipped { stream, offset, bytes } => {
                self.release(stream, pieces);
                pieces.push_back(Piece::Skipped { stream, offset, bytes });
            }
            OutputEvent::Ended(exec) => {
                self.release(OutputStream::Stdout, pieces);
                self.release(OutputStream::Stderr, pieces);
                pieces.push_back(Piece::Exit(exec));
            }
        }
    }

    fn joined(
        &mut self,
        stream: OutputStream,
        offset: u64,
        data: Bytes,
        pieces: &mut VecDeque<Piece>,
    ) -> (u64, Bytes) {
        match self.held[stream as usize].take() {
            None => (offset, data),
            Some((start, head)) if start + head.len() as u64 == offset => {
                let mut both = BytesMut::with_capacity(head.len() + data.len());
                both.extend_from_slice(&head);
                both.extend_from_slice(&data);
                (start, both.freeze())
            }
            Some((start, head)) => {
                pieces.push_back(Piece::Output { stream, offset: start, data: head });
                (offset, data)
            }
        }
    }

    fn release(&mut self, stream: OutputStream, pieces: &mut VecDeque<Piece>) {
        if let Some((offset, data)) = self.held[stream as usize].take() {
            pieces.push_back(Piece::Output { stream, offset, data });
        }
    }
}

/// How many bytes at the end of `data` are the beginning of a character (0 to 3).
pub(crate) fn split_character(data: &[u8]) -> usize {
    (1..=data.len().min(3))
        .find(|length| {
            let tail = &data[data.len() - length..];
            std::str::from_utf8(tail)
                .is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(chunks: &[&[u8]]) -> Vec<(u64, String, Option<&'static str>)> {
        let mut joiner = Joiner::default();
        let mut offset = 0;
        let mut pieces = VecDeque::new();
        for chunk in chunks {
            let data = Bytes::copy_from_slice(chunk);
            joiner.push(OutputEvent::Output { stream: OutputStream::Stdout, offset, data }, &mut pieces);
            offset += chunk.len() as u64;
        }
        joiner.release(OutputStream::Stdout, &mut pieces);
        pieces
            .iter()
            .map(|piece| {
                let Piece::Output { offset, data, .. } = piece else { panic!("{piece:?}") };
                let chunk = Chunk::new(*offset, data);
                (chunk.offset, chunk.data.into_owned(), chunk.encoding)
            })
            .collect()
    }

    #[test]
    fn characters_survive_any_cut() {
        let text = "aß€😀z";
        for cut in 0..=text.len() {
            for second in cut..=text.len() {
                let bytes = text.as_bytes();
                let got = run(&[&bytes[..cut], &bytes[cut..second], &bytes[second..]]);
                let mut whole = String::new();
                for (offset, data, encoding) in got {
                    assert_eq!((offset, encoding), (whole.len() as u64, None), "cut at {cut} and {second}");
                    whole.push_str(&data);
                }
                assert_eq!(whole, text);
            }
        }
        let bytewise: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(run(&bytewise).into_iter().map(|(_, data, _)| data).collect::<String>(), text);
    }

    #[test]
    fn what_is_not_text_is_base64_and_complete() {
        assert_eq!(run(&[b"\xff\xfe"]), [(0, "//4=".into(), Some("base64"))]);
        assert_eq!(run(&[b"a\xe2\x82"]), [(0, "a".into(), None), (1, "4oI=".into(), Some("base64"))]);
        // The beginning of a character that never ends is given with what follows.
        assert_eq!(run(&[b"\xe2", b"a"]), [(0, "4mE=".into(), Some("base64"))]);
        // Binary data before a split character: the character still arrives as text.
        assert_eq!(
            run(&[b"\xff\xe2\x82", b"\xac!"]),
            [(0, "/w==".into(), Some("base64")), (1, "€!".into(), None)]
        );
    }

    #[test]
    fn a_gap_releases_what_was_held() {
        let mut joiner = Joiner::default();
        let mut push = |event| {
            let mut pieces = VecDeque::new();
            joiner.push(event, &mut pieces);
            Vec::from(pieces)
        };
        let out = |offset, data: &'static [u8]| OutputEvent::Output {
            stream: OutputStream::Stderr,
            offset,
            data: Bytes::from_static(data),
        };
        assert_eq!(push(out(0, b"x\xc3")).len(), 1);
        let pieces = push(OutputEvent::Skipped { stream: OutputStream::Stderr, offset: 2, bytes: 9 });
        assert!(matches!(pieces[..], [Piece::Output { offset: 1, .. }, Piece::Skipped { bytes: 9, .. }]));
        assert_eq!(push(out(11, b"y\xc3")).len(), 1);
        assert!(matches!(
            push(out(20, b"z"))[..],
            [Piece::Output { offset: 12, .. }, Piece::Output { offset: 20, .. }]
        ));
    }
}
