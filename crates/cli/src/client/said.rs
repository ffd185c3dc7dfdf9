//! What the server says about an exec that is followed, over either transport.

use super::{CallError, Problem};
use base64::{Engine, engine::general_purpose::STANDARD};
use isopod_model::exec::{Exec, OutputStream};
use serde::{Deserialize, de::DeserializeOwned};

/// One thing that the server says.
#[derive(Debug)]
pub(crate) enum Said {
    /// The exec's id, known from now on.
    Started(String),
    /// Bytes of one stream.
    Output {
        /// Which stream.
        stream: OutputStream,
        /// Offset of the first byte.
        offset: u64,
        /// The bytes.
        data: Vec<u8>,
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
    /// The end.
    Exit(Box<Exec>),
    /// Something went wrong.
    Error(Problem),
}

#[derive(Deserialize)]
struct Chunk {
    offset: u64,
    data: String,
    encoding: Option<String>,
}

#[derive(Deserialize)]
struct Skip {
    stream: OutputStream,
    offset: u64,
    bytes: u64,
}

#[derive(Deserialize)]
struct Started {
    id: String,
}

#[derive(Deserialize)]
struct Wrapped {
    problem: Problem,
}

#[derive(Deserialize)]
struct Typed {
    #[serde(rename = "type")]
    kind: String,
}

/// Reads an event: its name and its JSON. Unknown kinds are skipped: a newer server may say more.
///
/// # Errors
/// [`CallError::Unexpected`] when a known kind has another form than expected.
pub(crate) fn decode(kind: &str, text: &str) -> Result<Option<Said>, CallError> {
    Ok(Some(match kind {
        "stdout" => output(OutputStream::Stdout, read(text)?)?,
        "stderr" => output(OutputStream::Stderr, read(text)?)?,
        "skipped" => {
            let Skip { stream, offset, bytes } = read(text)?;
            Said::Skipped { stream, offset, bytes }
        }
        "exit" => Said::Exit(read(text)?),
        "started" => Said::Started(read::<Started>(text)?.id),
        "error" => Said::Error(match serde_json::from_str::<Wrapped>(text) {
            Ok(Wrapped { problem }) => problem,
            Err(_) => read(text)?,
        }),
        _ => return Ok(None),
    }))
}

/// Reads a WebSocket message, whose JSON has the kind inside.
///
/// # Errors
/// As of [`decode`].
pub(crate) fn decode_typed(text: &str) -> Result<Option<Said>, CallError> {
    decode(&read::<Typed>(text)?.kind, text)
}

fn output(stream: OutputStream, chunk: Chunk) -> Result<Said, CallError> {
    let Chunk { offset, data, encoding } = chunk;
    let data = match encoding.as_deref() {
        None => data.into_bytes(),
        Some("base64") => {
            STANDARD.decode(data).map_err(|error| CallError::Unexpected(format!("base64: {error}")))?
        }
        Some(other) => return Err(CallError::Unexpected(format!("output in the encoding {other:?}"))),
    };
    Ok(Said::Output { stream, offset, data })
}

fn read<T: DeserializeOwned>(text: &str) -> Result<T, CallError> {
    serde_json::from_str(text).map_err(|error| CallError::Unexpected(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_arrive_as_they_were() {
        let bytes = |text: &str| match decode("stderr", text) {
            Ok(Some(Said::Output { stream: OutputStream::Stderr, offset: 3, data })) => data,
            other => panic!("{other:?}"),
        };
        assert_eq!(bytes(r#"{"offset":3,"data":"/wD+","encoding":"base64"}"#), [0xff, 0, 0xfe]);
        assert_eq!(bytes(r#"{"offset":3,"data":"ß\u0000"}"#), "ß\0".as_bytes());
        for wrong in [r#"{"offset":3,"data":"!","encoding":"base64"}"#, r#"{"offset":3}"#, "nonsense"] {
            assert!(matches!(decode("stdout", wrong), Err(CallError::Unexpected(_))), "{wrong}");
        }
    }

    #[test]
    fn messages_carry_their_kind() {
        assert!(
            matches!(decode_typed(r#"{"type":"started","id":"ex1"}"#), Ok(Some(Said::Started(id))) if id == "ex1")
        );
        assert!(matches!(decode_typed(r#"{"type":"weather"}"#), Ok(None)));
        let problem = |text| match decode_typed(text) {
            Ok(Some(Said::Error(problem))) => problem.code,
            other => panic!("{other:?}"),
        };
        assert_eq!(problem(r#"{"type":"error","problem":{"code":"gone","status":410}}"#), "gone");
        assert!(
            matches!(decode("error", r#"{"code":"gone"}"#), Ok(Some(Said::Error(p))) if p.code == "gone")
        );
    }
}
