//! The client of the HTTP API, as far as the commands of the CLI need it.

pub(crate) mod converse;
pub(crate) mod error;
pub(crate) mod follow;
pub(crate) mod patience;
pub(crate) mod said;
pub(crate) mod sse;

pub(crate) use error::{CallError, Problem};

use crate::failure::{Failure, Outcome};
use isopod_model::{SandboxId, page::Page, sandbox::Sandbox};
use reqwest::{Method, RequestBuilder, Response, Url, header};
use serde::de::DeserializeOwned;
use std::time::Duration;

/// Where the server is unless `ISOPOD_URL` says otherwise.
const DEFAULT_URL: &str = "http://127.0.0.1:8080";
/// How long making a connection may take. Answers may take as long as they like.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A server and how to speak to it.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
    key: Option<String>,
}

impl Client {
    /// The server that `ISOPOD_URL` names, with the key of `ISOPOD_API_KEY`.
    ///
    /// # Errors
    /// When the address makes no sense.
    pub(crate) fn from_environment() -> Outcome<Self> {
        let base = crate::settings::process_environment("ISOPOD_URL").unwrap_or_else(|| DEFAULT_URL.into());
        Self::new(&base, crate::settings::process_environment("ISOPOD_API_KEY"))
    }

    /// A client of the server at `base`.
    ///
    /// # Errors
    /// When `base` is no `http` address, or the key cannot stand in a header.
    pub(crate) fn new(base: &str, key: Option<String>) -> Outcome<Self> {
        let wrong = |reason: &str| {
            Failure::hinted(format_args!("ISOPOD_URL {base:?} {reason}"), "use http://host:port")
        };
        let url = Url::parse(base).map_err(|_| wrong("is not an address"))?;
        match url.scheme() {
            "http" if url.host().is_some() => {}
            "https" => return Err(wrong("needs TLS, which this client does not speak; tunnel it")),
            _ => return Err(wrong("is not an http address")),
        }
        if key.as_ref().is_some_and(|key| header::HeaderValue::from_str(key).is_err()) {
            return Err(Failure::new("ISOPOD_API_KEY holds characters that no key has"));
        }
        let mut http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("isopod/", env!("CARGO_PKG_VERSION")));
        if is_loopback(&url) {
            // A proxy of the environment cannot reach this machine's own loopback.
            http = http.no_proxy();
        }
        Ok(Self { http: http.build().map_err(Failure::new)?, base: url, key })
    }

    /// Where the server is, for people.
    pub(crate) fn base(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// The key to show, if there is one.
    pub(crate) fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// The address of `/v1/` and these segments, each encoded as a whole.
    pub(crate) fn url<S: AsRef<str>>(&self, segments: impl IntoIterator<Item = S>) -> Url {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .expect("http addresses have paths")
            .pop_if_empty()
            .push("v1")
            .extend(segments);
        url
    }

    /// The address of something of one sandbox.
    pub(crate) fn sandbox_url(&self, sandbox: &str, rest: &[&str]) -> Url {
        self.url(["sandboxes", sandbox].into_iter().chain(rest.iter().copied()))
    }

    /// A request with the credentials.
    pub(crate) fn request(&self, method: Method, url: Url) -> RequestBuilder {
        let request = self.http.request(method, url);
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    /// Sends a request; an error status is [`CallError::Problem`].
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response, CallError> {
        let response = request.send().await.map_err(|error| self.broken(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.unwrap_or_default();
        Err(Problem::read(status.as_u16(), &body).into())
    }

    /// Sends a request and reads the JSON answer.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub(crate) async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, CallError> {
        let body = self.send(request).await?.bytes().await.map_err(|error| self.broken(&error))?;
        serde_json::from_slice(&body).map_err(|error| CallError::Unexpected(error.to_string()))
    }

    /// What a failure below HTTP means.
    pub(crate) fn broken(&self, error: &reqwest::Error) -> CallError {
        let reason = innermost(error);
        if error.is_connect() {
            CallError::Unreachable { base: self.base().to_owned(), reason }
        } else {
            CallError::Broken(reason)
        }
    }

    /// The id of the sandbox that a person means by id or name.
    ///
    /// # Errors
    /// When there is none of that name.
    pub(crate) async fn resolve(&self, id_or_name: &str) -> Result<String, CallError> {
        if SandboxId::is_form(id_or_name) {
            return Ok(id_or_name.to_owned());
        }
        let sandbox: Sandbox =
            self.json(self.request(Method::GET, self.sandbox_url(id_or_name, &[]))).await?;
        Ok(sandbox.id.to_string())
    }

    /// Every sandbox that matches, page by page.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub(crate) async fn list(
        &self,
        labels: &[String],
        state: Option<&str>,
    ) -> Result<Vec<Sandbox>, CallError> {
        let mut all = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let mut url = self.url(["sandboxes"]);
            {
                let mut query = url.query_pairs_mut();
                query.append_pair("limit", &isopod_model::page::MAX_LIMIT.to_string());
                query.extend_pairs(labels.iter().map(|label| ("label", label)));
                query.extend_pairs(state.map(|state| ("state", state)));
                query.extend_pairs(cursor.as_ref().map(|cursor| ("cursor", cursor)));
            }
            let page: Page<Sandbox> = self.json(self.request(Method::GET, url)).await?;
            all.extend(page.items);
            match page.next_cursor {
                Some(next) => cursor = Some(next),
                None => return Ok(all),
            }
        }
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost" | "[::1]") => true,
        Some(host) => host.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback()),
        None => false,
    }
}

/// The last cause of an error: "connection refused" instead of "error sending request for url".
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_cannot_leave_their_place() {
        let client = Client::new("http://127.0.0.1:8080/", None).expect("valid");
        let url = client.sandbox_url("a/../b?c", &["stats"]);
        assert_eq!(url.as_str(), "http://127.0.0.1:8080/v1/sandboxes/a%2F..%2Fb%3Fc/stats");
        let below = Client::new("http://host/isopod", None).expect("valid");
        assert_eq!(below.url(["sandboxes"]).as_str(), "http://host/isopod/v1/sandboxes");
    }

    #[test]
    fn addresses_are_checked() {
        for bad in ["", "127.0.0.1:8080", "ftp://host", "https://host"] {
            assert!(Client::new(bad, None).is_err(), "{bad}");
        }
        assert!(Client::new("http://host", Some("a\nb".into())).is_err());
    }

    #[test]
    fn loopback_is_recognised() {
        for (address, expected) in [
            ("http://localhost", true),
            ("http://[::1]:1", true),
            ("http://127.3.2.1", true),
            ("http://a.b", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(address).expect("valid")), expected, "{address}");
        }
    }
}
