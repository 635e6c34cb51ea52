//! Why a connection did not become a session: one table of reasons, with the answer and the count of each.
//!
//! A refused connection gets an answer and ends without RST: before the upgrade an HTTP status and a line of text, after it
//! a close code and a reason. Everything that ends a connection here is a [`Refusal`]. It has one [`Reason`], which is
//! counted once. The gateway's threads share the counters; the path of a message doesn't touch them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use super::auth::IdentifyError;
use crate::frame::{self, Opcode, Violation, close};
use crate::linger::linger;
use crate::protocol::Protocol;
use crate::refused_clients::Suspicion;
use crate::uid::UidError;

/// Most bytes that are read and discarded until a refused peer ends its sending.
const DISCARD_BYTES_MAX: usize = 4 << 20;

/// How a refused peer is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefusalAnswer {
    /// Over HTTP, by this status.
    Http(u16),
    /// By a close frame with this code; see [`close::ALL`].
    Close(u16),
    /// Over HTTP by this status if the credential came with the upgrade; else by an error message of the protocol and a
    /// close frame with this code.
    Credential(u16, u16),
    /// Not at all: the peer has gone, or TLS has sent an alert.
    None,
}

/// Makes the enum and its table of one row each: `Variant, "name", answer, "text";` with the variant's docs.
macro_rules! reasons {
    ($($(#[$docs:meta])* $reason:ident, $name:literal, $answer:expr, $text:literal;)*) => {
        /// Why a connection was refused before it was a session; each refusal has exactly one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[$docs])* $reason,)*
        }

        impl Reason {
            /// Every reason, in the order of the tables in `docs/protocol.md`.
            pub const ALL: &[Self] = &[$(Self::$reason),*];

            /// Returns its stable name, a label of the metric.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$reason => $name,)* }
            }

            /// Returns how the peer is answered.
            pub const fn answer(self) -> RefusalAnswer {
                match self { $(Self::$reason => $answer,)* }
            }

            /// Returns the text for the peer: what was wrong, and what was expected. After the upgrade the close reason may
            /// say more. No text quotes the request.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$reason => $text,)* }
            }
        }
    };
}

