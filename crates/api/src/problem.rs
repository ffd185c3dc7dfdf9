//! The one place where errors become HTTP: RFC 9457 problem documents.
//!
//! A handler returns a [`Problem`]; it travels as an extension of an empty response, and the outermost middleware
//! (`telemetry`) writes it out with the request's id. Streams write theirs by [`Problem::document`].

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use isopod_model::{Ending, Error, ErrorCode};
use serde::Serialize;

/// The media type of problem documents.
pub(crate) const MEDIA_TYPE: &str = "application/problem+json";

/// The result of a handler.
pub(crate) type Answer<T = Response> = Result<T, Problem>;

/// Why a request failed: an error of the platform, or one that only HTTP knows.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum Problem {
    /// An error of the platform.
    #[error(transparent)]
    Model(#[from] Error),
    /// The path exists, this method of it does not.
    #[error("this path does not answer {method}; the Allow header says what it answers")]
    MethodNotAllowed {
        /// The method asked for.
        method: String,
    },
    /// The request names a host that this server is not.
    #[error("this server does not answer for the host {host}; set BASE_URL if it should")]
    WrongHost {
        /// The host asked for.
        host: String,
    },
    /// A web page of another origin tries to act here.
    #[error("pages of {origin} may not act on this server")]
    CrossOrigin {
        /// The page's origin.
        origin: String,
    },
    /// The path speaks WebSocket only.
    #[error("connect with a WebSocket client: {reason}")]
    UpgradeRequired {
        /// What the request lacks.
        reason: String,
    },
}

/// An error as clients see it; `application/problem+json`.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemDocument {
    /// Names the kind of problem: `urn:isopod:problem:` and the code.
    #[serde(rename = "type")]
    kind: String,
    /// The kind of problem in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What happened this time, in words.
    detail: String,
    /// The stable name of the kind of problem; branch on this.
    code: &'static str,
    /// The request it happened to, as `urn:isopod:request:` and its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
    /// The id of the request; the server's log has it too.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    /// The field, parameter or header that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    /// How the sandbox ended (410).
    #[serde(skip_serializing_if = "Option::is_none")]
    ending: Option<Ending>,
    /// The id of what the problem is about, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// The state that does not allow the call (409).
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    /// Seconds after which trying again may help.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_s: Option<u64>,
    /// The limit that was exceeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit_bytes: Option<u64>,
    /// The size that the range does not fit (416).
    #[serde(skip_serializing_if = "Option::is_none")]
    size_bytes: Option<u64>,
    /// The file's present ETag (412).
    #[serde(skip_serializing_if = "Option::is_none")]
    etag: Option<String>,
}

impl Problem {
    /// A request that cannot be read.
    pub(crate) fn malformed(reason: impl Into<String>) -> Self {
        Self::Model(Error::Malformed { reason: reason.into() })
    }

    /// A wrong value.
    pub(crate) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Model(Error::invalid(field, reason))
    }

    /// Status, stable code and title of its kind.
    fn kind(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Model(error) => model_kind(error.code()),
            Self::MethodNotAllowed { .. } => {
                (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method not allowed")
            }
            Self::WrongHost { .. } => (StatusCode::MISDIRECTED_REQUEST, "wrong_host", "Not this host"),
            Self::CrossOrigin { .. } => (StatusCode::FORBIDDEN, "cross_origin", "Not from this origin"),
            Self::UpgradeRequired { .. } => {
                (StatusCode::UPGRADE_REQUIRED, "upgrade_required", "WebSocket required")
            }
        }
    }

    /// Its HTTP status.
    pub(crate) fn status(&self) -> StatusCode {
        self.kind().0
    }

    /// What the log should know and the caller must not.
    pub(crate) fn hidden(&self) -> Option<&str> {
        match self {
            Self::Model(Error::Internal { detail }) => Some(detail),
            _ => None,
        }
    }

    /// The document of this problem, as it happened to the request `request_id`.
    pub(crate) fn document(&self, request_id: Option<&str>) -> ProblemDocument {
        let (status, code, title) = self.kind();
        let mut document = ProblemDocument {
            kind: format!("urn:isopod:problem:{code}"),
            title,
            status: status.as_u16(),
            detail: self.to_string(),
            code,
            instance: request_id.map(|id| format!("urn:isopod:request:{id}")),
            request_id: request_id.map(str::to_owned),
            field: None,
            ending: None,
            id: None,
            state: None,
            retry_after_s: None,
            limit_bytes: None,
            size_bytes: None,
            etag: None,
        };
        if let Self::Model(error) = self {
            document.add_members(error);
        }
        document
    }

    /// The finished response, keeping the headers of `response`.
    pub(crate) fn write(&self, mut response: Response, request_id: &str) -> Response {
        let body = serde_json::to_vec(&self.document(Some(request_id))).unwrap_or_default();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        *response.body_mut() = Body::from(body);
        response
    }
}

