//! The HTTP upgrade (RFC 6455, section 4.2), and the answers to requests without one.
//!
//! ```text
//!   first byte ─▶ request ─▶ decide: headers, origin, admission ─▶ wait for the rate ─▶ credential ─▶ 101 ─▶ login
//!                                │                                                         │
//!                                └────────────────▶ the page, or a refusal ◀───────────────┘
//! ```
//! [`Exchange`] has hyper parse and bound the request. The header checks are ours: tungstenite's `create_response` reads
//! only the first `Connection` line and takes the first of two keys. A refusal is an HTTP status with one line of text that
//! states the reason.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode, Version};
use tokio::sync::watch;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::admission::{self, AdmissionControl, Denied};
use super::auth::{self, Authentication, LoginService};
use super::exchange::{Exchange, Response};
use super::page;
use super::proxy;
use super::refusal::{self, Reason, Refusal, RefusalAnswer};
use super::refused_origins::RefusedOrigins;
use super::{AcceptedStream, Client};
use crate::config::{GatewaySettings, Origins};
use crate::host;
use crate::peer::Peer;
use crate::protocol::Protocol;

/// `Retry-After` when the authentication service is unavailable.
const UNAVAILABLE_RETRY: Duration = Duration::from_secs(5);

/// Everything that the decision on an upgrade depends on, except for the request and the client.
pub(super) struct UpgradeContext {
    pub(super) settings: Arc<GatewaySettings>,
    /// When the request must be answered, except for the time that the authentication service takes.
    pub(super) deadline: Instant,
    pub(super) admission_control: Arc<AdmissionControl>,
    /// End of the drain; set when a drain begins, perhaps while the request is being received.
    pub(super) drain_by: watch::Receiver<Option<Instant>>,
    /// Checks the credential of a request.
    pub(super) login_service: LoginService,
    /// Logs refused origins.
    pub(super) refused_origins: Arc<RefusedOrigins>,
}

/// An upgraded connection.
#[derive(Debug)]
pub(super) struct Upgraded<S> {
    pub(super) stream: S,
    /// Every byte that was received after the request.
    pub(super) received: Vec<u8>,
    /// The protocol that the session will speak.
    pub(super) protocol: Protocol,
    /// The login, if the request held a credential.
    pub(super) authentication: Authentication,
}

/// Upgrades a connection, or gives it another answer and ends it. A connection that has sent nothing by the time `draining`
/// completes is ended.
///
/// A credential in the request is checked before the answer. Updates `client`: its address from the headers of a trusted
/// proxy, and its permit, which admission counts for that address.
///
/// # Errors
/// When the connection got another answer, or is lost.
pub(super) async fn upgrade<S: AcceptedStream>(
    stream: S,
    context: &UpgradeContext,
    client: &mut Client,
    draining: impl Future,
) -> Result<Upgraded<S>, Refusal> {
    let first_input = async {
        tokio::select! {
            biased;
            arrived = stream.input_arrived() => arrived.map_err(Refusal::Lost),
            _ = draining => Err(Refusal::Http(Reason::Draining)),
        }
    };
    timeout_at(context.deadline, first_input).await.map_err(too_late)??;
    let mut exchange = Exchange::new(stream);
    let outcome = answer_request(&mut exchange, context, client).await;
    let is_answered = exchange.is_answered();
    // The stream is taken back from hyper however it ended, to be ended without RST.
    let (mut stream, received) = exchange.into_stream();
    let refusal = match outcome {
        Ok((protocol, authentication)) => return Ok(Upgraded { stream, received, protocol, authentication }),
        Err(refusal) => refusal,
    };
    let end = async {
        match refusal.reason() {
            // hyper had no request to answer, and the stream has discarded whatever it wrote.
            Some(reason) if !is_answered => refusal::answer_over_http(&mut stream, reason).await,
            _ => refusal::end_stream(&mut stream).await,
        }
    };
    timeout(context.settings.close_timeout, end).await.ok();
    Err(refusal)
}