reasons! {
    /// The bytes are no HTTP request.
    NotHttp, "not_http", RefusalAnswer::Http(400), "request is not HTTP";
    /// The request's head has too many bytes or lines.
    HeadTooLarge, "head_too_large", RefusalAnswer::Http(431), "request head has over 16 KiB or 64 lines";
    /// The request was not complete by the end of the handshake's time.
    HandshakeTimeout, "handshake_timeout", RefusalAnswer::Http(408), "request not finished in time";
    /// The client speaks HTTP without TLS on a port with TLS.
    PlainHttp, "plain_http", RefusalAnswer::Http(400), "this port speaks TLS, expected https:// or wss://";
    /// A trusted proxy sent no PROXY header, or a malformed one.
    ProxyHeader, "proxy_header", RefusalAnswer::Http(400), "expected a PROXY protocol header, version 1 or 2";
    /// The request has a body, or a header that announces one.
    Body, "body", RefusalAnswer::Http(400), "request has a body, expected none";
    /// `Connection` is missing, or something else.
    ConnectionHeader, "connection_header", RefusalAnswer::Http(400), "expected Connection: Upgrade";
    /// `Upgrade` is missing, or something else.
    UpgradeHeader, "upgrade_header", RefusalAnswer::Http(400), "expected Upgrade: websocket";
    /// `Sec-WebSocket-Key` is missing or doubled.
    KeyHeader, "key_header", RefusalAnswer::Http(400), "expected one Sec-WebSocket-Key header";
    /// `Sec-WebSocket-Key` is malformed.
    KeyMalformed, "key_malformed", RefusalAnswer::Http(400), "Sec-WebSocket-Key is malformed, expected 16 bytes in base64";
    /// `Sec-WebSocket-Version` is missing or doubled.
    VersionHeader, "version_header", RefusalAnswer::Http(400), "expected one Sec-WebSocket-Version header";
    /// `Sec-WebSocket-Version` is not 13.
    Version, "version", RefusalAnswer::Http(426), "expected Sec-WebSocket-Version: 13";
    /// `Host` is missing, doubled, or no host.
    HostHeader, "host_header", RefusalAnswer::Http(400), "expected one Host header, with a host and perhaps a port";
    /// The request is HTTP/1.0.
    HttpVersion, "http_version", RefusalAnswer::Http(400), "expected HTTP/1.1 for a WebSocket upgrade";
    /// The method is not GET, and an upgrade is asked for.
    Method, "method", RefusalAnswer::Http(405), "expected GET for a WebSocket upgrade";
    /// The path is not on the list.
    Path, "path", RefusalAnswer::Http(404), "this path is not upgraded, see the setting paths";
    /// `Origin` is doubled.
    OriginHeader, "origin_header", RefusalAnswer::Http(400), "expected at most one Origin header";
    /// The page's origin is not one of those that may connect.
    Origin, "origin", RefusalAnswer::Http(403), "pages of this origin may not connect, see the setting origins";
    /// The method is not GET or HEAD, and no upgrade is asked for.
    PageMethod, "page_method", RefusalAnswer::Http(405), "expected GET";
    /// A GET without an upgrade for another path than the page's.
    PagePath, "page_path", RefusalAnswer::Http(404), "there is a page at / only";
    /// The page is switched off.
    PageOff, "page_off", RefusalAnswer::Http(426), "expected a WebSocket upgrade";
    /// The node has `connections_max` connections.
    Full, "full", RefusalAnswer::Http(503), "server is full, connect again later";
    /// The address has `address_sessions_max` connections.
    AddressFull, "address_full", RefusalAnswer::Http(429), "too many sessions from this address";
    /// The address exceeds `address_logins_per_minute`.
    AddressRate, "address_rate", RefusalAnswer::Http(429), "too many logins from this address, connect again later";
    /// The node exceeds `logins_per_second`, and as many logins wait as can proceed in time.
    Busy, "busy", RefusalAnswer::Http(503), "server is busy, connect again later";
    /// The node drains before the connection is upgraded.
    Draining, "draining", RefusalAnswer::Http(503), "server is going away, connect again";
    /// The node drains before the connection has logged in.
    DrainingLogin, "draining_login", RefusalAnswer::Close(close::GOING_AWAY), "server is going away";
    /// A frame before the login breaks the protocol.
    LoginProtocol, "login_protocol", RefusalAnswer::Close(close::PROTOCOL_ERROR), "websocket protocol broken";
    /// The login is text that is not UTF-8.
    LoginNotUtf8, "login_not_utf8", RefusalAnswer::Close(close::NOT_UTF8), "text message is not valid utf-8";
    /// The login message is too long.
    LoginTooBig, "login_too_big", RefusalAnswer::Close(close::TOO_BIG), "message too large";
    /// The uid is not valid.
    Uid, "uid", RefusalAnswer::Close(close::POLICY), "uid can't be taken";
    /// No first message came within `login_timeout`.
    LoginTimeout, "login_timeout", RefusalAnswer::Close(close::POLICY), "no login in time";
    /// The request has no credential, and the settings don't allow one in the first message.
    CredentialMissing, "credential_missing", RefusalAnswer::Credential(401, close::UNAUTHORIZED),
        "no credential, expected one where the setting auth_sources says";
    /// The request has several credentials, which may contradict each other.
    CredentialsSeveral, "credentials_several", RefusalAnswer::Credential(400, close::UNAUTHORIZED),
        "several credentials, expected one";
    /// The token is no compact JWS with an algorithm that can be checked.
    TokenMalformed, "token_malformed", RefusalAnswer::Credential(401, close::UNAUTHORIZED),
        "token is malformed, expected a signed JWT";
    /// The token has a `crit` header, which demands an extension. No extension is supported.
    TokenCritical, "token_critical", RefusalAnswer::Credential(401, close::UNAUTHORIZED),
        "token has a crit header, expected none";
    /// The token's signature matches no key of this node and that key's one algorithm.
    TokenSignature, "token_signature", RefusalAnswer::Credential(401, close::UNAUTHORIZED),
        "token is not signed with a key of this server";
    /// The credential has expired.
    CredentialExpired, "credential_expired", RefusalAnswer::Credential(401, close::EXPIRED), "credential has expired";
    /// The token has no `exp`, or one that is no time.
    TokenEndless, "token_endless", RefusalAnswer::Credential(401, close::UNAUTHORIZED),
        "token has no time in exp, expected one";
    /// The token's `nbf` is in the future, or is no time.
    TokenEarly, "token_early", RefusalAnswer::Credential(401, close::UNAUTHORIZED), "token is not valid yet, see its nbf";
    /// The token's `iss` is not `jwt_issuer`.
    TokenIssuer, "token_issuer", RefusalAnswer::Credential(401, close::UNAUTHORIZED), "token has another iss than expected";
    /// The token's `aud` doesn't contain `jwt_audience`.
    TokenAudience, "token_audience", RefusalAnswer::Credential(401, close::UNAUTHORIZED),
        "token has another aud than expected";
    /// The token's `sub` is missing, or no valid uid.
    TokenSubject, "token_subject", RefusalAnswer::Credential(401, close::UNAUTHORIZED),
        "token needs a sub that is a uid: a text, no number, without a colon, not empty or all";
    /// The token's claim of rights is no list of words.
    TokenRights, "token_rights", RefusalAnswer::Credential(401, close::UNAUTHORIZED),
        "token has a claim of rights that is no list of words";
    /// The authentication service rejects the credential, or its uid for this client is not valid.
    AuthRefused, "auth_refused", RefusalAnswer::Credential(401, close::UNAUTHORIZED), "credential is refused";
    /// The authentication service rejects the headers that log in without a credential.
    LoginHeaderRefused, "login_header_refused", RefusalAnswer::Credential(401, close::UNAUTHORIZED),
        "login by header is refused";
    /// The authentication service can't be reached, or its answer can't be read.
    AuthUnavailable, "auth_unavailable", RefusalAnswer::Credential(503, close::TRY_AGAIN_LATER),
        "authentication is not available, try again later";
    /// The peer ended the connection before its login.
    Left, "left", RefusalAnswer::None, "closed by the peer before its login";
    /// The TLS handshake failed; an alert states why.
    Tls, "tls", RefusalAnswer::None, "tls handshake failed";
    /// The connection was lost before its login.
    Lost, "lost", RefusalAnswer::None, "connection lost before its login";
}

