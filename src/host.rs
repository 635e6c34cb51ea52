//! Checks a request's `Host` header, as RFC 9112, section 3.2, demands.
//!
//! The gateway and control both refuse a request without a valid one. Nothing here compares it with the node's own name.

use hyper::Version;
use hyper::header::{HOST, HeaderMap};
use hyper::http::uri::Authority;

/// Returns whether a request has exactly one `Host`, which is valid; HTTP/1.0 may leave the header out.
pub(crate) fn is_named(version: Version, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(only), None) => is_host(only.as_bytes()),
        (None, _) => version == Version::HTTP_10,
        (Some(_), Some(_)) => false,
    }
}

/// Returns whether `text` is a host, with or without a port. An empty `Host` is valid: clients send it if the target has no
/// host.
fn is_host(text: &[u8]) -> bool {
    let Ok(authority) = Authority::try_from(text) else { return text.is_empty() };
    let behind = authority.as_str().strip_prefix(authority.host());
    behind.is_some_and(|behind| {
        behind.is_empty() || behind.strip_prefix(':').is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[track_caller]
    fn check(version: Version, hosts: &[&[u8]], expected: bool) {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, HeaderValue::from_bytes(host).expect("a header's value"));
        }
        assert_eq!(is_named(version, &headers), expected, "{version:?} {hosts:?}");
    }

    #[test]
    fn one_host_is_named() {
        for host in ["", "x", "x:80", "x:", "example.org", "127.0.0.1:80", "[::1]", "[::1]:80", "my_service", "a-b.c"] {
            check(Version::HTTP_11, &[host.as_bytes()], true);
            check(Version::HTTP_10, &[host.as_bytes()], true);
        }
        check(Version::HTTP_10, &[], true);
    }

    #[test]
    fn none_or_two_or_something_else_is_refused() {
        check(Version::HTTP_11, &[], false);
        check(Version::HTTP_11, &[b"x", b"x"], false);
        check(Version::HTTP_10, &[b"x", b"y"], false);
        for host in
            [&b"u@x"[..], b"u:p@x:80", b"a b", b"x, y", b"a/b", b"x:y", b"x:80:80", b"[::1", b"::1", b"\xff", b"@"]
        {
            check(Version::HTTP_11, &[host], false);
        }
    }
}
