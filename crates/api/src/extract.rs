//! What handlers take out of a request. Whatever is wrong with it becomes a typed problem.

use crate::{ApiState, problem::Problem};
use axum::extract::{FromRequest, FromRequestParts, Request};
use bytes::Bytes;
use http::{HeaderMap, header, request::Parts};
use http_body_util::{BodyExt, Limited};
use isopod_control::{Caller, DataPlane};
use isopod_model::{Error, ExecId};
use serde::de::DeserializeOwned;
use std::str::FromStr;

/// How many bytes a JSON body may have.
pub(crate) const JSON_LIMIT: usize = 1024 * 1024;

/// A JSON body. Its content type is not looked at: whoever sends JSON here means it.
#[derive(Debug)]
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<ApiState> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &ApiState) -> Result<Self, Problem> {
        parse_json(&read_body(request).await?).map(Self)
    }
}

/// A JSON body of which every member is optional; no body at all means `{}`.
#[derive(Debug)]
pub(crate) struct JsonOrEmpty<T>(pub(crate) T);

impl<T: DeserializeOwned + Default> FromRequest<ApiState> for JsonOrEmpty<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &ApiState) -> Result<Self, Problem> {
        let body = read_body(request).await?;
        if body.is_empty() { Ok(Self(T::default())) } else { parse_json(&body).map(Self) }
    }
}

async fn read_body(request: Request) -> Result<Bytes, Problem> {
    let too_large = Error::TooLarge { what: "the JSON body", limit_bytes: JSON_LIMIT as u64 };
    if content_length(request.headers()).is_some_and(|length| length > JSON_LIMIT as u64) {
        return Err(too_large.into());
    }
    match Limited::new(request.into_body(), JSON_LIMIT).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(too_large.into()),
        Err(_) => Err(Problem::malformed("the body ended too early")),
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads a JSON object: what is no JSON is malformed, what is of another form than asked for is an invalid value.
pub(crate) fn parse_json<T: DeserializeOwned>(text: &[u8]) -> Result<T, Problem> {
    // serde would read an array as the object's members in order.
    if text.trim_ascii_start().first() != Some(&b'{') {
        return Err(well_formed(text)
            .err()
            .unwrap_or_else(|| Problem::invalid("body", "must be a JSON object")));
    }
    let mut json = serde_json::Deserializer::from_slice(text);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        // A wrong value may be found before the text turns out to be no JSON at all.
        well_formed(text).err().unwrap_or_else(|| json_problem(&error))
    })?;
    json.end().map_err(|error| Problem::malformed(error.to_string()))?;
    Ok(value)
}

fn well_formed(text: &[u8]) -> Result<(), Problem> {
    match serde_json::from_slice::<serde::de::IgnoredAny>(text) {
        Ok(_) => Ok(()),
        Err(error) => Err(Problem::malformed(error.to_string())),
    }
}

/// The same for JSON that has been read already.
pub(crate) fn from_value<T: DeserializeOwned>(value: serde_json::Value) -> Result<T, Problem> {
    serde_path_to_error::deserialize(value).map_err(|error| json_problem(&error))
}

fn json_problem(error: &serde_path_to_error::Error<serde_json::Error>) -> Problem {
    let inner = error.inner();
    if !inner.is_data() {
        return Problem::malformed(inner.to_string());
    }
    let text = inner.to_string();
    // The position is of no use to whoever reads the field's name.
    let reason = text.split(" at line ").next().unwrap_or(&text);
    let mut field = error.path().to_string();
    // A member that is missing or doubled is known to its object only.
    let member = ["missing field `", "duplicate field `"]
        .iter()
        .find_map(|start| reason.strip_prefix(start)?.split('`').next())
        .filter(|member| field != *member && !field.ends_with(&format!(".{member}")));
    match (member, field.as_str()) {
        (Some(member), ".") => field = member.to_owned(),
        (Some(member), _) => field = format!("{field}.{member}"),
        (None, ".") => field = "body".to_owned(),
        (None, _) => {}
    }
    Problem::invalid(clip(&field, 200), clip(reason, 400))
}

