//! Why a call to the server failed, and what a person should do about it.

use crate::failure::Failure;
use serde::Deserialize;

/// Why a call failed.
#[derive(Debug)]
pub(crate) enum CallError {
    /// Nobody answers at the address.
    Unreachable {
        /// Where nobody answers.
        base: String,
        /// What the system says.
        reason: String,
    },
    /// The connection broke while it was in use; trying again may work.
    Broken(String),
    /// The server answered with an error.
    Problem(Box<Problem>),
    /// The answer is not what this client knows.
    Unexpected(String),
}

/// An RFC 9457 problem document, as far as it is shown to people.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Problem {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The stable name of the kind of problem.
    pub(crate) code: String,
    /// The kind in words.
    pub(crate) title: String,
    /// What happened this time.
    pub(crate) detail: String,
    /// The field that is wrong.
    pub(crate) field: Option<String>,
    /// Where the server's log has the details.
    pub(crate) request_id: Option<String>,
    /// Seconds after which trying again may help.
    pub(crate) retry_after_s: Option<u64>,
}

impl Problem {
    /// Reads the body of an answer with an error status; what is no problem document is quoted, shortened.
    pub(crate) fn read(status: u16, body: &[u8]) -> Self {
        let problem: Self = serde_json::from_slice(body).unwrap_or_default();
        Self { status, ..problem }.explained(body)
    }

    /// Reads a problem document that stands in a stream and brings its status with it.
    pub(crate) fn in_stream(text: &str) -> Self {
        let problem: Self = serde_json::from_str(text).unwrap_or_default();
        problem.explained(text.as_bytes())
    }

    fn explained(self, body: &[u8]) -> Self {
        let mut problem = self;
        if problem.detail.is_empty() {
            let text: String = String::from_utf8_lossy(body).trim().chars().take(200).collect();
            problem.detail = match (problem.title.as_str(), text.as_str()) {
                ("", "") => "no explanation was given".to_owned(),
                ("", text) => text.to_owned(),
                (title, _) => title.to_owned(),
            };
        }
        problem
    }
}

impl CallError {
    /// Whether the same call may work in a moment: the server restarts, or the network hiccups.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Broken(_) => true,
            Self::Problem(problem) => problem.status == 503 && problem.code != "no_capacity",
            Self::Unexpected(_) => false,
        }
    }

    /// Whether the server says that there is no such thing.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Problem(problem) if problem.status == 404)
    }
}

impl From<Problem> for CallError {
    fn from(problem: Problem) -> Self {
        Self::Problem(Box::new(problem))
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Unreachable { base, reason } => Self::hinted(
                format_args!("no server answers at {base}: {reason}"),
                "start one with `isopod serve`, or set ISOPOD_URL to where it is",
            ),
            CallError::Broken(reason) => Self::hinted(
                format_args!("the connection to the server broke: {reason}"),
                "run the command again; what runs in sandboxes goes on",
            ),
            CallError::Unexpected(reason) => Self::hinted(
                format_args!("the server's answer is not understood: {reason}"),
                "check that ISOPOD_URL is an Isopod server of this version",
            ),
            CallError::Problem(problem) => {
                let named =
                    problem.field.as_ref().filter(|field| !problem.detail.starts_with(field.as_str()));
                let field = named.map(|field| format!("{field}: ")).unwrap_or_default();
                let code = match problem.code.as_str() {
                    "" => format!("HTTP {}", problem.status),
                    code => code.to_owned(),
                };
                let text = format!("{field}{} ({code})", crate::output::printable(&problem.detail));
                let hint = match (problem.code.as_str(), problem.status) {
                    ("not_found", _) => Some("`isopod ls` shows the sandboxes there are".to_owned()),
                    ("no_capacity", _) => Some(match problem.retry_after_s {
                        Some(seconds) => {
                            format!("remove sandboxes with `isopod rm`, or try again in {seconds} s")
                        }
                        None => "remove sandboxes with `isopod rm`, or try again later".to_owned(),
                    }),
                    ("tier_unavailable", _) => {
                        Some("`isopod doctor` explains what this host can do".to_owned())
                    }
                    (_, 401) => Some("set ISOPOD_API_KEY to a valid key".to_owned()),
                    (_, 500..) => problem.request_id.map(|id| format!("the server's log has request {id}")),
                    _ => None,
                };
                match hint {
                    Some(hint) => Self::hinted(text, hint),
                    None => Self::new(text),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_read_whatever_they_are() {
        let whole = Problem::read(
            422,
            br#"{"code":"invalid_value","detail":"limits.cpus: 64 is too many","field":"limits.cpus"}"#,
        );
        assert_eq!(
            Failure::from(CallError::from(whole)).to_string(),
            "isopod: limits.cpus: 64 is too many (invalid_value)"
        );
        let bare = Problem::read(422, br#"{"code":"invalid_value","detail":"too many","field":"n"}"#);
        assert_eq!(Failure::from(CallError::from(bare)).to_string(), "isopod: n: too many (invalid_value)");
        let foreign = Failure::from(CallError::from(Problem::read(502, b"<h1>Bad gateway</h1>"))).to_string();
        assert_eq!(foreign, "isopod: <h1>Bad gateway</h1> (HTTP 502)");
        let empty = Failure::from(CallError::from(Problem::read(500, b""))).to_string();
        assert_eq!(empty, "isopod: no explanation was given (HTTP 500)");
    }

    #[test]
    fn a_missing_server_is_explained() {
        let error = CallError::Unreachable {
            base: "http://127.0.0.1:8080".into(),
            reason: "connection refused".into(),
        };
        assert!(error.is_transient());
        let text = Failure::from(error).to_string();
        assert!(text.contains("isopod serve") && text.contains("ISOPOD_URL"), "{text}");
        assert_eq!(text.lines().count(), 2);
    }
}
