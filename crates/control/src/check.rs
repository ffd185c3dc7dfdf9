//! What callers may ask for: pure checks, each naming the field that is wrong.

use isopod_model::{
    Error, Result, exec,
    exec::ExecRequest,
    name, page,
    sandbox::{CreateSandbox, UpdateSandbox},
};
use std::collections::BTreeMap;

/// Seconds in a year: the longest time to live, and the longest idle time.
const YEAR_S: u64 = 31_536_000;
const LABELS: usize = 64;
const LABEL_CHARACTERS: usize = 128;
const METADATA_BYTES: usize = 64 * 1024;
const ENV_BYTES: usize = 32 * 1024;
const KEY_BYTES: usize = 255;
/// Labels that one listing may ask for.
const LABEL_FILTERS: usize = 16;

/// Checks the body of a create, except for what depends on the host.
pub(crate) fn create(request: &CreateSandbox) -> Result<()> {
    if let Some(name) = &request.name {
        name::check(name)?;
    }
    labels(&request.labels)?;
    metadata(request.metadata.as_ref())?;
    env(&request.env)?;
    if let Some(seconds) = request.timeout_s {
        timeout_s(seconds)?;
    }
    if let Some(seconds) = request.idle_timeout_s {
        idle_timeout_s(seconds)?;
    }
    if request.always_on {
        return Err(not_built("always_on", "L4"));
    }
    if request.allow.is_some() {
        return Err(not_built("a list of allowed commands", "T6"));
    }
    if let Some(network) = &request.network {
        let denied = network.preset.as_deref().is_none_or(|preset| preset == "deny");
        if !denied || network.rules.as_ref().is_some_and(|rules| !rules.is_empty()) {
            return Err(not_built("a network beyond the preset \"deny\"", "I6"));
        }
    }
    Ok(())
}

/// Checks the body of an update; labels are checked by [`labels`] after they were put together.
pub(crate) fn update(request: &UpdateSandbox) -> Result<()> {
    metadata(request.metadata.as_ref())?;
    if let Some(seconds) = request.timeout_s.filter(|seconds| *seconds > 0) {
        timeout_s(seconds)?;
    }
    request.idle_timeout_s.map_or(Ok(()), idle_timeout_s)
}

/// Checks a whole set of labels.
pub(crate) fn labels(labels: &BTreeMap<String, String>) -> Result<()> {
    if labels.len() > LABELS {
        return Err(Error::invalid("labels", format!("{} are more than {LABELS}", labels.len())));
    }
    for text in labels.iter().flat_map(|(key, value)| [key, value]) {
        label(text)?;
    }
    Ok(())
}

fn label(text: &str) -> Result<()> {
    if text.is_empty() || text.chars().count() > LABEL_CHARACTERS || text.contains('\0') {
        let reason = format!("keys and values must be 1 to {LABEL_CHARACTERS} characters long, without NUL");
        return Err(Error::invalid("labels", reason));
    }
    Ok(())
}

/// Checks the labels that a listing asks for.
pub(crate) fn label_filters(filters: &[(String, String)]) -> Result<()> {
    if filters.len() > LABEL_FILTERS {
        return Err(Error::invalid("label", format!("at most {LABEL_FILTERS} may be asked for")));
    }
    filters.iter().flat_map(|(key, value)| [key, value]).try_for_each(|text| label(text))
}

/// Checks how many items a page may hold.
pub(crate) fn limit(limit: u32) -> Result<()> {
    if limit == 0 || limit > page::MAX_LIMIT {
        return Err(Error::invalid("limit", format!("must be 1 to {}", page::MAX_LIMIT)));
    }
    Ok(())
}

fn metadata(metadata: Option<&serde_json::Value>) -> Result<()> {
    let bytes = metadata.map_or(0, |value| value.to_string().len());
    if bytes > METADATA_BYTES {
        return Err(Error::invalid("metadata", format!("{bytes} bytes are more than {METADATA_BYTES}")));
    }
    Ok(())
}

fn env(env: &BTreeMap<String, String>) -> Result<()> {
    exec::check_env("env", env)?;
    let bytes: usize = env.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    if bytes > ENV_BYTES {
        return Err(Error::invalid("env", format!("{bytes} bytes are more than {ENV_BYTES}")));
    }
    Ok(())
}

fn timeout_s(seconds: u64) -> Result<()> {
    if !(1..=YEAR_S).contains(&seconds) {
        return Err(Error::invalid("timeout_s", format!("{seconds} is not between 1 and {YEAR_S}")));
    }
    Ok(())
}

fn idle_timeout_s(seconds: u64) -> Result<()> {
    if seconds > YEAR_S {
        return Err(Error::invalid("idle_timeout_s", format!("{seconds} is not between 0 and {YEAR_S}")));
    }
    Ok(())
}

