//! The OpenAPI document and a page that shows it. The page needs nothing from anywhere else: servers work offline.

use crate::openapi::openapi;
use axum::response::{IntoResponse, Response};
use http::header;
use std::sync::LazyLock;

static DOCUMENT: LazyLock<String> = LazyLock::new(|| openapi().to_json().unwrap_or_else(|_| "{}".to_owned()));

const PAGE: &str = include_str!("docs.html");

/// `/openapi.json`.
pub(crate) async fn document() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.as_str()).into_response()
}

/// `/docs` and `/redoc`.
pub(crate) async fn page() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; connect-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, PAGE).into_response()
}
