//! Entry points for the fuzz targets in `fuzz/`, which can't reach private modules. They exist only in a build for fuzzing.
//!
//! Each runs the gateway's own code on bytes in memory, and panics when an invariant is broken.

use std::future::pending;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::time::Instant;

use super::auth::{Authentication, Authenticator, Login, LoginService, RequestFacts};
use super::refusal::Refusal;
use super::upgrade::{self, Upgraded};
use super::{AcceptedStream, AdmissionControl, Client, first_message};
use crate::clock;
use crate::config::{Auth, AuthSource, Config, GatewaySettings, Secret};
use crate::shard::{Admission, LoginNumbers, Stream};
use crate::uid::UidHasher;

/// The secret that tokens are signed with.
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Longer than any input takes.
const LONG: Duration = Duration::from_secs(3600);

/// A gateway's settings and keys; made once, used for every input.
#[derive(Debug)]
pub struct Gateway {
    runtime: Runtime,
    settings: Arc<GatewaySettings>,
    login_service: LoginService,
}

/// A peer that sends some bytes, in pieces of a size, and then the end.
struct Peer {
    input: Vec<u8>,
    at: usize,
    piece: usize,
    output: Vec<u8>,
}

impl Gateway {
    /// Makes a gateway without authentication.
    pub fn open() -> Self {
        Self::new(Config::default())
    }

    /// Makes a gateway that requires a token, in any of the places that may hold one.
    pub fn with_tokens() -> Self {
        Self::new(Config {
            auth: Auth::Jwt,
            auth_sources: vec![AuthSource::FirstFrame, AuthSource::Header, AuthSource::Subprotocol, AuthSource::Query],
            jwt_secret: Some(Secret::new(SECRET)),
            ..Config::default()
        })
    }

    fn new(config: Config) -> Self {
        let settings = Arc::new(config.gateway());
        let authenticator = Arc::new(Authenticator::new(&settings.auth).expect("the keys can be used"));
        let login_service =
            LoginService { authenticator, hasher: UidHasher::fixed(1), login_numbers: LoginNumbers::default() };
        let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
        Self { runtime, settings, login_service }
    }

    /// Upgrades and logs in a peer that sends `bytes` in pieces; returns its uid, or the name of the reason of its refusal.
    ///
    /// # Panics
    /// When an answer is malformed, or a byte behind the request or the login is lost.
    pub fn connect(&self, bytes: &[u8], piece: usize) -> Result<String, Option<&'static str>> {
        let peer = Peer { input: bytes.to_vec(), at: 0, piece: piece.max(1), output: Vec::new() };
        let login = self.runtime.block_on(self.log_in(peer));
        let uid = login.map_err(|refusal| refusal.reason().map(|reason| reason.name()))?.identity.uid;
        Ok(uid.as_str().to_owned())
    }

    async fn log_in(&self, peer: Peer) -> Result<Login, Refusal> {
        let admission_control = Arc::new(AdmissionControl::new(Admission::default()));
        let context = upgrade::UpgradeContext {
            settings: Arc::clone(&self.settings),
            deadline: Instant::now() + LONG,
            admission_control: Arc::clone(&admission_control),
            drain_by: watch::channel(None).1,
            refused_origins: Arc::default(),
            login_service: self.login_service.clone(),
        };
        let mut client = Client { permit: admission_control.admit(1), ..Client::default() };
        let upgraded = upgrade::upgrade(peer, &context, &mut client, pending::<()>()).await?;
        let Upgraded { stream: mut peer, mut received, authentication, .. } = upgraded;
        peer.check_rest(&received);
        let answer = peer.output.escape_ascii();
        assert!(peer.output.starts_with(b"HTTP/1.1 101 ") && peer.output.ends_with(b"\r\n\r\n"), "{answer}");
        match authentication {
            Authentication::LoggedIn(login) => Ok(login),
            Authentication::AwaitsFirstMessage(facts) => {
                let credential = first_message::read(&mut peer, &mut received, &self.settings).await?;
                peer.check_rest(&received);
                Ok(self.login_service.log_in(Some(&credential), &facts, &self.settings).await?)
            }
        }
    }

    /// Logs in by a token; returns its uid, or `None` if the token is refused.
    pub fn verify_token(&self, token: &[u8]) -> Option<String> {
        let facts = RequestFacts::default();
        let login = self.login_service.log_in(Some(token), &facts, &self.settings);
        let identity = self.runtime.block_on(login).ok()?.identity;
        assert!(identity.expires.is_some_and(|at| at > clock::now()), "an expired token was accepted");
        Some(identity.uid.as_str().to_owned())
    }
}

/// Signs claims with the secret of [`Gateway::with_tokens`]; `key` becomes the token's `kid`.
///
/// A numeric claim whose name ends in `+` becomes a claim without the `+`, whose value is that many seconds from now.
pub fn sign(claims: Map<String, Value>, key: Option<String>) -> Option<String> {
    let now = clock::since_1970().as_secs_f64();
    let from_now = |(name, value): (String, Value)| match (name.strip_suffix('+'), value.as_f64()) {
        (Some(name), Some(seconds)) => (name.to_owned(), Value::from(now + seconds)),
        _ => (name, value),
    };
    let claims: Map<_, _> = claims.into_iter().map(from_now).collect();
    let header = Header { kid: key, ..Header::new(Algorithm::HS256) };
    encode(&header, &claims, &EncodingKey::from_secret(SECRET.as_bytes())).ok()
}

impl Peer {
    /// Checks that the received bytes and the unread input together are the end of the input.
    fn check_rest(&self, received: &[u8]) {
        let rest = [received, &self.input[self.at..]].concat();
        assert!(self.input.ends_with(&rest), "bytes behind the consumed input have changed");
    }
}

impl AsyncRead for Peer {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let peer = self.get_mut();
        let length = peer.piece.min(buffer.remaining()).min(peer.input.len() - peer.at);
        buffer.put_slice(&peer.input[peer.at..peer.at + length]);
        peer.at += length;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Peer {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().output.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AcceptedStream for Peer {
    async fn input_arrived(&self) -> io::Result<()> {
        Ok(())
    }

    fn into_stream(self) -> io::Result<Stream> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
