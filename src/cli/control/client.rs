//! One HTTP connection to a node's control listener, for one request at a time.

use std::error::Error;
use std::io;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpStream, UnixStream};

use super::address::{Address, Scheme};
use crate::cli::trust::{Trust, Wire};
use crate::service::causes;

/// Longest answer that is read as a whole.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// Most characters that are shown of an answer that isn't understood.
const SHOWN_CHARACTERS_MAX: usize = 200;

/// How the line begins with which a node answers a request without TLS where it speaks TLS.
const SPEAKS_TLS: &str = "this port speaks TLS";

/// A connection to a node, for bodies of one kind.
pub(super) struct Client<B> {
    sender: SendRequest<B>,
    address: Address,
    token: Option<HeaderValue>,
}

/// The node to call, and the caller's token.
pub(super) struct Callee {
    pub(super) address: Address,
    /// Where the address was written.
    pub(super) origin: String,
    /// How the node's certificate is checked; `None` without TLS.
    pub(super) trust: Option<Trust>,
    pub(super) token: Option<HeaderValue>,
}

/// Why a call has failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error("can't connect to {address}: {source}{}", hint(source, origin))]
    Connect { address: Address, origin: String, source: io::Error },
    #[error("no answer: {0}")]
    Lost(String),
    #[error(
        "the answer is not HTTP, is this the control listener of a pombo? If it speaks TLS, name it as https://{0}"
    )]
    NotHttp(Address),
    #[error("{status}{}", detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default())]
    Refused {
        status: StatusCode,
        /// The text of the node.
        detail: Option<String>,
    },
    #[error("{status}, not as a node answers, is this the control listener of a pombo?{}{text}", if text.is_empty() { "" } else { " " })]
    RefusedByAnother {
        status: StatusCode,
        /// The begin of the answer.
        text: String,
    },
    #[error("the answer is not understood, is this the control listener of a pombo? {0}")]
    Strange(String),
}

impl<B> Client<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Error + Send + Sync,
{
    /// Connects.
    pub(super) async fn connect(callee: &Callee) -> Result<Self, CallError> {
        let failed =
            |source| CallError::Connect { address: callee.address.clone(), origin: callee.origin.clone(), source };
        let wire = dial(callee).await.map_err(failed)?;
        let handshake = http1::handshake(TokioIo::new(wire)).await;
        let (sender, connection) = handshake.map_err(|error| failed(io::Error::other(error)))?;
        // Its errors also reach the sender of the request.
        tokio::spawn(connection);
        Ok(Self { sender, address: callee.address.clone(), token: callee.token.clone() })
    }

    /// Returns whether the node has closed the connection.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Sends a request, whose target is a path, and waits for the answer's head.
    pub(super) async fn send(&mut self, mut request: Request<B>) -> Result<Response<Incoming>, CallError> {
        let headers = request.headers_mut();
        let host = HeaderValue::from_str(&self.address.host()).map_err(|error| CallError::Lost(error.to_string()))?;
        headers.insert(HOST, host);
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("pombo/", env!("CARGO_PKG_VERSION"))));
        if let Some(token) = &self.token {
            headers.insert(AUTHORIZATION, token.clone());
        }
        let address = &self.address;
        let lost = |error: hyper::Error| match error.is_parse() {
            true => CallError::NotHttp(address.clone()),
            false => CallError::Lost(causes(&error)),
        };
        self.sender.ready().await.map_err(lost)?;
        let response = self.sender.send_request(request).await.map_err(lost)?;
        if response.status().is_success() { Ok(response) } else { Err(refusal(response).await) }
    }
}

impl Client<Full<Bytes>> {
    /// Sends a probe, whose answer is `ok`.
    pub(super) async fn probe(&mut self, request: Request<Full<Bytes>>) -> Result<(), CallError> {
        let response = self.send(request).await?;
        let body = collect(response).await?;
        if body.trim_ascii() == b"ok" { Ok(()) } else { Err(CallError::Strange(begin(&body))) }
    }

    /// Sends a request and returns the answer, which is JSON.
    pub(super) async fn call(&mut self, request: Request<Full<Bytes>>) -> Result<Value, CallError> {
        let response = self.send(request).await?;
        let body = collect(response).await?;
        serde_json::from_slice(&body).map_err(|error| CallError::Strange(error.to_string()))
    }
}

async fn dial(callee: &Callee) -> io::Result<Box<dyn Wire>> {
    match &callee.address {
        Address::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
        Address::Abstract(name) => Ok(Box::new(UnixStream::connect(format!("\0{name}")).await?)),
        Address::Tcp { host, port, scheme } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            match &callee.trust {
                Some(trust) if *scheme == Scheme::Https => trust.secure(stream, host).await,
                _ => Ok(Box::new(stream)),
            }
        }
    }
}

async fn collect(response: Response<Incoming>) -> Result<Bytes, CallError> {
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    Ok(body.map_err(|error| CallError::Lost(causes(&*error)))?.to_bytes())
}

/// Reads the reason of a refused request: problem details (RFC 9457), or the line of a probe.
async fn refusal(response: Response<Incoming>) -> CallError {
    let status = response.status();
    let body = collect(response).await.unwrap_or_default();
    let problem: Option<Value> = serde_json::from_slice(&body).ok();
    let text = |name| problem.as_ref()?.get(name)?.as_str().map(str::to_owned);
    let line = begin(&body);
    // Besides problems a node answers with the reason why it isn't healthy or ready, and where it speaks TLS.
    let is_line = status == StatusCode::SERVICE_UNAVAILABLE && !line.starts_with('<') && !line.is_empty()
        || line.starts_with(SPEAKS_TLS);
    match text("detail").or_else(|| text("title")).or(is_line.then(|| line.clone())) {
        Some(detail) => CallError::Refused { status, detail: Some(detail) },
        None => CallError::RefusedByAnother { status, text: line },
    }
}

/// Returns the first characters of an answer.
fn begin(body: &[u8]) -> String {
    String::from_utf8_lossy(body).trim().chars().take(SHOWN_CHARACTERS_MAX).collect()
}

/// Returns what to do about a connection that could not be made.
fn hint(error: &io::Error, origin: &str) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => format!(
            ": nobody listens there ({origin}), expected the address of the node's setting control: name it with \
             --control or POMBO_CONTROL, or its file with --config"
        ),
        io::ErrorKind::PermissionDenied => {
            format!(" ({origin}): a Unix socket needs the permission to write to its file, see unix_socket_mode")
        }
        _ => String::new(),
    }
}
