//! The HTTP upgrade (RFC 6455, section 4.2), on hyper's HTTP/1 server; and what else is asked over HTTP.
//!
//! hyper parses and bounds the request. The header checks are ours: tungstenite's `create_response` reads
//! only the first `Connection` line and takes the first of two keys. A refusal is an HTTP status with a
//! line that says why.

use std::borrow::Cow;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::auth::{self, Authenticator, Denied, Facts, UidRules, Unidentified};
use super::page;
use super::refusal::{self, Refusal};
use super::{Accepted, Login};
use crate::config::{AuthSource, GatewaySettings};
use crate::protocol::plain;
use crate::shard::LoginNumbers;
use crate::uid::UidHasher;

/// Most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Most header lines of a request.
const HEADERS_MAX: usize = 64;

/// What an upgrade is judged by.
pub(super) struct Rules {
    pub(super) settings: Arc<GatewaySettings>,
    /// No place is left on the node.
    pub(super) is_full: bool,
    /// Set once the node drains, which may be while the request still comes.
    pub(super) drain_by: watch::Receiver<Option<Instant>>,
    pub(super) authenticator: Arc<Authenticator>,
    pub(super) hasher: UidHasher,
    pub(super) logins: LoginNumbers,
    /// `None` for a Unix socket.
    pub(super) peer: Option<SocketAddr>,
}

/// A connection that speaks WebSocket from now on.
pub(super) struct Upgraded<S> {
    pub(super) stream: S,
    /// Every byte received behind the request.
    pub(super) received: Vec<u8>,
    /// Who it is, if a credential came with the request.
    pub(super) login: Option<Login>,
    /// What may have to be known with a credential that is still to come.
    pub(super) facts: Facts,
}

/// Upgrades a connection, or answers it and ends it; one that has said nothing yet ends when `draining` does.
///
/// A credential that comes with the request is judged before it is answered.
///
/// # Errors
/// When the connection was answered otherwise, or lost.
pub(super) async fn upgrade<S: Accepted>(
    stream: S,
    rules: Rules,
    draining: impl Future,
) -> Result<Upgraded<S>, Refusal> {
    let (deadline, close_timeout) = (rules.settings.handshake_timeout, rules.settings.close_timeout);
    let until = Instant::now() + deadline;
    let has_begun = async {
        tokio::select! {
            biased;
            begun = stream.begun() => begun.map_err(Refusal::Lost),
            _ = draining => Err(Refusal::Draining),
        }
    };
    timeout_at(until, has_begun).await.map_err(|_| Refusal::HandshakeTimeout)??;
    // More than a service may take to answer is not given; less would end connections that it still lets in.
    let judging = rules.settings.auth.url_timeout + close_timeout;
    let (verdict, mut answered) = oneshot::channel();
    let was_read = Arc::new(AtomicBool::new(false));
    let answering =
        Answering { rules: Arc::new(rules), verdict: Mutex::new(Some(verdict)), was_read: was_read.clone() };
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(deadline)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), answering);
    // One deadline for all of it, however the bytes trickle; a request that was read in time is judged in its own. What
    // is no request hyper answers itself; the stream is taken back from it then, too, to be ended without RST.
    let mut done = poll_fn(|context| connection.poll_without_shutdown(context));
    let ended = match timeout_at(until, &mut done).await {
        Err(_) if was_read.load(Ordering::SeqCst) => timeout(judging, &mut done).await,
        ended => ended,
    };
    let ended = ended.map_err(|_| Refusal::HandshakeTimeout)?;
    let parts = connection.into_parts();
    let mut stream = parts.io.into_inner();
    if let Err(error) = ended {
        timeout(close_timeout, refusal::end(&mut stream)).await.ok();
        return Err(Refusal::NotHttp(error));
    }
    match answered.try_recv() {
        Ok(Ok(Admitted { login, facts })) => Ok(Upgraded { stream, received: parts.read_buf.into(), login, facts }),
        Ok(Err(refusal)) => {
            timeout(close_timeout, refusal::end(&mut stream)).await.ok();
            Err(refusal)
        }
        // hyper has answered itself.
        Err(_) => {
            timeout(close_timeout, refusal::end(&mut stream)).await.ok();
            Err(Refusal::Http(400))
        }
    }
}

/// What is known of a request that is upgraded.
struct Admitted {
    login: Option<Login>,
    facts: Facts,
}

