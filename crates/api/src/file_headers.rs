//! The headers that make files a good citizen of HTTP: ranges, validators, and what keeps them harmless.

use crate::problem::{Answer, Problem};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use isopod_model::{Error, Timestamp, file::FileStat};
use isopod_node_api::{ByteRange, Preconditions};
use jiff::fmt::rfc2822::{DateTimeParser, DateTimePrinter};

/// How many ETags one header may list.
const TAGS_LIMIT: usize = 64;

/// The range of a GET: nothing when there is none, or one that RFC 9110 lets a server overlook (several ranges,
/// another unit, nonsense).
pub(crate) fn range(headers: &HeaderMap) -> Option<ByteRange> {
    let mut values = headers.get_all(header::RANGE).iter();
    let text = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    let (unit, set) = text.split_once('=')?;
    let (first, last) = set.trim().split_once('-')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let number =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok())?;
    match (first.trim(), last.trim()) {
        ("", last) => Some(ByteRange::Last(number(last)?)),
        (first, "") => Some(ByteRange::From(number(first)?, None)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(ByteRange::From(first, Some(last)))
        }
    }
}

/// `If-Match` and `If-None-Match`.
pub(crate) fn preconditions(headers: &HeaderMap) -> Answer<Preconditions> {
    Ok(Preconditions {
        if_match: tags(headers, &header::IF_MATCH)?,
        if_none_match: tags(headers, &header::IF_NONE_MATCH)?,
    })
}

/// The ETags of a header: quoted, weak marks kept, `*` as it is.
fn tags(headers: &HeaderMap, name: &HeaderName) -> Answer<Option<Vec<String>>> {
    let wrong = || Problem::invalid(name.as_str(), "must be * or a list of quoted ETags");
    let mut tags = Vec::new();
    for value in headers.get_all(name) {
        let mut rest = value.to_str().map_err(|_| wrong())?.trim();
        if rest == "*" {
            return Ok(Some(vec!["*".to_owned()]));
        }
        while !rest.is_empty() {
            let quoted = rest.strip_prefix("W/").unwrap_or(rest);
            let inner = quoted.strip_prefix('"').ok_or_else(wrong)?;
            let end = inner.find('"').ok_or_else(wrong)?;
            let length = rest.len() - inner.len() + end + 1;
            tags.push(rest[..length].to_owned());
            if tags.len() > TAGS_LIMIT {
                return Err(Problem::invalid(name.as_str(), format!("must list at most {TAGS_LIMIT} ETags")));
            }
            rest = rest[length..].trim_start();
            rest = match rest.strip_prefix(',') {
                Some(more) => more.trim_start(),
                None if rest.is_empty() => rest,
                None => return Err(wrong()),
            };
        }
    }
    Ok(if headers.contains_key(name) { Some(tags) } else { None })
}

/// What the conditions of a GET or HEAD mean for the file that is there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Send it.
    Send,
    /// The client has it: 304.
    NotModified,
}

/// Evaluates the conditions of a GET or HEAD in the order of RFC 9110.
pub(crate) fn evaluate(headers: &HeaderMap, stat: &FileStat) -> Answer<Verdict> {
    let conditions = preconditions(headers)?;
    let etag = stat.etag.as_deref();
    let failed =
        || Error::PreconditionFailed { path: stat.path.clone(), etag: etag.unwrap_or("none").to_owned() };
    if let Some(wanted) = &conditions.if_match {
        let holds = wanted.iter().any(|tag| tag == "*" || Some(tag.as_str()) == etag);
        if !holds {
            return Err(failed().into());
        }
    } else if let Some(date) = date(headers, &header::IF_UNMODIFIED_SINCE)
        && stat.modified_at.as_second() > date.as_second()
    {
        return Err(failed().into());
    }
    let known = match &conditions.if_none_match {
        Some(known) => known.iter().any(|tag| tag == "*" || etag.is_some_and(|etag| weakly_equal(tag, etag))),
        None => date(headers, &header::IF_MODIFIED_SINCE)
            .is_some_and(|date| stat.modified_at.as_second() <= date.as_second()),
    };
    Ok(if known { Verdict::NotModified } else { Verdict::Send })
}

/// Whether `If-Range` (when given) still names the file that is there.
pub(crate) fn range_is_current(headers: &HeaderMap, stat: &FileStat) -> bool {
    let Some(value) = headers.get(header::IF_RANGE) else { return true };
    let text = value.to_str().unwrap_or_default().trim();
    if text.starts_with('"') {
        stat.etag.as_deref() == Some(text)
    } else {
        date(headers, &header::IF_RANGE).is_some_and(|date| date.as_second() == stat.modified_at.as_second())
    }
}

fn weakly_equal(one: &str, other: &str) -> bool {
    one.strip_prefix("W/").unwrap_or(one) == other.strip_prefix("W/").unwrap_or(other)
}

fn date(headers: &HeaderMap, name: &HeaderName) -> Option<Timestamp> {
    const PARSER: DateTimeParser = DateTimeParser::new();
    PARSER.parse_timestamp(headers.get(name)?.to_str().ok()?).ok()
}

/// The validators and the type of a file.
///
/// A sandbox's file comes from hostile code, and these bytes are served from the API's own origin: browsers must
/// neither guess its type, nor show it in place, nor run anything in it.
pub(crate) fn describe(headers: &mut HeaderMap, stat: &FileStat) {
    validators(headers, stat);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type(&stat.name)));
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
}