impl ProblemDocument {
    fn add_members(&mut self, error: &Error) {
        match error {
            Error::Invalid { field, .. } => self.field = Some(field.clone()),
            Error::IdempotencyMismatch { id } => {
                self.field = Some("Idempotency-Key".into());
                self.id = Some(id.clone());
            }
            Error::TierUnavailable { .. } => self.field = Some("tier".into()),
            Error::Gone { id, ending } => {
                self.id = Some(id.clone());
                self.ending = Some((**ending).clone());
            }
            Error::NameTaken { id, .. } => {
                self.field = Some("name".into());
                self.id = Some(id.clone());
            }
            Error::NotFound { id, .. } | Error::ExecEnded { id } => self.id = Some(id.clone()),
            Error::WrongState { state, .. } => self.state = Some(state.as_str()),
            Error::NoCapacity { retry_after_s, .. } => self.retry_after_s = Some(*retry_after_s),
            Error::TooLarge { limit_bytes, .. } => self.limit_bytes = Some(*limit_bytes),
            Error::RangeNotSatisfiable { size_bytes } => self.size_bytes = Some(*size_bytes),
            Error::PreconditionFailed { etag, .. } => self.etag = Some(etag.clone()),
            _ => {}
        }
    }
}

/// Status, code and title of each of the platform's errors.
fn model_kind(code: ErrorCode) -> (StatusCode, &'static str, &'static str) {
    use StatusCode as S;
    match code {
        ErrorCode::MalformedRequest => (S::BAD_REQUEST, "malformed_request", "Malformed request"),
        ErrorCode::InvalidValue => (S::UNPROCESSABLE_ENTITY, "invalid_value", "Invalid value"),
        ErrorCode::NotFound => (S::NOT_FOUND, "not_found", "Not found"),
        ErrorCode::Gone => (S::GONE, "gone", "Sandbox has ended"),
        ErrorCode::NameTaken => (S::CONFLICT, "name_taken", "Name is taken"),
        ErrorCode::WrongState => (S::CONFLICT, "wrong_state", "Wrong state"),
        ErrorCode::ExecEnded => (S::CONFLICT, "exec_ended", "Exec has ended"),
        ErrorCode::IdempotencyMismatch => {
            (S::UNPROCESSABLE_ENTITY, "idempotency_mismatch", "Idempotency key reused")
        }
        ErrorCode::TierUnavailable => {
            (S::UNPROCESSABLE_ENTITY, "tier_unavailable", "Tier not available here")
        }
        ErrorCode::NotImplemented => (S::NOT_IMPLEMENTED, "not_implemented", "Not built yet"),
        ErrorCode::NoCapacity => (S::SERVICE_UNAVAILABLE, "no_capacity", "No room"),
        ErrorCode::Unavailable => (S::SERVICE_UNAVAILABLE, "unavailable", "Temporarily unavailable"),
        ErrorCode::WaitTimeout => (S::GATEWAY_TIMEOUT, "wait_timeout", "It did not happen in time"),
        ErrorCode::TooLarge => (S::PAYLOAD_TOO_LARGE, "too_large", "Too large"),
        ErrorCode::FileNotFound => (S::NOT_FOUND, "file_not_found", "No such file"),
        ErrorCode::WrongFileKind => (S::CONFLICT, "wrong_file_kind", "Another kind of file"),
        ErrorCode::FileExists => (S::CONFLICT, "file_exists", "File exists"),
        ErrorCode::DirectoryNotEmpty => (S::CONFLICT, "directory_not_empty", "Directory not empty"),
        ErrorCode::PermissionDenied => (S::FORBIDDEN, "permission_denied", "Permission denied"),
        ErrorCode::PathRefused => (S::FORBIDDEN, "path_refused", "Path refused"),
        ErrorCode::DiskFull => (S::INSUFFICIENT_STORAGE, "disk_full", "Disk full"),
        ErrorCode::PreconditionFailed => {
            (S::PRECONDITION_FAILED, "precondition_failed", "Precondition failed")
        }
        ErrorCode::RangeNotSatisfiable => {
            (S::RANGE_NOT_SATISFIABLE, "range_not_satisfiable", "Range not satisfiable")
        }
        ErrorCode::Internal => (S::INTERNAL_SERVER_ERROR, "internal", "Internal error"),
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        let headers = response.headers_mut();
        match &self {
            Self::Model(Error::NoCapacity { retry_after_s, .. }) => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(*retry_after_s));
            }
            Self::Model(Error::RangeNotSatisfiable { size_bytes }) => {
                if let Ok(range) = HeaderValue::try_from(format!("bytes */{size_bytes}")) {
                    headers.insert(header::CONTENT_RANGE, range);
                }
            }
            Self::UpgradeRequired { .. } => {
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            }
            _ => {}
        }
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_model() {
        for error in [
            Error::Malformed { reason: String::new() },
            Error::invalid("a", "b"),
            Error::internal("secret"),
            Error::NotBuilt { feature: String::new() },
            Error::DiskFull { limit_mib: 1 },
            Error::WaitTimeout { what: String::new(), after_ms: 1 },
        ] {
            let word = serde_json::to_value(error.code()).expect("serialises");
            assert_eq!(word, Problem::from(error).document(None).code);
        }
    }

    #[test]
    fn what_is_internal_stays_internal() {
        let problem = Problem::from(Error::internal("database password is hunter2"));
        let text = serde_json::to_string(&problem.document(Some("r1"))).expect("serialises");
        assert!(!text.contains("hunter2"), "{text}");
        assert!(text.contains("urn:isopod:request:r1"), "{text}");
        assert_eq!(problem.hidden(), Some("database password is hunter2"));
    }
}
