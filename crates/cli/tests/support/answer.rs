//! What the API answered, and what a command did.

use bytes::Bytes;
use reqwest::header::HeaderMap;
use serde_json::Value;

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) async fn read(response: reqwest::Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.bytes().await.unwrap_or_else(|error| panic!("the answer broke off: {error}"));
        Self { status, headers, body }
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// Checks the status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    /// Checks that it is a problem document with this status and code; gives the document.
    #[track_caller]
    pub(crate) fn problem(self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.headers["content-type"], "application/problem+json", "{}", self.text());
        let document = self.json();
        assert_eq!(document["code"], code, "{document}");
        assert_eq!(document["status"], status, "{document}");
        let said = |name: &str| document[name].as_str().is_some_and(|text| !text.is_empty());
        assert!(said("title") && said("detail") && said("request_id") && said("type"), "{document}");
        document
    }

    /// One header, empty when absent.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// The buffered result of a command.
#[derive(Debug)]
pub(crate) struct Done(pub(crate) Value);

impl Done {
    pub(crate) fn stdout(&self) -> &str {
        self.0["stdout"].as_str().expect("there is a stdout")
    }

    pub(crate) fn stderr(&self) -> &str {
        self.0["stderr"].as_str().expect("there is a stderr")
    }

    pub(crate) fn code(&self) -> Option<i64> {
        self.0["exit_code"].as_i64()
    }

    pub(crate) fn reason(&self) -> &str {
        self.0["reason"].as_str().expect("an end has a reason")
    }

    pub(crate) fn detail(&self) -> &str {
        self.0["detail"].as_str().unwrap_or_default()
    }

    /// Checks that it succeeded; its standard output without the last line feed.
    #[track_caller]
    pub(crate) fn fine(&self) -> &str {
        assert_eq!((self.code(), self.reason()), (Some(0), "exited"), "{}", self.brief());
        self.stdout().trim_end()
    }

    /// Itself, short enough to be shown.
    pub(crate) fn brief(&self) -> String {
        let mut short = self.0.clone();
        for stream in ["stdout", "stderr"] {
            let text = self.0[stream].as_str().unwrap_or_default();
            short[stream] = text.chars().take(2000).collect::<String>().into();
        }
        format!("{short:#}")
    }
}