/// Receives a connection's request, decides on it, and sends the answer; returns the protocol of an upgrade, and the state of
/// its authentication.
async fn answer_request<S: AcceptedStream>(
    exchange: &mut Exchange<S>,
    context: &UpgradeContext,
    client: &mut Client,
) -> Result<(Protocol, Authentication), Refusal> {
    let request = timeout_at(context.deadline, exchange.request()).await.map_err(too_late)??;
    let answer = match decide(&request, context, client) {
        Ok(Answer::Upgrade { response, protocol, not_before }) => {
            // Neither wait needs the deadline: `not_before` precedes it, and the authentication service has its own time-out.
            let authenticated = exchange.wait_unless_left(async {
                if let Some(not_before) = not_before {
                    sleep_until(not_before).await;
                }
                let address = client.peer.map(Peer::address);
                context
                    .login_service
                    .authenticate_request(request.headers(), request.uri(), address, &context.settings)
                    .await
            });
            authenticated.await?.map(|authentication| (response, Some((protocol, authentication)))).map_err(|reason| {
                let challenge = auth::challenge(request.headers(), request.uri(), &context.settings.auth);
                Fault::denied(reason, challenge)
            })
        }
        Ok(Answer::Page(response)) => Ok((response, None)),
        Err(fault) => Err(fault),
    };
    let deadline = context.deadline.max(Instant::now() + context.settings.close_timeout);
    match answer {
        Ok((response, authentication)) => {
            timeout_at(deadline, exchange.respond(response)).await.map_err(too_late)??;
            authentication.ok_or(Refusal::Answered)
        }
        Err(fault) => {
            let reason = fault.reason;
            let sent = timeout_at(deadline, exchange.respond(fault.into_response())).await.map_err(too_late)?;
            // Whether hyper reports an incomplete request body depends on how its bytes arrived. The request is refused
            // either way.
            sent.ok();
            Err(Refusal::Http(reason))
        }
    }
}

/// The refusal of a connection whose time for the handshake is over.
fn too_late(_: Elapsed) -> Refusal {
    Refusal::Http(Reason::HandshakeTimeout)
}

/// The answer to a request that is not refused.
enum Answer {
    Upgrade {
        response: Response,
        protocol: Protocol,
        /// When the login may proceed by the node's rate; `None` for at once.
        not_before: Option<Instant>,
    },
    Page(Response),
}

/// Why a request is refused, and a header of the answer that belongs to the reason.
#[derive(Debug, PartialEq, Eq)]
struct Fault {
    reason: Reason,
    header: Option<(HeaderName, HeaderValue)>,
}

impl From<Reason> for Fault {
    fn from(reason: Reason) -> Self {
        Self { reason, header: None }
    }
}

impl Fault {
    fn with(reason: Reason, name: HeaderName, value: &'static str) -> Self {
        Self { reason, header: Some((name, HeaderValue::from_static(value))) }
    }

    /// Refuses with a `Retry-After`, rounded up to whole seconds.
    fn later(reason: Reason, retry_after: Duration) -> Self {
        let seconds = retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0);
        Self { reason, header: Some((header::RETRY_AFTER, seconds.max(1).into())) }
    }

    /// Refuses a login, with the challenge that RFC 6750, section 3, asks for.
    fn denied(reason: Reason, challenge: &'static str) -> Self {
        let fault = Self::from(reason);
        match fault.status() {
            StatusCode::UNAUTHORIZED => Self::with(reason, header::WWW_AUTHENTICATE, challenge),
            StatusCode::SERVICE_UNAVAILABLE => Self::later(reason, UNAVAILABLE_RETRY),
            _ => fault,
        }
    }

    fn status(&self) -> StatusCode {
        let (RefusalAnswer::Http(status) | RefusalAnswer::Credential(status, _)) = self.reason.answer() else {
            unreachable!("{:?} is no answer to a request", self.reason);
        };
        StatusCode::from_u16(status).expect("the table has HTTP's statuses only")
    }

    fn into_response(self) -> Response {
        let mut response = Response::new(Full::from(format!("{}\n", self.reason.text())));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if let Some((name, value)) = self.header {
            headers.insert(name, value);
        }
        response
    }
}