impl Reason {
    /// Returns how suspicious the client is. `None` for a refusal that is no fault of the client, or has nothing to do with
    /// who it is: that is not logged with its address.
    pub(crate) const fn suspicion(self) -> Option<Suspicion> {
        match self {
            // An old page, a wrong clock, an ended login of a web application, or many clients behind one address.
            Self::CredentialMissing
            | Self::CredentialExpired
            | Self::TokenEarly
            | Self::LoginHeaderRefused
            | Self::AddressFull
            | Self::AddressRate => Some(Suspicion::Honest),
            _ => match self.answer() {
                // Other statuses are no fault of the client.
                RefusalAnswer::Credential(status, _) if status < 500 => Some(Suspicion::Guess),
                _ => None,
            },
        }
    }
}

/// Counts refusals by reason; shared by the gateway's threads, control and the handle.
#[derive(Clone, Debug)]
pub(crate) struct Refusals(Arc<[AtomicU64; Reason::ALL.len()]>);

impl Refusals {
    pub(crate) fn new() -> Self {
        Self(Arc::new([const { AtomicU64::new(0) }; Reason::ALL.len()]))
    }

    pub(crate) fn add(&self, reason: Reason) {
        // Relaxed: a statistic.
        self.0[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of refusals with `reason`.
    pub(crate) fn count(&self, reason: Reason) -> u64 {
        // Relaxed: a statistic.
        self.0[reason as usize].load(Ordering::Relaxed)
    }
}

/// The end of a connection before it became a session, with the details of its reason.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Refusal {
    /// The request asked for no upgrade, and the page was its answer: this is no refusal.
    #[error("answered over http")]
    Answered,
    /// Answered over HTTP already.
    #[error("{}", .0.text())]
    Http(Reason),
    /// An error of hyper, which classifies it.
    #[error("{text}: {1}", text = .0.text())]
    Hyper(Reason, hyper::Error),
    /// Answered by an alert already.
    #[error("tls handshake failed: {0}")]
    Tls(io::Error),
    #[error("login frame breaks the protocol: {0}")]
    Violation(Violation),
    #[error("{0}")]
    Uid(UidError),
    /// The credential in the first message is denied.
    #[error("{}", .0.text())]
    Denied(Reason),
    #[error("no login within {0:?}")]
    LoginTimeout(Duration),
    #[error("closed by the peer before its login")]
    ClosedByPeer(Option<u16>),
    #[error("server is going away")]
    Draining,
    #[error("connection lost: {0}")]
    Lost(io::Error),
}

impl From<IdentifyError> for Refusal {
    fn from(reason: IdentifyError) -> Self {
        match reason {
            IdentifyError::Denied(reason) => Self::Denied(reason),
            IdentifyError::Uid(error) => Self::Uid(error),
        }
    }
}

impl Refusal {
    /// Returns the reason to count; `None` if nothing was refused.
    pub(crate) fn reason(&self) -> Option<Reason> {
        Some(match self {
            Self::Answered => return None,
            Self::Http(reason) | Self::Hyper(reason, _) => *reason,
            Self::Violation(violation) => match violation.close_code() {
                close::NOT_UTF8 => Reason::LoginNotUtf8,
                close::TOO_BIG => Reason::LoginTooBig,
                _ => Reason::LoginProtocol,
            },
            Self::Uid(_) => Reason::Uid,
            Self::Denied(reason) => *reason,
            Self::LoginTimeout(_) => Reason::LoginTimeout,
            Self::ClosedByPeer(_) => Reason::Left,
            Self::Draining => Reason::DrainingLogin,
            Self::Tls(_) => Reason::Tls,
            Self::Lost(_) => Reason::Lost,
        })
    }
}

impl From<hyper::Error> for Refusal {
    fn from(error: hyper::Error) -> Self {
        let reason = match &error {
            error if error.is_parse_too_large() => Reason::HeadTooLarge,
            error if error.is_parse() => Reason::NotHttp,
            error if error.is_incomplete_message() => Reason::Left,
            _ => Reason::Lost,
        };
        Self::Hyper(reason, error)
    }
}

/// Closes a refused connection that was upgraded, as a session is closed: error message if the protocol has one, close frame,
/// FIN, and reading until the peer's end.
pub(crate) async fn close<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    refusal: &Refusal,
    protocol: Protocol,
    time_out: Duration,
) {
    let mut frames = Vec::new();
    let add_close = |frames: &mut Vec<u8>, cause, reason: &str| {
        frame::encode_close(frames, protocol.close_code(cause), reason);
    };
    let add_error = |frames: &mut Vec<u8>, text: &str| {
        if let Some(error) = protocol.error(text) {
            frame::encode(frames, Opcode::Text, error.as_bytes());
        }
    };
    match refusal {
        Refusal::Violation(violation) => {
            add_close(&mut frames, violation.close_code(), &violation.to_string());
        }
        Refusal::Uid(fault) => {
            add_error(&mut frames, &fault.to_string());
            add_close(&mut frames, close::POLICY, &fault.to_string());
        }
        Refusal::Denied(reason) => {
            let RefusalAnswer::Credential(_, code) = reason.answer() else { return };
            add_error(&mut frames, reason.text());
            add_close(&mut frames, code, reason.text());
        }
        Refusal::LoginTimeout(_) => add_close(&mut frames, close::POLICY, &refusal.to_string()),
        Refusal::ClosedByPeer(Some(code)) => frame::encode_close(&mut frames, *code, ""),
        Refusal::ClosedByPeer(None) => frame::encode(&mut frames, Opcode::Close, &[]),
        Refusal::Draining => add_close(&mut frames, close::GOING_AWAY, &refusal.to_string()),
        Refusal::Answered | Refusal::Http(_) | Refusal::Hyper(..) | Refusal::Tls(_) | Refusal::Lost(_) => return,
    }
    timeout(time_out, async {
        stream.write_all(&frames).await?;
        end_stream(stream).await
    })
    .await
    .ok();
}