/// `ETag` and `Last-Modified`.
pub(crate) fn validators(headers: &mut HeaderMap, stat: &FileStat) {
    if let Some(etag) = stat.etag.as_ref().and_then(|etag| HeaderValue::try_from(etag).ok()) {
        headers.insert(header::ETAG, etag);
    }
    const PRINTER: DateTimePrinter = DateTimePrinter::new();
    if let Ok(date) = PRINTER.timestamp_to_rfc9110_string(&stat.modified_at)
        && let Ok(date) = HeaderValue::try_from(date)
    {
        headers.insert(header::LAST_MODIFIED, date);
    }
}

/// The type by the name's extension; bytes for everything unknown.
fn content_type(name: &str) -> &'static str {
    let extension = name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
    match extension.as_deref().unwrap_or_default() {
        "txt" | "log" | "py" | "rs" | "go" | "c" | "h" | "cpp" | "java" | "rb" | "sh" | "toml" | "ini"
        | "cfg" | "ts" | "tsx" | "jsx" => "text/plain; charset=utf-8",
        "md" => "text/markdown; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" | "cjs" => "text/javascript; charset=utf-8",
        "json" | "map" => "application/json",
        "yaml" | "yml" => "application/yaml",
        "xml" => "application/xml",
        "pdf" => "application/pdf",
        "wasm" => "application/wasm",
        "zip" | "whl" => "application/zip",
        "gz" | "tgz" => "application/gzip",
        "tar" => "application/x-tar",
        "zst" => "application/zstd",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "svg" => "image/svg+xml",
        "mp3" => "audio/mpeg",
        "wav" => "audio/wav",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use isopod_model::file::FileKind;

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).expect("a header"))])
    }

    fn stat() -> FileStat {
        FileStat {
            name: "a.txt".into(),
            path: "/workspace/a.txt".into(),
            kind: FileKind::File,
            size_bytes: 3,
            mode: "0644".into(),
            uid: 1000,
            gid: 1000,
            modified_at: "2026-05-04T03:02:01.5Z".parse().expect("a time"),
            target: None,
            etag: Some("\"x1\"".into()),
        }
    }

    #[test]
    fn ranges_are_read_or_overlooked() {
        let read = |text| range(&headers(header::RANGE, text));
        assert_eq!(read("bytes=0-0"), Some(ByteRange::From(0, Some(0))));
        assert_eq!(read("bytes=5-"), Some(ByteRange::From(5, None)));
        assert_eq!(read("Bytes = -7"), Some(ByteRange::Last(7)));
        for overlooked in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=3-2",
            "bytes=a-b",
            "bytes=+1-2",
            "bytes=0-1,3-4",
            "lines=0-1",
            "bytes=0-99999999999999999999",
        ] {
            assert_eq!(read(overlooked), None, "{overlooked}");
        }
    }

    #[test]
    fn etags_are_read_or_refused() {
        let read = |text| tags(&headers(header::IF_MATCH, text), &header::IF_MATCH);
        assert_eq!(read("*").expect("valid"), Some(vec!["*".into()]));
        assert_eq!(read(r#""a", W/"b,c""#).expect("valid"), Some(vec![r#""a""#.into(), r#"W/"b,c""#.into()]));
        assert_eq!(tags(&HeaderMap::new(), &header::IF_MATCH).expect("valid"), None);
        for bad in ["a", r#""a"#, r#""a" "b""#, &"\"a\",".repeat(65)] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn conditions_are_evaluated_in_order() {
        let verdict = |name, value| evaluate(&headers(name, value), &stat());
        assert_eq!(verdict(header::IF_NONE_MATCH, "W/\"x1\""), Ok(Verdict::NotModified));
        assert_eq!(verdict(header::IF_NONE_MATCH, "\"x2\""), Ok(Verdict::Send));
        assert_eq!(verdict(header::IF_MATCH, "\"x1\""), Ok(Verdict::Send));
        assert_eq!(verdict(header::IF_MATCH, "W/\"x1\"").map_err(|p| p.status().as_u16()), Err(412));
        assert_eq!(
            verdict(header::IF_MODIFIED_SINCE, "Mon, 04 May 2026 03:02:01 GMT"),
            Ok(Verdict::NotModified)
        );
        assert_eq!(verdict(header::IF_MODIFIED_SINCE, "Mon, 04 May 2026 03:02:00 GMT"), Ok(Verdict::Send));
        assert_eq!(verdict(header::IF_MODIFIED_SINCE, "yesterday"), Ok(Verdict::Send));
        assert!(range_is_current(&headers(header::IF_RANGE, "\"x1\""), &stat()));
        assert!(!range_is_current(&headers(header::IF_RANGE, "W/\"x1\""), &stat()));
        assert!(range_is_current(&headers(header::IF_RANGE, "Mon, 04 May 2026 03:02:01 GMT"), &stat()));
    }

    #[test]
    fn files_cannot_act_on_our_origin() {
        let mut map = HeaderMap::new();
        describe(&mut map, &FileStat { name: "evil.html".into(), ..stat() });
        assert_eq!(map[header::CONTENT_DISPOSITION], "attachment");
        assert_eq!(map[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert!(map[header::CONTENT_SECURITY_POLICY].to_str().expect("ASCII").starts_with("sandbox"));
        assert_eq!(map[header::LAST_MODIFIED], "Mon, 04 May 2026 03:02:01 GMT");
    }
}