/// Decides on a request by its head, except for its credential.
fn decide(request: &Request<()>, context: &UpgradeContext, client: &mut Client) -> Result<Answer, Fault> {
    let headers = request.headers();
    // First, so that logs and refusals name the client's address.
    client.peer = proxy::forwarded_client(client.peer, headers, &context.settings.admission);
    if !host::is_named(request.version(), headers) {
        return Err(Reason::HostHeader.into());
    }
    let length = headers.get(header::CONTENT_LENGTH);
    if headers.contains_key(header::TRANSFER_ENCODING) || length.is_some_and(|length| length != "0") {
        return Err(Reason::Body.into());
    }
    // A server may ignore an `Upgrade` to another protocol, such as h2c (RFC 9110, section 7.8).
    if !has_token(headers, header::UPGRADE, "websocket") && !headers.contains_key(header::SEC_WEBSOCKET_KEY) {
        return answer_plain(request, context).map(Answer::Page);
    }
    if !context.settings.paths.allows(request.uri().path()) {
        return Err(Reason::Path.into());
    }
    let key = check_upgrade(request)?;
    check_origin(headers, &context.settings.admission.origins).inspect_err(|reason| {
        if let (Reason::Origin, Some(origin)) = (reason, headers.get(header::ORIGIN)) {
            context.refused_origins.log(origin.as_bytes(), client.peer);
        }
    })?;
    let not_before = admit(context, client)?;
    let accept = HeaderValue::try_from(derive_accept_key(key)).expect("base64 is a header value");
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let path = request.uri().path();
    let protocol = Protocol::choose(path, auth::offered(headers), context.settings.protocol);
    // A browser fails the connection if the page offered subprotocols and the server selects none of them.
    let subprotocol = protocol.subprotocol().filter(|name| auth::offered(headers).any(|it| it == name.as_bytes()));
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(subprotocol) = subprotocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
    }
    Ok(Answer::Upgrade { response, protocol, not_before })
}

/// Checks the origin of the page that connects. A client without `Origin` is no browser, and passes.
fn check_origin(headers: &HeaderMap, origins: &Origins) -> Result<(), Reason> {
    if !headers.contains_key(header::ORIGIN) {
        return Ok(());
    }
    let origin = only(headers, header::ORIGIN).ok_or(Reason::OriginHeader)?;
    let is_allowed = *origins == Origins::Any || std::str::from_utf8(origin).is_ok_and(|origin| origins.allow(origin));
    if is_allowed { Ok(()) } else { Err(Reason::Origin) }
}

/// Admits an upgrade whose request is valid; returns when the login may proceed, `None` for at once.
fn admit(context: &UpgradeContext, client: &mut Client) -> Result<Option<Instant>, Fault> {
    if context.drain_by.borrow().is_some() {
        return Err(Fault::later(Reason::Draining, Duration::from_secs(1)));
    }
    let Some(permit) = &mut client.permit else { return Err(Fault::later(Reason::Full, admission::FULL_RETRY)) };
    let (settings, now) = (&context.settings, Instant::now());
    let later = |denied: Denied| Fault::later(denied.reason, denied.retry_after);
    context
        .admission_control
        .admit_login(client.peer.map(Peer::address), permit, &settings.admission, now)
        .map_err(later)?;
    let latest = context.deadline - settings.handshake_timeout / 2;
    let not_before = context.admission_control.login_time(&settings.admission, now, latest).map_err(later)?;
    Ok((not_before > now).then_some(not_before))
}

/// Answers a request without an upgrade with the page.
fn answer_plain(request: &Request<()>, context: &UpgradeContext) -> Result<Response, Fault> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Err(Fault::with(Reason::PageMethod, header::ALLOW, "GET, HEAD"));
    }
    if !context.settings.page {
        return Err(Fault::with(Reason::PageOff, header::UPGRADE, "websocket"));
    }
    if request.uri().path() != "/" {
        return Err(Reason::PagePath.into());
    }
    let mut response = Response::new(Full::from(page::body(&context.settings.auth, &context.settings.paths)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(page::CONTENT_TYPE));
    for (name, value) in page::HEADERS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    Ok(response)
}

/// Checks what RFC 6455, section 4.2.1, asks of an opening handshake; returns its key.
fn check_upgrade(request: &Request<()>) -> Result<&[u8], Fault> {
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err(Fault::with(Reason::Method, header::ALLOW, "GET"));
    }
    if request.version() != Version::HTTP_11 {
        return Err(Reason::HttpVersion.into());
    }
    if !has_token(headers, header::CONNECTION, "upgrade") {
        return Err(Reason::ConnectionHeader.into());
    }
    if !has_token(headers, header::UPGRADE, "websocket") {
        return Err(Reason::UpgradeHeader.into());
    }
    match only(headers, header::SEC_WEBSOCKET_VERSION) {
        Some(b"13") => {}
        Some(_) => return Err(Fault::with(Reason::Version, header::SEC_WEBSOCKET_VERSION, "13")),
        None => return Err(Reason::VersionHeader.into()),
    }
    match only(headers, header::SEC_WEBSOCKET_KEY) {
        Some(key) if is_key(key) => Ok(key),
        Some(_) => Err(Reason::KeyMalformed.into()),
        None => Err(Reason::KeyHeader.into()),
    }
}

