//! Server-sent events: bytes in whatever pieces the network gives, events out.

/// The most that one event may hold; a server that sends more is not one of ours.
const EVENT_LIMIT: usize = 16 * 1024 * 1024;

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SseEvent {
    /// Its name; `message` when the server gave none.
    pub(crate) event: String,
    /// Its data, lines joined by `\n`.
    pub(crate) data: String,
    /// The position to continue from, where the server gave one.
    pub(crate) id: Option<String>,
}

/// The stream is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotAnEventStream;

/// Puts events together. Lines end with `\n`, `\r\n` or `\r`; comments (keep-alives) are dropped.
#[derive(Debug, Default)]
pub(crate) struct SseParser {
    line: Vec<u8>,
    after_carriage_return: bool,
    event: SseEvent,
    has_data: bool,
}

impl SseParser {
    /// Takes the next bytes and gives the events that they complete.
    ///
    /// # Errors
    /// When one event exceeds 16 MiB.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Vec<SseEvent>, NotAnEventStream> {
        let mut events = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.after_carriage_return {
                self.after_carriage_return = false;
                if rest[0] == b'\n' {
                    rest = &rest[1..];
                    continue;
                }
            }
            let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
                self.line.extend_from_slice(rest);
                break;
            };
            self.line.extend_from_slice(&rest[..end]);
            self.after_carriage_return = rest[end] == b'\r';
            rest = &rest[end + 1..];
            events.extend(self.end_line());
        }
        if self.line.len() + self.event.data.len() > EVENT_LIMIT {
            return Err(NotAnEventStream);
        }
        Ok(events)
    }

    fn end_line(&mut self) -> Option<SseEvent> {
        let bytes = std::mem::take(&mut self.line);
        if bytes.is_empty() {
            let mut event = std::mem::take(&mut self.event);
            if !std::mem::take(&mut self.has_data) {
                return None;
            }
            if event.event.is_empty() {
                event.event.push_str("message");
            }
            return Some(event);
        }
        // A line is decoded when it is whole, so characters split between two pieces survive.
        let line = String::from_utf8_lossy(&bytes);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event.event),
            "id" => self.event.id = Some(value.to_owned()),
            "data" => {
                if self.has_data {
                    self.event.data.push('\n');
                }
                self.has_data = true;
                self.event.data.push_str(value);
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = ": hello\n\nevent: stdout\nid: 7\ndata: {\"data\":\"größe\"}\n\nretry: 5\n\n: keep-alive\n\n\
                          data: a\ndata: b\n\nevent: lost\ndata: never ended";

    fn expected() -> Vec<SseEvent> {
        vec![
            SseEvent { event: "stdout".into(), data: "{\"data\":\"größe\"}".into(), id: Some("7".into()) },
            SseEvent { event: "message".into(), data: "a\nb".into(), id: None },
        ]
    }

    #[test]
    fn pieces_of_any_size_give_the_same_events() {
        for ending in ["\n", "\r\n", "\r"] {
            let stream = STREAM.replace('\n', ending);
            for size in 1..=stream.len() {
                let mut parser = SseParser::default();
                let events: Vec<_> = stream
                    .as_bytes()
                    .chunks(size)
                    .flat_map(|piece| parser.push(piece).expect("small"))
                    .collect();
                assert_eq!(events, expected(), "pieces of {size} with {ending:?}");
            }
        }
    }

    #[test]
    fn endless_events_are_refused() {
        let mut parser = SseParser::default();
        let piece = vec![b'x'; 1024 * 1024];
        let refused = (0..32).any(|_| parser.push(&piece).is_err());
        assert!(refused);
    }
}
