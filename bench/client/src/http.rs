//! As much of HTTP/1.1 as the benchmarks need: requests with a body, answers with a length, kept-alive connections.

use crate::Outcome;
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// A request, ready to be sent.
pub(crate) fn request(method: &str, path: &str, body: &str) -> Vec<u8> {
    let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n");
    let rest = if body.is_empty() && matches!(method, "GET" | "DELETE") {
        "\r\n".to_owned()
    } else {
        format!("content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    };
    (head + &rest).into_bytes()
}

/// The request that runs a command in a sandbox.
pub(crate) fn exec(id: &str, body: &str) -> Vec<u8> {
    request("POST", &format!("/v1/sandboxes/{id}/exec"), body)
}

/// The `id` of a JSON object.
pub(crate) fn id(answer: &str) -> Outcome<String> {
    let rest = answer.split_once("\"id\":\"").ok_or_else(|| format!("an answer without an id: {answer}"))?.1;
    Ok(rest.split('"').next().unwrap_or_default().to_owned())
}

/// Refuses the answer to an exec that did not exit with 0.
pub(crate) fn succeeded(answer: &str) -> Outcome<()> {
    if answer.contains("\"exit_code\":0") { Ok(()) } else { Err(format!("an exec failed: {answer}").into()) }
}

/// Where one answer ends in `bytes`, once it is whole.
///
/// # Errors
/// When it is no answer with a length, or its status is not of success.
pub(crate) fn end(bytes: &[u8]) -> Outcome<Option<usize>> {
    let Some(head) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&bytes[..head])?.to_ascii_lowercase();
    let status = text.split(' ').nth(1).unwrap_or_default();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = match length {
        Some(length) => length.trim().parse()?,
        None if status == "204" => 0,
        None => return Err(format!("an answer without a length: {text}").into()),
    };
    let end = head + 4 + length;
    if bytes.len() < end {
        return Ok(None);
    }
    if !status.starts_with('2') {
        return Err(format!("{text}\n{}", String::from_utf8_lossy(&bytes[head + 4..end])).into());
    }
    Ok(Some(end))
}

/// One connection that is kept alive.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Outcome<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        Ok(Self { stream, buffer: vec![0; 64 * 1024] })
    }

    /// Sends a request and gives the body of its answer.
    pub(crate) fn ask(&mut self, request: &[u8]) -> Outcome<String> {
        self.stream.write_all(request)?;
        let mut filled = 0;
        loop {
            match self.stream.read(&mut self.buffer[filled..])? {
                0 => return Err("the server closed the connection, or its answer is too long".into()),
                bytes => filled += bytes,
            }
            if let Some(end) = end(&self.buffer[..filled])? {
                let text = String::from_utf8_lossy(&self.buffer[..end]);
                return Ok(text.split_once("\r\n\r\n").map_or_else(String::new, |(_, body)| body.to_owned()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_end_where_their_length_says() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
        assert_eq!(end(whole).expect("an answer"), Some(whole.len()));
        assert_eq!(end(&whole[..whole.len() - 1]).expect("half an answer"), None);
        assert_eq!(end(b"HTTP/1.1 204 No Content\r\n\r\n").expect("no body"), Some(27));
        assert!(end(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n").is_err());
        assert!(end(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }

    #[test]
    fn ids_are_found() {
        assert_eq!(id(r#"{"id":"sb1","name":null}"#).expect("an id"), "sb1");
        assert!(id("{}").is_err());
    }
}