/// Answers the one request of a connection, and tells how.
struct Answering {
    rules: Arc<Rules>,
    verdict: Mutex<Option<oneshot::Sender<Result<Admitted, Refusal>>>>,
    /// Whether the request is complete.
    was_read: Arc<AtomicBool>,
}

impl Service<Request<Incoming>> for Answering {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.was_read.store(true, Ordering::SeqCst);
        let (rules, (request, _)) = (Arc::clone(&self.rules), request.into_parts());
        let verdict = self.verdict.lock().unwrap_or_else(PoisonError::into_inner).take();
        Box::pin(async move {
            let (mut answer, told) = match answer(&request, &rules) {
                Ok(answer) if answer.status() == StatusCode::SWITCHING_PROTOCOLS => {
                    match authenticate(&request, &rules).await {
                        Ok(admitted) => (answer, Ok(admitted)),
                        Err(denied) => (Fault::denied(denied).into_response(), Err(Refusal::Denied(denied))),
                    }
                }
                answer => {
                    let answer = answer.unwrap_or_else(Fault::into_response);
                    let status = answer.status().as_u16();
                    (answer, Err(Refusal::Http(status)))
                }
            };
            if told.is_err() {
                // One request a connection. hyper's own switch for that would overwrite the upgrade's header.
                answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            if let Some(verdict) = verdict {
                // Fails if nobody waits any more.
                verdict.send(told).ok();
            }
            Ok(answer)
        })
    }
}

/// Finds out who sent a request that may be upgraded, if it says so.
async fn authenticate(request: &request::Parts, rules: &Rules) -> Result<Admitted, Denied> {
    let (settings, authenticator) = (&rules.settings.auth, &rules.authenticator);
    if authenticator.is_none() {
        return Ok(Admitted { login: None, facts: Facts::default() });
    }
    let facts = match authenticator.wants_facts() {
        true => Facts::of(request, rules.peer.map(|peer| peer.ip()), settings),
        false => Facts::default(),
    };
    let Some(credential) = auth::find(request, settings)? else {
        let may_follow = settings.takes_from(AuthSource::FirstFrame);
        return if may_follow { Ok(Admitted { login: None, facts }) } else { Err(Denied::Missing) };
    };
    let number = rules.logins.draw();
    let uid_rules = UidRules { bytes_max: rules.settings.uid_bytes_max, hasher: &rules.hasher };
    match authenticator.identify(&credential, &facts, settings, uid_rules).await {
        Ok(identity) => Ok(Admitted { login: Some(Login { identity, number }), facts: Facts::default() }),
        Err(Unidentified::Denied(denied)) => Err(denied),
        // Only where everybody is believed.
        Err(Unidentified::Uid(_)) => Err(Denied::Subject),
    }
}

/// Why a request is refused.
#[derive(Debug, PartialEq, Eq)]
struct Fault {
    status: StatusCode,
    /// What was wrong, and what was expected; constant, nothing of the request gets in.
    reason: Cow<'static, str>,
    header: Option<(HeaderName, &'static str)>,
}

impl Fault {
    const fn new(status: StatusCode, reason: &'static str) -> Self {
        Self { status, reason: Cow::Borrowed(reason), header: None }
    }

    fn denied(denied: Denied) -> Self {
        let fault = Self { status: denied.status(), reason: denied.to_string().into(), header: None };
        match (denied.challenge(), denied) {
            (Some(challenge), _) => fault.with(header::WWW_AUTHENTICATE, challenge),
            (None, Denied::Unavailable) => fault.with(header::RETRY_AFTER, "5"),
            (None, _) => fault,
        }
    }

    const fn bad(reason: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason)
    }