/// Returns the value of a header that occurs exactly once.
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

/// Whether a key is a base64 form of 16 bytes: 22 digits, and the padding.
///
/// The last digit has four unused bits, which should be 0. An example in RFC 6455 itself (section 4.1) has others. The key is
/// never decoded, so any are allowed.
fn is_key(key: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    matches!(key, [digits @ .., b'=', b'='] if digits.len() == 22 && digits.iter().all(is_digit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Paths};
    use crate::shard::Admission;

    const GOOD: &[(&str, &str)] = &[
        ("host", "x"),
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn context(config: &Config) -> UpgradeContext {
        UpgradeContext {
            settings: Arc::new(config.gateway()),
            deadline: Instant::now() + config.handshake_timeout,
            admission_control: Arc::new(AdmissionControl::new(Admission::default())),
            drain_by: watch::channel(None).1,
            login_service: LoginService::unauthenticated(),
            refused_origins: Arc::default(),
        }
    }

    fn ask(headers: &[(&str, &str)], context: &UpgradeContext) -> Result<Response, Fault> {
        let mut client = Client { permit: context.admission_control.admit(1), ..Client::default() };
        decide(&request(headers), context, &mut client).map(|answer| match answer {
            Answer::Upgrade { response, .. } | Answer::Page(response) => response,
        })
    }

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        let builder = Request::get("/").version(Version::HTTP_11);
        headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value)).body(()).expect("valid")
    }

    /// Replaces the header `name` of a good request by `values`.
    #[track_caller]
    fn check(name: &str, values: &[&str], status: u16) {
        let kept = GOOD.iter().copied().filter(|(other, _)| *other != name);
        let headers: Vec<_> = kept.chain(values.iter().map(|value| (name, *value))).collect();
        let answer = ask(&headers, &context(&Config::default())).unwrap_or_else(Fault::into_response);
        assert_eq!(answer.status().as_u16(), status, "{name}: {values:?}");
    }

    #[test]
    fn accepts_what_the_rfc_allows() {
        let answer = ask(GOOD, &context(&Config::default())).expect("it is the RFC's own example");
        assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(answer.headers()[header::SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        check("connection", &["keep-alive, Upgrade"], 101);
        check("connection", &["keep-alive", "upgrade"], 101);
        check("upgrade", &["WebSocket"], 101);
        check("upgrade", &["h2c, websocket"], 101);
        check("content-length", &["0"], 101);
        check("sec-websocket-key", &["AQIDBAUGBwgJCgsMDQ4PEC=="], 101);
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
        check("sec-websocket-key", &["dGhlIHNhbXBsZSBub25jZR==="], 400);
        check("sec-websocket-key", &["!Ghl HNhbXBsZSBub25jZQ=="], 400);
        check("sec-websocket-key", &[""], 400);
        check("content-length", &["5"], 400);
        check("transfer-encoding", &["chunked"], 400);
    }

    #[test]
    fn says_when_it_is_full_or_going_away_or_elsewhere() {
        let config = Config { paths: Paths::List(vec!["/ws".into()]), ..Config::default() };
        let status = |context: &UpgradeContext| ask(GOOD, context).expect_err("refused").status().as_u16();
        assert_eq!(status(&context(&config)), 404);
        let full = context(&Config::default());
        let _only = full.admission_control.admit(1);
        assert_eq!(status(&full), 503);
        assert_eq!(
            status(&UpgradeContext { drain_by: watch::channel(Some(Instant::now())).1, ..context(&Config::default()) }),
            503
        );
    }

    #[test]
    fn answers_an_ordinary_get_with_the_page() {
        let config = Config::default();
        let page = ask(&[("host", "x")], &context(&config)).expect("a page");
        assert_eq!(page.headers()[header::CONTENT_TYPE], page::CONTENT_TYPE);
        assert!(page.headers().contains_key(header::CONTENT_SECURITY_POLICY));
        let config = Config { page: false, ..config };
        assert_eq!(ask(&[("host", "x")], &context(&config)).expect_err("no page").status().as_u16(), 426);
    }
}
