//! Finds the credential in an upgrade request, and collects the facts of the request for an authentication service.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use hyper::Uri;
use hyper::header::{self, HeaderMap};
use serde::Serialize;

use crate::config::{AuthSettings, AuthSource};
use crate::gateway::Reason;

/// Prefix of an offered subprotocol that holds a token.
const SUBPROTOCOL_PREFIX: &str = "bearer.";

/// The query parameter that holds a token (RFC 6750, section 2.3).
const PARAMETER: &str = "access_token";

/// The facts of an upgrade request that an authentication service gets, with the credential or in place of one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct RequestFacts {
    /// The client's address, without its port; `None` for a Unix socket.
    pub(crate) address: Option<IpAddr>,
    pub(crate) path: String,
    /// The query without the credential.
    pub(crate) query: Option<String>,
    /// `None` if the request has no `Origin`, or one that is not UTF-8.
    pub(crate) origin: Option<String>,
    /// The headers in `auth_url_headers` and `auth_url_login_headers` that the request has, each with its lines unchanged;
    /// lines that are not UTF-8 are left out.
    pub(crate) headers: BTreeMap<String, Vec<String>>,
}

impl RequestFacts {
    /// Returns whether these facts log a client in without a credential: the request has one of the headers
    /// `auth_url_login_headers`.
    pub(super) fn can_log_in(&self, settings: &AuthSettings) -> bool {
        settings.url_login_headers.iter().any(|name| self.headers.contains_key(name))
    }

    /// Copies the facts from a request.
    pub(crate) fn of(headers: &HeaderMap, uri: &Uri, address: Option<IpAddr>, settings: &AuthSettings) -> Self {
        // JSON holds only text, and with bytes replaced the value would not be the one that the client has sent.
        let text = |value: &header::HeaderValue| str::from_utf8(value.as_bytes()).ok().map(str::to_owned);
        let query = uri.query().map(|query| {
            let others: Vec<&str> = query.split('&').filter(|pair| value_of(pair).is_none()).collect();
            others.join("&")
        });
        let names = settings.url_headers.iter().chain(&settings.url_login_headers);
        let lines = |name: &String| (name.clone(), headers.get_all(name).iter().filter_map(text).collect::<Vec<_>>());
        Self {
            address,
            path: uri.path().to_owned(),
            query,
            origin: headers.get(header::ORIGIN).and_then(text),
            headers: names.map(lines).filter(|(_, lines)| !lines.is_empty()).collect(),
        }
    }
}

/// Finds the credential of a request in the places that `auth_sources` allows; `None` if there is none.
///
/// An `Authorization` with another scheme than Bearer, as for a proxy, is ignored.
///
/// # Errors
/// When the request has several credentials.
pub(crate) fn find<'a>(
    headers: &'a HeaderMap,
    uri: &'a Uri,
    settings: &AuthSettings,
) -> Result<Option<Cow<'a, [u8]>>, Reason> {
    let mut found: Vec<Cow<'a, [u8]>> = Vec::new();
    if settings.takes_from(AuthSource::Header) {
        let lines = headers.get_all(header::AUTHORIZATION).iter();
        found.extend(lines.filter_map(|line| bearer(line.as_bytes())).map(Cow::Borrowed));
    }
    if settings.takes_from(AuthSource::Subprotocol) {
        let offers = offered(headers);
        found.extend(offers.filter_map(|offer| offer.strip_prefix(SUBPROTOCOL_PREFIX.as_bytes())).map(Cow::Borrowed));
    }
    if settings.takes_from(AuthSource::Query) {
        let pairs = uri.query().unwrap_or_default().split('&');
        found.extend(pairs.filter_map(value_of).map(decoded));
    }
    match found.len() {
        0 | 1 => Ok(found.pop()),
        _ => Err(Reason::CredentialsSeveral),
    }
}

/// Returns the challenge for a request that is refused. It names an error only if the request has a credential in one of
/// those places (RFC 6750, section 3): a cookie, which a service may refuse, is none.
pub(crate) fn challenge(headers: &HeaderMap, uri: &Uri, settings: &AuthSettings) -> &'static str {
    match find(headers, uri, settings) {
        Ok(None) => "Bearer",
        Ok(Some(_)) | Err(_) => "Bearer error=\"invalid_token\"",
    }
}

/// Returns each subprotocol that a request offers.
pub(crate) fn offered(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b',')).map(<[u8]>::trim_ascii)
}