    fn with(mut self, name: HeaderName, value: &'static str) -> Self {
        self.header = Some((name, value));
        self
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::from(format!("{}\n", self.reason)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if let Some((name, value)) = self.header {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

fn answer(request: &request::Parts, rules: &Rules) -> Result<Response<Full<Bytes>>, Fault> {
    let headers = &request.headers;
    let length = headers.get(header::CONTENT_LENGTH);
    if headers.contains_key(header::TRANSFER_ENCODING) || length.is_some_and(|length| length != "0") {
        return Err(Fault::bad("request has a body, expected none"));
    }
    if !headers.contains_key(header::UPGRADE) && !headers.contains_key(header::SEC_WEBSOCKET_KEY) {
        return answer_plain(request, rules);
    }
    if !rules.settings.paths.allows(request.uri.path()) {
        return Err(Fault::new(StatusCode::NOT_FOUND, "this path is not upgraded, see the setting paths"));
    }
    let key = check_upgrade(request)?;
    if rules.drain_by.borrow().is_some() {
        let fault = Fault::new(StatusCode::SERVICE_UNAVAILABLE, "server is going away, connect again");
        return Err(fault.with(header::RETRY_AFTER, "1"));
    }
    if rules.is_full {
        let fault = Fault::new(StatusCode::SERVICE_UNAVAILABLE, "server is full, connect again later");
        return Err(fault.with(header::RETRY_AFTER, "5"));
    }
    let accept = HeaderValue::try_from(derive_accept_key(key)).expect("base64 is a header value");
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let offers_ours = auth::offered(headers).any(|offer| offer == plain::SUBPROTOCOL.as_bytes());
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if offers_ours {
        // A browser gives a connection up that chose none of what it offered.
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(plain::SUBPROTOCOL));
    }
    Ok(response)
}

/// Answers a request that doesn't ask for an upgrade: the page.
fn answer_plain(request: &request::Parts, rules: &Rules) -> Result<Response<Full<Bytes>>, Fault> {
    if request.method != Method::GET && request.method != Method::HEAD {
        let fault = Fault::new(StatusCode::METHOD_NOT_ALLOWED, "expected GET");
        return Err(fault.with(header::ALLOW, "GET, HEAD"));
    }
    if !rules.settings.page {
        let fault = Fault::new(StatusCode::UPGRADE_REQUIRED, "expected a WebSocket upgrade");
        return Err(fault.with(header::UPGRADE, "websocket"));
    }
    if request.uri.path() != "/" {
        return Err(Fault::new(StatusCode::NOT_FOUND, "there is a page at / only"));
    }
    let mut response = Response::new(Full::from(page::BODY));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(page::CONTENT_TYPE));
    for (name, value) in page::HEADERS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    Ok(response)
}

/// Checks what RFC 6455, section 4.2.1, asks of an opening handshake; returns its key.
fn check_upgrade(request: &request::Parts) -> Result<&[u8], Fault> {
    let headers = &request.headers;
    if request.method != Method::GET {
        let fault = Fault::new(StatusCode::METHOD_NOT_ALLOWED, "expected GET for a WebSocket upgrade");
        return Err(fault.with(header::ALLOW, "GET"));
    }
    if request.version != Version::HTTP_11 {
        return Err(Fault::bad("expected HTTP/1.1 for a WebSocket upgrade"));
    }
    if headers.get_all(header::HOST).iter().count() != 1 {
        return Err(Fault::bad("expected one Host header"));
    }
    if !has_token(headers, header::CONNECTION, "upgrade") {
        return Err(Fault::bad("expected Connection: Upgrade"));
    }
    if !has_token(headers, header::UPGRADE, "websocket") {
        return Err(Fault::bad("expected Upgrade: websocket"));
    }
    match only(headers, header::SEC_WEBSOCKET_VERSION) {
        Some(b"13") => {}
        Some(_) => {
            let fault = Fault::new(StatusCode::UPGRADE_REQUIRED, "expected Sec-WebSocket-Version: 13");
            return Err(fault.with(header::SEC_WEBSOCKET_VERSION, "13"));
        }
        None => return Err(Fault::bad("expected one Sec-WebSocket-Version header")),
    }
    match only(headers, header::SEC_WEBSOCKET_KEY) {
        Some(key) if is_key(key) => Ok(key),
        Some(_) => Err(Fault::bad("Sec-WebSocket-Key is malformed, expected 16 bytes in base64")),
        None => Err(Fault::bad("expected one Sec-WebSocket-Key header")),
    }
}

/// Returns the header's value if it stands there exactly once.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&[u8]> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.as_bytes().trim_ascii())
}

/// Whether any line of a comma-separated header holds `token`, in any case.
fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    let lines = headers.get_all(name).iter();
    lines
        .flat_map(|line| line.as_bytes().split(|&byte| byte == b','))
        .any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// Whether this is the base64 form of 16 bytes: 22 digits, of the last one only two bits, and the padding.
fn is_key(key: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    matches!(key, [digits @ .., last, b'=', b'='] if digits.len() == 21
        && digits.iter().all(is_digit)
        && matches!(last, b'A' | b'Q' | b'g' | b'w'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Paths};

    const GOOD: &[(&str, &str)] = &[
        ("host", "x"),
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn rules(config: &Config) -> Rules {
        let settings = Arc::new(config.gateway());
        Rules {
            is_full: false,
            drain_by: watch::channel(None).1,
            authenticator: Arc::new(Authenticator::new(&settings.auth).expect("it needs no keys")),
            hasher: UidHasher::fixed(1),
            logins: LoginNumbers::default(),
            peer: None,
            settings,
        }
    }

    fn request(headers: &[(&str, &str)]) -> request::Parts {
        let builder = Request::get("/").version(Version::HTTP_11);
        headers
            .iter()
            .fold(builder, |builder, (name, value)| builder.header(*name, *value))
            .body(())
            .expect("valid")
            .into_parts()
            .0
    }

    /// Replaces the header `name` of a good request by `values`.
    #[track_caller]
    fn check(name: &str, values: &[&str], status: u16) {
        let kept = GOOD.iter().copied().filter(|(other, _)| *other != name);
        let headers: Vec<_> = kept.chain(values.iter().map(|value| (name, *value))).collect();
        let answer = answer(&request(&headers), &rules(&Config::default())).unwrap_or_else(Fault::into_response);
        assert_eq!(answer.status().as_u16(), status, "{name}: {values:?}");
    }

    #[test]
    fn accepts_what_the_rfc_allows() {
        let answer = answer(&request(GOOD), &rules(&Config::default())).expect("it is the RFC's own example");
        assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(answer.headers()[header::SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        check("connection", &["keep-alive, Upgrade"], 101);
        check("connection", &["keep-alive", "upgrade"], 101);
        check("upgrade", &["WebSocket"], 101);
        check("upgrade", &["h2c, websocket"], 101);
        check("content-length", &["0"], 101);
    }

    #[test]
    fn refuses_what_is_missing_doubled_or_malformed() {
        check("host", &[], 400);
        check("host", &["x", "y"], 400);
        check("connection", &[], 400);
        check("connection", &["close"], 400);
        check("connection", &["upgraded"], 400);
        check("upgrade", &[], 400);
        check("upgrade", &["h2c"], 400);
        check("sec-websocket-version", &[], 400);
        check("sec-websocket-version", &["13", "13"], 400);
        check("sec-websocket-version", &["8"], 426);
        check("sec-websocket-version", &["13, 8"], 426);
        check("sec-websocket-key", &[], 400);
        check("sec-websocket-key", &["dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ=="], 400);
        check("sec-websocket-key", &["dGhlIHNhbXBsZSBub25jZQ"], 400);
        check("sec-websocket-key", &["dGhlIHNhbXBsZSBub25jZR=="], 400);
        check("sec-websocket-key", &["!Ghl HNhbXBsZSBub25jZQ=="], 400);
        check("sec-websocket-key", &[""], 400);
        check("content-length", &["5"], 400);
        check("transfer-encoding", &["chunked"], 400);
    }

    #[test]
    fn says_when_it_is_full_or_going_away_or_elsewhere() {
        let config = Config { paths: Paths::List(vec!["/ws".into()]), ..Config::default() };
        let status = |rules: &Rules| answer(&request(GOOD), rules).expect_err("refused").status.as_u16();
        assert_eq!(status(&rules(&config)), 404);
        assert_eq!(status(&Rules { is_full: true, ..rules(&Config::default()) }), 503);
        assert_eq!(
            status(&Rules { drain_by: watch::channel(Some(Instant::now())).1, ..rules(&Config::default()) }),
            503
        );
    }

    #[test]
    fn answers_an_ordinary_get_with_the_page() {
        let config = Config::default();
        let page = answer(&request(&[("host", "x")]), &rules(&config)).expect("a page");
        assert_eq!(page.headers()[header::CONTENT_TYPE], page::CONTENT_TYPE);
        assert!(page.headers().contains_key(header::CONTENT_SECURITY_POLICY));
        let config = Config { page: false, ..config };
        assert_eq!(answer(&request(&[]), &rules(&config)).expect_err("no page").status.as_u16(), 426);
    }
}