/// At most `limit` bytes of a text that may quote what the caller sent.
fn clip(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let end = (0..=limit).rev().find(|index| text.is_char_boundary(*index)).unwrap_or(0);
    format!("{}…", &text[..end])
}

/// Parameters of the path, decoded once.
#[derive(Debug)]
pub(crate) struct Path<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(rejection) => Err(Problem::malformed(clip(&rejection.body_text(), 300))),
        }
    }
}

/// The path of a file inside a sandbox, from the end of the URL's path; `//` is kept.
#[derive(Debug)]
pub(crate) struct FilePath(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for FilePath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        #[derive(serde::Deserialize)]
        struct Tail {
            #[serde(default)]
            path: String,
        }
        let Path(Tail { path }) = Path::<Tail>::from_request_parts(parts, state).await?;
        Ok(Self(format!("/{path}")))
    }
}

/// The id of an exec. What has not the form of one does not exist.
#[derive(Debug)]
pub(crate) struct ExecPath(pub(crate) ExecId);

impl<S: Send + Sync> FromRequestParts<S> for ExecPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        #[derive(serde::Deserialize)]
        struct Named {
            eid: String,
        }
        let Path(Named { eid }) = Path::<Named>::from_request_parts(parts, state).await?;
        parse_exec_id(&eid).map(Self)
    }
}

/// Reads an exec's id.
pub(crate) fn parse_exec_id(text: &str) -> Result<ExecId, Problem> {
    text.parse().map_err(|_| Error::NotFound { what: "exec", id: clip(text, 64) }.into())
}

/// Who asks. There is one caller until there are logins.
pub(crate) struct Asking(pub(crate) Caller);

impl<S: Send + Sync> FromRequestParts<S> for Asking {
    type Rejection = Problem;

    async fn from_request_parts(_: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self(Caller::local()))
    }
}

/// The sandbox of the path, resolved: whoever holds it may act inside.
pub(crate) struct Inside(pub(crate) DataPlane);

impl FromRequestParts<ApiState> for Inside {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        let Path(Named { id }) = Path::<Named>::from_request_parts(parts, state).await?;
        let Asking(caller) = Asking::from_request_parts(parts, state).await?;
        Ok(Self(state.control.data(&caller, &id).await?))
    }
}

/// The sandbox's id or name in the path.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Named {
    /// As it stands in the path.
    pub(crate) id: String,
}

/// The query's parameters. Every one must be known: a misspelt filter would otherwise widen what is asked for.
#[derive(Debug)]
pub(crate) struct Params(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        match axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&parts.uri) {
            Ok(axum::extract::Query(pairs)) => Ok(Self(pairs)),
            Err(rejection) => Err(Problem::malformed(clip(&rejection.body_text(), 300))),
        }
    }
}

impl Params {
    /// Refuses parameters that are not among `known`, and those given twice unless `repeatable`.
    pub(crate) fn only(self, known: &[&str], repeatable: &[&str]) -> Result<Self, Problem> {
        for (index, (name, _)) in self.0.iter().enumerate() {
            if repeatable.contains(&name.as_str()) {
                continue;
            }
            if !known.contains(&name.as_str()) {
                let all: Vec<&str> = known.iter().chain(repeatable).copied().collect();
                let reason = if all.is_empty() {
                    "is unknown; there are no parameters here".to_owned()
                } else {
                    format!("is unknown; there are {}", all.join(", "))
                };
                return Err(Problem::invalid(clip(name, 64), reason));
            }
            if self.0[..index].iter().any(|(earlier, _)| earlier == name) {
                return Err(Problem::invalid(name.clone(), "is given more than once"));
            }
        }
        Ok(self)
    }

