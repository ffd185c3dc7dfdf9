//! Which requests may come in at all: only for hosts that this server is, and never from other people's web pages.
//!
//! A server without logins trusts whoever reaches it, and browsers reach loopback. A page of a rebound DNS name is
//! told by its Host, a page of another origin by its Origin.

use crate::{ApiSettings, ApiState, problem::Problem};
use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, Method, Uri, header};
use std::net::{Ipv4Addr, Ipv6Addr};

/// The layer itself.
pub(crate) async fn guard(State(state): State<ApiState>, request: Request, next: Next) -> Response {
    match check(&state.settings, request.method(), request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn check(settings: &ApiSettings, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    let authority = authority(uri, headers)?;
    let host = host_of(authority);
    let own = own_host(&settings.base_url);
    let known = is_loopback(&host)
        || own.as_deref() == Some(&*host)
        || settings.allowed_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(&host));
    if !known {
        return Err(Problem::WrongHost { host: host.chars().take(255).collect() });
    }
    let acts = !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    if acts || headers.contains_key(header::UPGRADE) {
        for origin in headers.get_all(header::ORIGIN) {
            let origin = String::from_utf8_lossy(origin.as_bytes());
            if !is_own_origin(&origin, &settings.base_url, authority) {
                return Err(Problem::CrossOrigin { origin: origin.chars().take(255).collect() });
            }
        }
    }
    Ok(())
}

/// The host and port that the request is for. A Host header beside an absolute URI must say the same.
fn authority<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Result<&'a str, Problem> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let header = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return Err(Problem::malformed("there is more than one Host header")),
        (Some(host), None) => {
            Some(host.to_str().map_err(|_| Problem::malformed("the Host header is not ASCII"))?)
        }
        (None, None) => None,
    };
    match (uri.authority().map(http::uri::Authority::as_str), header) {
        (Some(uri), Some(header)) if !uri.eq_ignore_ascii_case(header) => {
            Err(Problem::malformed("the Host header and the request's URI name different hosts"))
        }
        (Some(authority), _) | (None, Some(authority)) => Ok(authority),
        (None, None) => Err(Problem::malformed("there is no Host header")),
    }
}

/// The host without port, brackets and final dot, in lower case.
fn host_of(authority: &str) -> String {
    let authority = authority.rsplit_once('@').map_or(authority, |(_, rest)| rest);
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => authority.split(':').next().unwrap_or(authority),
    };
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

fn own_host(base_url: &str) -> Option<String> {
    let uri: Uri = base_url.parse().ok()?;
    uri.authority().map(|authority| host_of(authority.as_str()))
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
        || host.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback())
}

fn is_own_origin(origin: &str, base_url: &str, authority: &str) -> bool {
    let Ok(uri) = origin.parse::<Uri>() else { return false };
    let (Some(scheme), Some(from)) = (uri.scheme_str(), uri.authority()) else { return false };
    if !matches!(scheme, "http" | "https") {
        return false;
    }
    let same_as_base = base_url.parse::<Uri>().is_ok_and(|base| {
        base.scheme_str() == Some(scheme)
            && base.authority().is_some_and(|own| same_authority(own.as_str(), from.as_str(), scheme))
    });
    same_as_base || same_authority(authority, from.as_str(), scheme)
}

/// Whether two authorities mean the same host and port under `scheme`.
fn same_authority(one: &str, other: &str, scheme: &str) -> bool {
    let default = if scheme == "https" { "443" } else { "80" };
    let port = |authority: &str| {
        let tail = authority.rsplit(']').next().unwrap_or(authority);
        tail.rsplit_once(':').map_or_else(|| default.to_owned(), |(_, port)| port.to_owned())
    };
    host_of(one) == host_of(other) && port(one) == port(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn ask(method: Method, uri: &str, headers: &[(&'static str, &str)]) -> Result<(), u16> {
        let settings = ApiSettings::new("https://box.example.org");
        let map = headers
            .iter()
            .map(|(name, value)| (name.parse().expect("name"), HeaderValue::from_str(value).expect("value")))
            .fold(HeaderMap::new(), |mut map, (name, value): (http::HeaderName, _)| {
                map.append(name, value);
                map
            });
        check(&settings, &method, &uri.parse().expect("uri"), &map)
            .map_err(|problem| problem.status().as_u16())
    }

    #[test]
    fn only_hosts_of_our_own_are_answered() {
        for good in [
            "localhost",
            "LOCALHOST:8080",
            "localhost.",
            "8000-sb.localhost:8080",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:8080",
            "box.example.org",
        ] {
            assert_eq!(ask(Method::GET, "/", &[("host", good)]), Ok(()), "{good}");
        }
        for bad in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "192.168.0.1",
            "0.0.0.0",
            "127.0.0.1@evil.example",
            "notlocalhost",
            "",
        ] {
            assert_eq!(ask(Method::GET, "/", &[("host", bad)]), Err(421), "{bad}");
        }
        assert_eq!(ask(Method::GET, "/", &[]), Err(400));
        assert_eq!(ask(Method::GET, "/", &[("host", "localhost"), ("host", "evil")]), Err(400));
        assert_eq!(ask(Method::GET, "http://evil.example/", &[("host", "localhost")]), Err(400));
        assert_eq!(ask(Method::GET, "http://evil.example/", &[]), Err(421));
        assert_eq!(ask(Method::GET, "http://localhost/", &[]), Ok(()));
    }

    #[test]
    fn pages_of_other_origins_may_not_act() {
        let host = ("host", "localhost:8080");
        for (origin, verdict) in [
            ("http://localhost:8080", Ok(())),
            ("https://box.example.org", Ok(())),
            ("http://box.example.org", Err(403)),
            ("http://localhost:3000", Err(403)),
            ("http://127.0.0.1:8080", Err(403)),
            ("http://8000-sb1.localhost:8080", Err(403)),
            ("https://evil.example", Err(403)),
            ("null", Err(403)),
            ("", Err(403)),
        ] {
            assert_eq!(ask(Method::POST, "/", &[host, ("origin", origin)]), verdict, "{origin}");
            assert_eq!(ask(Method::DELETE, "/", &[host, ("origin", origin)]), verdict, "{origin}");
            let upgrade = ("upgrade", "websocket");
            assert_eq!(ask(Method::GET, "/", &[host, upgrade, ("origin", origin)]), verdict, "{origin}");
            assert_eq!(ask(Method::GET, "/", &[host, ("origin", origin)]), Ok(()), "{origin}");
        }
        assert_eq!(ask(Method::POST, "/", &[host]), Ok(()));
    }
}
