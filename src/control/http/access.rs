//! Access control: checks a request's token and rights; on a node without tokens, refuses requests of foreign web pages.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::debug;

use super::{Api, console, docs, spans};
use crate::config::ControlRights;
use crate::control::problem::{self, Failure, Problem};
use crate::control::tokens::{Caller, TokenSet};
use crate::gateway::forwarded_client;
use crate::refused_clients::Suspicion;

/// The peer's address; `None` for a Unix socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) Option<SocketAddr>);

/// Middleware: adds the caller with its rights to the request as an extension, or answers the request with its problem.
pub(super) async fn admit(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let peer = request.extensions().get::<Peer>().copied().unwrap_or(Peer(None));
    let (name, response) = match caller(&api, &request, peer) {
        Ok(caller) => {
            let name = caller.name.clone();
            spans::record_route(request.extensions(), name.as_deref());
            request.extensions_mut().insert(caller);
            (name, next.run(request).await)
        }
        Err(failure) => {
            debug!(peer = ?peer.0, reason = failure.problem.name(), "control request refused");
            // Without a token nothing was guessed: the console asks so at first, to learn whether it needs one.
            if failure.problem == Problem::Unauthorized && request.headers().contains_key(AUTHORIZATION) {
                let client = client(&api, peer, request.headers());
                api.control.refused_clients.log(client, Suspicion::Guess, "control_token");
            }
            (None, failure.into_response())
        }
    };
    if let Some(problem) = response.extensions().get::<Problem>() {
        api.control.counts.note_problem(*problem);
    }
    let (token, status) = (name.as_deref(), response.status().as_u16());
    debug!(token, peer = ?peer.0, %method, path, status, elapsed = ?begun.elapsed(), "control request answered");
    response
}

/// Returns the client's address, for the log; a trusted proxy may state it. `None` for a Unix socket.
fn client(api: &Api, peer: Peer, headers: &HeaderMap) -> Option<IpAddr> {
    let settings = api.settings();
    forwarded_client(peer.0.map(Into::into), headers, &settings.admission).map(|client| client.address())
}

fn caller(api: &Api, request: &Request, peer: Peer) -> Result<Caller, Failure> {
    // Metrics and stats are answered until the end of the drain.
    let is_refused = |path: &str| path.starts_with("/v1/") && path != "/v1/stats";
    if api.control.draining.borrow().is_some() && is_refused(request.uri().path()) {
        return Err(problem::draining());
    }
    // The console's page and the documentation hold no data. The requests that the page makes for data are checked here.
    let path = request.uri().path();
    if ["/", console::PATH].contains(&path) || path.starts_with(docs::PATH) {
        return Ok(Caller { name: None, rights: ControlRights::default() });
    }
    let tokens = api.control.tokens.borrow();
    if tokens.is_empty() {
        check_page(request.uri(), request.headers(), peer)?;
        return Ok(Caller { name: None, rights: ControlRights::ALL });
    }
    bearer(&tokens, request.headers())
}

/// Finds the owner of the token in a request.
fn bearer(tokens: &TokenSet, headers: &HeaderMap) -> Result<Caller, Failure> {
    let mut sent = headers.get_all(AUTHORIZATION).iter();
    let (Some(only), None) = (sent.next(), sent.next()) else {
        return Err(Problem::Unauthorized.with_detail("expected the header Authorization: Bearer TOKEN, once"));
    };
    let token = only.to_str().ok().and_then(|value| value.split_once(' '));
    let token = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
    let caller = token.and_then(|token| tokens.caller(token));
    caller.cloned().ok_or_else(|| Problem::Unauthorized.with_detail("the token is nobody's, or is no Bearer token"))
}

/// Refuses a request that a web page may have sent from its visitor's browser, which can connect to this machine.
///
/// A browser adds the page's `Origin` to every request that changes something. With DNS rebinding, a page's own host name leads
/// to this machine, and stands in `Host`. So `Host` must be a name that nobody else can bind.
fn check_page(uri: &Uri, headers: &HeaderMap, peer: Peer) -> Result<(), Failure> {
    let hosts = || headers.get_all(HOST).iter().map(|host| host.to_str().unwrap_or_default());
    if let Some(foreign) = hosts().chain(uri.authority().map(Authority::as_str)).find(|host| !is_own_name(host)) {
        // A browser can't connect to a Unix socket, so its clients may send any `Host`.
        if peer.0.is_some() {
            let name: String = foreign.chars().take(100).collect();
            return Err(Problem::ForeignPage.with_detail(format!(
                "the host is {name:?}, expected an address or localhost, since there are no control_tokens"
            )));
        }
    }
    for origin in headers.get_all(ORIGIN) {
        let origin = origin.to_str().unwrap_or_default();
        let is_own = |host: &str| origin == format!("http://{host}") || origin == format!("https://{host}");
        if !hosts().any(is_own) {
            return Err(Problem::ForeignPage.with_detail(
                "the request has an Origin, so a web page sent it; that is not allowed while there are no control_tokens",
            ));
        }
    }
    Ok(())
}

/// Returns whether a host, with or without a port, is an address or `localhost`.
fn is_own_name(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host();
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    !host.contains('@') && (name.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok())
}

/// A right that a request can require of its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Right {
    Push,
    Query,
    Admin,
}

impl Caller {
    /// Refuses a caller without the right.
    pub(super) fn require(&self, right: Right) -> Result<(), Failure> {
        let (has, word) = match right {
            Right::Push => (self.rights.push, "push"),
            Right::Query => (self.rights.query, "query"),
            Right::Admin => (self.rights.admin, "admin"),
        };
        if has { Ok(()) } else { Err(Problem::Forbidden.with_detail(format!("the token needs the right {word}"))) }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[track_caller]
    fn check(host: Option<&str>, origin: Option<&str>, allowed: bool) {
        let mut headers = HeaderMap::new();
        for (name, value) in [(HOST, host), (ORIGIN, origin)] {
            value.map(|value| headers.insert(name, HeaderValue::from_str(value).expect("a header")));
        }
        let peer = Peer(Some(SocketAddr::from(([127, 0, 0, 1], 1))));
        let checked = check_page(&Uri::from_static("/v1/counts"), &headers, peer);
        assert_eq!(checked.is_ok(), allowed, "{host:?} {origin:?}");
    }

    #[test]
    fn names_that_nobody_else_can_bind_are_ours() {
        for host in ["127.0.0.1:1235", "127.0.0.1", "localhost:1235", "LOCALHOST", "[::1]:1235", "10.0.0.1:80"] {
            check(Some(host), None, true);
        }
        check(None, None, true);
        for host in
            ["example.com", "example.com:1235", "localhost.example.com", "127.0.0.1.example.com", "", "u@localhost"]
        {
            check(Some(host), None, false);
        }
        check(Some("a.localhost"), None, false);
    }

    #[test]
    fn pages_of_others_are_refused() {
        check(Some("127.0.0.1:1235"), Some("http://127.0.0.1:1235"), true);
        check(Some("localhost:1235"), Some("http://localhost:1235"), true);
        for origin in ["null", "", "http://127.0.0.1:8080", "http://localhost:1235", "https://example.com"] {
            check(Some("127.0.0.1:1235"), Some(origin), false);
        }
        check(None, Some("http://127.0.0.1:1235"), false);
    }
}