    /// The value of a parameter.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Every value of a parameter that may be repeated.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A parameter that is a number of type `N`.
    pub(crate) fn number<N: FromStr>(&self, name: &str) -> Result<Option<N>, Problem> {
        self.text(name)
            .map(|text| {
                text.parse().map_err(|_| {
                    Problem::invalid(
                        name,
                        format!("must be a whole number in range, not {:?}", clip(text, 64)),
                    )
                })
            })
            .transpose()
    }

    /// A parameter that is `true` or `false`; false when absent, true when it has no value.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, Problem> {
        match self.text(name) {
            None | Some("false" | "0") => Ok(false),
            Some("" | "true" | "1") => Ok(true),
            Some(_) => Err(Problem::invalid(name, "must be true or false")),
        }
    }

    /// The size of a page: 1 to 1000, 100 when absent.
    pub(crate) fn limit(&self) -> Result<u32, Problem> {
        use isopod_model::page::{DEFAULT_LIMIT, MAX_LIMIT};
        let limit = self.number("limit")?.unwrap_or(DEFAULT_LIMIT);
        if (1..=MAX_LIMIT).contains(&limit) {
            Ok(limit)
        } else {
            Err(Problem::invalid("limit", format!("must be from 1 to {MAX_LIMIT}")))
        }
    }
}

/// The text of a header that occurs once.
pub(crate) fn header_text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::invalid(name, "is given more than once"));
    }
    value.to_str().map(Some).map_err(|_| Problem::invalid(name, "must be visible ASCII"))
}

/// Whether the client asks for server-sent events.
pub(crate) fn wants_events(headers: &HeaderMap) -> bool {
    headers.get_all(header::ACCEPT).iter().any(|value| {
        value.to_str().is_ok_and(|text| {
            text.split(',').any(|kind| {
                kind.split(';')
                    .next()
                    .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream"))
            })
        })
    })
}

/// Whether the body is declared to be JSON.
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|text| {
        text.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use isopod_model::{exec::ExecRequest, file::MoveFile, sandbox::CreateSandbox};

    fn field<T: DeserializeOwned + std::fmt::Debug>(text: &str) -> String {
        match parse_json::<T>(text.as_bytes()) {
            Err(Problem::Model(Error::Invalid { field, .. })) => field,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn wrong_values_name_their_field() {
        assert_eq!(field::<CreateSandbox>(r#"{"nmae": "x"}"#), "nmae");
        assert_eq!(field::<CreateSandbox>(r#"{"limits": {"cpus": "two"}}"#), "limits.cpus");
        assert_eq!(field::<CreateSandbox>(r#"{"limits": {"cpu": 1}}"#), "limits.cpu");
        assert_eq!(field::<CreateSandbox>(r#"{"tier": "docker"}"#), "tier");
        assert_eq!(field::<CreateSandbox>(r#"{"env": {"A": 1}}"#), "env.A");
        assert_eq!(field::<CreateSandbox>("[]"), "body");
        assert_eq!(field::<CreateSandbox>("null"), "body");
        assert_eq!(field::<ExecRequest>(r#"{"argv": ["a", 1]}"#), "argv[1]");
        assert_eq!(field::<ExecRequest>(r#"{"timeout_ms": -1}"#), "timeout_ms");
        assert_eq!(field::<ExecRequest>(r#"{"shell": "a", "shell": "b"}"#), "shell");
        assert_eq!(field::<MoveFile>(r#"{"from": "a"}"#), "to");
    }

    #[test]
    fn what_is_no_json_is_malformed() {
        let deep = "[".repeat(100_000);
        let metadata = format!(r#"{{"metadata": {deep}"#);
        for text in ["", "{", "{\"a\": }", "{} {}", "nope", "\u{feff}{}", &deep, &metadata] {
            let error = parse_json::<CreateSandbox>(text.as_bytes()).expect_err("malformed");
            assert!(matches!(error, Problem::Model(Error::Malformed { .. })), "{error:?}");
        }
        assert!(parse_json::<CreateSandbox>(b"{\"name\": \"\xff\"}").is_err());
    }
}