/// Answers over HTTP without hyper, which received no valid request, and ends the stream. The caller bounds the time.
///
/// A reason without an HTTP status is not answered; the stream still ends.
pub(crate) async fn answer_over_http<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    reason: Reason,
) -> io::Result<()> {
    let RefusalAnswer::Http(status) = reason.answer() else { return end_stream(stream).await };
    let phrase = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or_default();
    let text = reason.text();
    let head = format!(
        "HTTP/1.1 {status} {phrase}\r\nconnection: close\r\ncontent-type: text/plain; charset=utf-8\r\n\
         content-length: {}\r\n\r\n{text}\n",
        text.len() + 1
    );
    stream.write_all(head.as_bytes()).await?;
    end_stream(stream).await
}

/// Ends a stream without RST, so that everything that was sent arrives. The caller bounds the time.
pub(crate) async fn end_stream<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> io::Result<()> {
    linger(stream, DISCARD_BYTES_MAX).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_fit_a_metric() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index, "{reason:?} is counted in its own place");
            let name = reason.name();
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte == b'8'), "{name}");
            assert!(Reason::ALL[index + 1..].iter().all(|other| other.name() != name), "{name} stands there twice");
        }
    }

    #[test]
    fn suspicious_are_credentials_and_what_the_limits_of_an_address_refuse() {
        for (reason, suspicion) in [
            (Reason::TokenSignature, Some(Suspicion::Guess)),
            (Reason::AuthRefused, Some(Suspicion::Guess)),
            (Reason::LoginHeaderRefused, Some(Suspicion::Honest)),
            (Reason::CredentialExpired, Some(Suspicion::Honest)),
            (Reason::AddressFull, Some(Suspicion::Honest)),
            (Reason::AuthUnavailable, None),
            (Reason::Full, None),
            (Reason::Origin, None),
            (Reason::Left, None),
            (Reason::LoginTimeout, None),
        ] {
            assert_eq!(reason.suspicion(), suspicion, "{reason:?}");
        }
    }

    /// The filter banned people whose login had ended, and all who are behind one address.
    #[test]
    fn the_filter_of_fail2ban_looks_for_guesses_and_for_nothing_else() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/fail2ban/filter.d/pombo.conf");
        let filter = std::fs::read_to_string(path).expect("it is readable");
        let reasons = filter.lines().find_map(|line| line.strip_prefix("_reasons = ")).expect("it has reasons");
        let mut found: Vec<&str> = reasons.split('|').collect();
        let guesses = Reason::ALL.iter().filter(|reason| reason.suspicion() == Some(Suspicion::Guess));
        let mut expected: Vec<&str> = guesses.map(|reason| reason.name()).chain(["control_token"]).collect();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected);
    }

    #[test]
    fn close_codes_are_known() {
        for reason in Reason::ALL {
            if let RefusalAnswer::Close(code) | RefusalAnswer::Credential(_, code) = reason.answer() {
                assert!(close::meaning(code).is_some(), "{reason:?}");
            }
        }
    }
}
