//! The server's address as the user gives it.

use std::str::FromStr;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use tokio_tungstenite::tungstenite::http::Uri;

/// Where to connect to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// The address for the handshake, always with its scheme.
    pub(super) uri: Uri,
    /// Whether to speak TLS.
    pub(super) is_secure: bool,
    /// Name or address to resolve, without the brackets of an IPv6 address.
    pub(super) host: String,
    /// TCP port; 80 if none was given, or 443 with TLS.
    pub(super) port: u16,
    /// Whether the user gave the port.
    pub(super) has_port: bool,
}

impl Target {
    /// Returns a remark to follow an error of the connection, if the user may have forgotten the port.
    pub(super) fn remark(&self) -> String {
        if self.has_port {
            return String::new();
        }
        let (port, scheme) = (self.port, if self.is_secure { "wss" } else { "ws" });
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("; no port was given, and {scheme}:// means {port}; a pombo listens on 1234 by default: {host}:1234")
    }
}

/// Why a text is not an address to connect to.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TargetError {
    /// Another scheme than `ws` and `wss`.
    #[error("{0}:// is not supported, expected ws://host:port or wss://host:port")]
    Scheme(String),
    /// No address at all.
    #[error("{0:?} is not an address, expected ws://host:port")]
    Invalid(String),
    /// A part that RFC 6455, section 3, does not allow.
    #[error("{0:?} has a fragment, expected none; a # in a path or a query is written %23")]
    Fragment(String),
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let (scheme, rest) = match text.split_once("://") {
            None => ("ws", text),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("ws") => ("ws", rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("wss") => ("wss", rest),
            Some((scheme, _)) => return Err(TargetError::Scheme(scheme.to_owned())),
        };
        let invalid = || TargetError::Invalid(text.to_owned());
        let is_secure = scheme == "wss";
        if rest.contains('#') {
            return Err(TargetError::Fragment(text.to_owned()));
        }
        let (place, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let uri = format!("{scheme}://{place}{}", resource(path)).parse::<Uri>().map_err(|_| invalid())?;
        let authority = uri.authority().ok_or_else(invalid)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        // The parser drops a port that is not a number, or too large.
        let port_given = authority.as_str().len() > authority.host().len();
        let port = match authority.port_u16() {
            Some(port) => port,
            None if port_given => return Err(invalid()),
            None if is_secure => 443,
            None => 80,
        };
        // This protocol has no user names and passwords: they are refused rather than ignored.
        if host.is_empty() || authority.as_str().contains('@') {
            return Err(invalid());
        }
        Ok(Self { uri, is_secure, host, port, has_port: port_given })
    }
}

/// Every ASCII character that must be encoded in a path and a query (RFC 3986, sections 3.3 and 3.4); non-ASCII
/// characters are always encoded.
const ENCODED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// Makes a request's target of a path and a query, either of which may be absent.
///
/// Encoded characters stay as they are: a `%` is encoded only if no two hexadecimal digits follow it.
fn resource(path: &str) -> String {
    let mut resource = if path.starts_with('/') { String::new() } else { "/".to_owned() };
    for (place, part) in path.split('%').enumerate() {
        if place > 0 {
            let is_encoded = part.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
            resource.push_str(if is_encoded { "%" } else { "%25" });
        }
        resource.extend(utf8_percent_encode(part, ENCODED));
    }
    resource
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, uri: &str, host: &str, port: u16) {
        let target = text.parse::<Target>().expect(text);
        assert_eq!((target.uri.to_string().as_str(), target.host.as_str(), target.port), (uri, host, port));
        assert_eq!(target.is_secure, uri.starts_with("wss://"));
    }

    #[test]
    fn says_that_no_port_was_given() {
        let remark = |text: &str| text.parse::<Target>().expect(text).remark();
        assert_eq!(remark("localhost:80"), "");
        let default = "no port was given, and ws:// means 80; a pombo listens on 1234 by default";
        assert_eq!(remark("localhost/chat"), format!("; {default}: localhost:1234"));
        assert_eq!(remark("[::1]"), format!("; {default}: [::1]:1234"));
        assert!(remark("wss://localhost").contains("wss:// means 443"), "{}", remark("wss://localhost"));
    }

    #[test]
    fn accepts_addresses_with_and_without_scheme() {
        check("ws://127.0.0.1:1234", "ws://127.0.0.1:1234/", "127.0.0.1", 1234);
        check("localhost:1234", "ws://localhost:1234/", "localhost", 1234);
        check("localhost", "ws://localhost/", "localhost", 80);
        check("WS://example.org/chat?x=1", "ws://example.org/chat?x=1", "example.org", 80);
        check("wss://localhost:1", "wss://localhost:1/", "localhost", 1);
        check("WSS://example.org", "wss://example.org/", "example.org", 443);
        check("[::1]:1234/ws", "ws://[::1]:1234/ws", "::1", 1234);
        check("localhost:1?x=1", "ws://localhost:1/?x=1", "localhost", 1);
        check("localhost?a/b@c:d", "ws://localhost/?a/b@c:d", "localhost", 80);
        check("localhost/\u{e9} %41%4", "ws://localhost/%C3%A9%20%41%254", "localhost", 80);
    }

    #[test]
    fn refuses_what_it_cannot_reach() {
        let invalid = |text: &str| Err(TargetError::Invalid(text.to_owned()));
        assert_eq!("ftp://localhost".parse::<Target>(), Err(TargetError::Scheme("ftp".to_owned())));
        for text in ["localhost#", "localhost/a#b", "ws://localhost?a#b"] {
            assert_eq!(text.parse::<Target>(), Err(TargetError::Fragment(text.to_owned())), "{text}");
        }
        for text in ["", "ws://", ":1234", "local host:1", "localhost:http", "localhost:65536", "localhost:", "a@b:1"] {
            assert_eq!(text.parse::<Target>(), invalid(text), "{text}");
        }
    }
}