/// Checks an exec and gives the command it means.
pub(crate) fn exec(request: &ExecRequest, key: Option<&str>) -> Result<Vec<String>> {
    if request.session.is_some() {
        return Err(not_built("sessions", "X5"));
    }
    if request.timeout_ms == Some(0) {
        return Err(Error::invalid("timeout_ms", "must be greater than 0; leave it out for no limit"));
    }
    if key.is_some_and(|key| key.is_empty() || key.len() > KEY_BYTES || key.contains('\0')) {
        let reason = format!("must be 1 to {KEY_BYTES} bytes long, without NUL");
        return Err(Error::invalid("Idempotency-Key", reason));
    }
    request.command()
}

/// The error for what belongs to the contract and comes later.
pub(crate) fn not_built(what: &str, row: &str) -> Error {
    Error::NotBuilt { feature: format!("{what} (mission row {row})") }
}

/// What a caller asked for, short enough to be repeated to it.
pub(crate) fn shown(text: &str) -> String {
    match text.char_indices().nth(LABEL_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use isopod_model::sandbox::NetworkRequest;

    fn field(result: Result<()>) -> String {
        match result {
            Err(Error::Invalid { field, .. }) => field,
            Err(Error::NotBuilt { feature }) => feature,
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn bad_creates_name_their_field() {
        let many = (0..65).map(|number| (number.to_string(), "x".to_owned())).collect();
        let network = |preset: &str| Some(NetworkRequest { preset: Some(preset.to_owned()), rules: None });
        let rules = Some(NetworkRequest { preset: None, rules: Some(vec![serde_json::Value::Null]) });
        let one = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        let base = CreateSandbox::default;
        let table = [
            (CreateSandbox { name: Some("a/b".into()), ..base() }, "name"),
            (CreateSandbox { labels: many, ..base() }, "labels"),
            (CreateSandbox { labels: one("", "x"), ..base() }, "labels"),
            (CreateSandbox { labels: one("x", &"y".repeat(129)), ..base() }, "labels"),
            (CreateSandbox { labels: one("x", "\0"), ..base() }, "labels"),
            (CreateSandbox { metadata: Some("x".repeat(METADATA_BYTES).into()), ..base() }, "metadata"),
            (CreateSandbox { env: one("A=B", "x"), ..base() }, "env"),
            (CreateSandbox { env: one("A", &"x".repeat(ENV_BYTES)), ..base() }, "env"),
            (CreateSandbox { timeout_s: Some(0), ..base() }, "timeout_s"),
            (CreateSandbox { timeout_s: Some(YEAR_S + 1), ..base() }, "timeout_s"),
            (CreateSandbox { idle_timeout_s: Some(u64::MAX), ..base() }, "idle_timeout_s"),
            (CreateSandbox { always_on: true, ..base() }, "always_on (mission row L4)"),
            (CreateSandbox { allow: Some(vec![]), ..base() }, "a list of allowed commands (mission row T6)"),
            (
                CreateSandbox { network: network("web"), ..base() },
                "a network beyond the preset \"deny\" (mission row I6)",
            ),
            (
                CreateSandbox { network: rules, ..base() },
                "a network beyond the preset \"deny\" (mission row I6)",
            ),
        ];
        for (request, expected) in table {
            assert_eq!(field(create(&request)), expected, "{request:?}");
        }
        let good = CreateSandbox {
            network: network("deny"),
            labels: one("ключ", &"ы".repeat(128)),
            timeout_s: Some(YEAR_S),
            idle_timeout_s: Some(0),
            ..base()
        };
        assert_eq!(create(&good), Ok(()));
    }

    #[test]
    fn bad_execs_name_their_field() {
        let shell = || ExecRequest { shell: Some("true".into()), ..ExecRequest::default() };
        let check = |request: &ExecRequest, key: Option<&str>| field(exec(request, key).map(drop));
        assert_eq!(check(&ExecRequest { timeout_ms: Some(0), ..shell() }, None), "timeout_ms");
        let session = ExecRequest { session: Some("s".into()), ..shell() };
        assert_eq!(check(&session, None), "sessions (mission row X5)");
        assert_eq!(check(&ExecRequest::default(), None), "argv");
        assert_eq!(check(&shell(), Some("")), "Idempotency-Key");
        assert_eq!(check(&shell(), Some(&"k".repeat(256))), "Idempotency-Key");
        assert!(exec(&shell(), Some("k")).is_ok());
    }

    #[test]
    fn long_texts_are_not_repeated_whole() {
        assert_eq!(shown("short"), "short");
        assert_eq!(shown(&"ü".repeat(10_000)).chars().count(), 129);
    }
}