/// Returns the token behind the scheme Bearer, which may be in any case (RFC 9110, section 11.1).
fn bearer(line: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = line.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

fn value_of(pair: &str) -> Option<&str> {
    pair.strip_prefix(PARAMETER)?.strip_prefix('=')
}

/// Decodes percent-encoding; a `%` without two hex digits stays as it is.
fn decoded(text: &str) -> Cow<'_, [u8]> {
    if !text.contains('%') {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        let digit = |at: usize| behind.get(at).and_then(|&byte| char::from(byte).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &behind[2..];
            }
            _ => {
                bytes.push(first);
                rest = behind;
            }
        }
    }
    Cow::Owned(bytes)
}

#[cfg(test)]
mod tests {
    use hyper::Request;
    use hyper::http::request::Parts;

    use super::*;
    use crate::config::Config;

    fn request(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let builder = headers.iter().fold(Request::get(uri), |builder, (name, value)| builder.header(*name, *value));
        builder.body(()).expect("a request").into_parts().0
    }

    fn settings(sources: &[AuthSource]) -> AuthSettings {
        Config { auth_sources: sources.to_vec(), ..Config::default() }.gateway().auth
    }

    #[track_caller]
    fn check(uri: &str, headers: &[(&str, &str)], sources: &[AuthSource], expected: Result<Option<&str>, Reason>) {
        let request = request(uri, headers);
        let found = find(&request.headers, &request.uri, &settings(sources));
        let found = found.map(|found| found.map(|found| String::from_utf8_lossy(&found).into_owned()));
        assert_eq!(found, expected.map(|token| token.map(str::to_owned)), "{uri} {headers:?} {sources:?}");
    }

    const ALL: &[AuthSource] =
        &[AuthSource::FirstFrame, AuthSource::Header, AuthSource::Subprotocol, AuthSource::Query];

    #[test]
    fn finds_a_credential_where_it_may_stand() {
        check("/", &[], ALL, Ok(None));
        check("/", &[("authorization", "Bearer t")], ALL, Ok(Some("t")));
        check("/", &[("authorization", "bEARER  t ")], ALL, Ok(Some("t")));
        check("/", &[("authorization", "Basic dTpw")], ALL, Ok(None));
        check("/", &[("authorization", "Bearer")], ALL, Ok(None));
        check("/", &[("sec-websocket-protocol", "pombo.plain, bearer.t")], ALL, Ok(Some("t")));
        check("/", &[("sec-websocket-protocol", "bearer.t"), ("sec-websocket-protocol", "x")], ALL, Ok(Some("t")));
        check("/", &[("sec-websocket-protocol", "Bearer.t")], ALL, Ok(None));
        check("/?access_token=t", &[], ALL, Ok(Some("t")));
        check("/?a=b&access_token=a%2eb%2Fc%&x", &[], ALL, Ok(Some("a.b/c%")));
        check("/?access_tokens=t&xaccess_token=t", &[], ALL, Ok(None));
    }

    #[test]
    fn leaves_out_the_places_that_are_switched_off() {
        let all = [("authorization", "Bearer h"), ("sec-websocket-protocol", "bearer.s")];
        let uri = "/?access_token=q";
        check(uri, &all, &[AuthSource::FirstFrame], Ok(None));
        check(uri, &all, &[AuthSource::Header], Ok(Some("h")));
        check(uri, &all, &[AuthSource::Subprotocol], Ok(Some("s")));
        check(uri, &all, &[AuthSource::Query], Ok(Some("q")));
    }

    #[test]
    fn refuses_several() {
        check("/?access_token=q", &[("authorization", "Bearer h")], ALL, Err(Reason::CredentialsSeveral));
        check(
            "/",
            &[("authorization", "Bearer h"), ("authorization", "Bearer i")],
            ALL,
            Err(Reason::CredentialsSeveral),
        );
        check("/", &[("sec-websocket-protocol", "bearer.a,bearer.a")], ALL, Err(Reason::CredentialsSeveral));
        check("/?access_token=q&access_token=q", &[], ALL, Err(Reason::CredentialsSeveral));
    }

    #[test]
    fn tells_the_facts_without_the_credential() {
        let headers = [("origin", "https://o"), ("cookie", "a=1"), ("cookie", "b=2"), ("authorization", "Bearer h")];
        let request = request("/ws?a=b&access_token=secret&c", &headers);
        let address = "::1".parse().ok();
        let facts = RequestFacts::of(&request.headers, &request.uri, address, &settings(ALL));
        assert_eq!(
            facts,
            RequestFacts {
                address,
                path: "/ws".to_owned(),
                query: Some("a=b&c".to_owned()),
                origin: Some("https://o".to_owned()),
                headers: [("cookie".to_owned(), ["a=1", "b=2"].map(str::to_owned).into())].into(),
            }
        );
    }
}
