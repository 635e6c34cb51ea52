//! The HTTP client for the operator's services, plain or over TLS.
//!
//! The gateway asks one who a connection is; control posts presence events to another.
//!
//! A service may close an idle connection just as a request is sent over it. hyper-util sends the request again only if
//! nothing of it was sent. Otherwise it is sent again here, once, over a new connection, if the lost connection had
//! answered a request before.

use std::error::Error;
use std::fmt::Write;
use std::future::Future;
use std::io::{self, IoSlice};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::http::Extensions;
use hyper::rt::{Read, ReadBufCursor};
use hyper::{Request, Response, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::RootCertStore;
use tokio::net::TcpStream;
use tower_service::Service;

use crate::config::AuthUrl;
use crate::roots::{self, RootsError};

/// How long a connection to a service is kept while it is not used.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Least time between two complaints about a service.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(1);

/// A client with connections of [`Wire`].
type WireClient = Client<HttpsConnector<Connector>, Full<Bytes>>;

/// Sends requests to a service; keeps its connections and uses them again.
#[derive(Clone, Debug)]
pub(crate) struct ServiceClient {
    /// Reuses connections.
    kept: WireClient,
    /// Makes a connection for each request.
    new: WireClient,
}

/// Complaints about a service that fails: at most one a second is logged.
#[derive(Debug, Default)]
pub(crate) struct Complaints {
    /// When the last one was logged.
    last: Option<Instant>,
}

impl Complaints {
    /// Returns whether to log a complaint made at `now`; if so, it counts as logged.
    pub(crate) fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.last.is_none_or(|last| now.saturating_duration_since(last) >= COMPLAINT_INTERVAL);
        if is_due {
            self.last = Some(now);
        }
        is_due
    }
}

/// Returns `reason` for one line of the log: escapes what can't be printed, and leaves quotes as they are.
pub(crate) fn printable(reason: &str) -> String {
    let mut shown = String::with_capacity(reason.len());
    for character in reason.chars() {
        match character {
            '\'' | '"' => shown.push(character),
            other => shown.extend(other.escape_debug()),
        }
    }
    shown
}

/// Makes a client for the service at `url`, which trusts the root certificates in `ca`, the value of `setting`, or else the
/// system's. Sends nothing yet.
///
/// # Errors
/// When there are no root certificates, and the service is reached over TLS.
pub(crate) fn client(
    url: Option<&AuthUrl>,
    setting: &'static str,
    ca: Option<&Path>,
    idle_max: usize,
) -> Result<ServiceClient, RootsError> {
    let mut http = HttpConnector::new();
    // The connector for TLS wraps this one, so it must accept `https://` addresses, too.
    http.enforce_http(false);
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(roots::client_config(trusted(url, setting, ca)?))
        .https_or_http()
        .enable_http1()
        .wrap_connector(Connector(http));
    let mut builder = Client::builder(TokioExecutor::new());
    builder.pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE_TIMEOUT).pool_max_idle_per_host(idle_max);
    let kept = builder.build(connector.clone());
    Ok(ServiceClient { kept, new: builder.pool_max_idle_per_host(0).build(connector) })
}

impl ServiceClient {
    /// Sends a request, and returns the head of its answer; the caller bounds the time.
    ///
    /// The service may get the request twice, if it closed the connection without an answer.
    ///
    /// # Errors
    /// When the service can't be reached, or closes its connection without an answer.
    pub(crate) async fn request(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, legacy::Error> {
        let again = request.clone();
        match self.kept.request(request).await {
            Ok(response) => {
                if let Some(history) = response.extensions().get::<History>() {
                    history.note_answer();
                }
                Ok(response)
            }
            Err(error) if had_answered(&error) => self.new.request(again).await,
            Err(error) => Err(error),
        }
    }
}

/// Returns whether a request was lost with a connection that had answered another request before.
fn had_answered(error: &legacy::Error) -> bool {
    let mut extras = Extensions::new();
    error.connect_info().is_some_and(|connected| {
        connected.get_extras(&mut extras);
        extras.get::<History>().is_some_and(History::has_answered)
    })
}

/// Whether a connection has answered a request; clones belong to the same connection.
#[derive(Clone, Debug, Default)]
struct History(Arc<AtomicBool>);

impl History {
    fn note_answer(&self) {
        // Relaxed: no other data depends on it.
        self.0.store(true, Ordering::Relaxed);
    }

    fn has_answered(&self) -> bool {
        // Relaxed: see `note_answer`.
        self.0.load(Ordering::Relaxed)
    }
}

/// Makes connections with a [`History`].
#[derive(Clone, Debug)]
struct Connector(HttpConnector);

impl Service<Uri> for Connector {
    type Response = Wire;
    type Error = <HttpConnector as Service<Uri>>::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Wire, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, address: Uri) -> Self::Future {
        let connecting = self.0.call(address);
        Box::pin(async move { Ok(Wire { stream: connecting.await?, history: History::default() }) })
    }
}

/// A connection to a service, with its history.
#[derive(Debug)]
struct Wire {
    stream: TokioIo<TcpStream>,
    history: History,
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        self.stream.connected().extra(self.history.clone())
    }
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl hyper::rt::Write for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }
}

/// Reads the root certificates for the service.
///
/// A system without root certificates is no error while the address is `http://`. If a reload changes the address to
/// `https://`, requests to the service fail.
fn trusted(url: Option<&AuthUrl>, setting: &'static str, ca: Option<&Path>) -> Result<RootCertStore, RootsError> {
    let is_secure = url.is_some_and(AuthUrl::is_secure);
    match roots::load(setting, ca) {
        Err(RootsError::NoSystemRoots { .. }) if !is_secure => Ok(RootCertStore::empty()),
        roots => roots,
    }
}

/// Formats an error with all its causes.
pub(crate) fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        // Some errors show their cause themselves.
        if !text.ends_with(&cause.to_string()) {
            write!(text, ": {cause}").expect("a String takes all");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_due_once_a_second() {
        let (mut complaints, start) = (Complaints::default(), Instant::now());
        let mut is_due = |milliseconds| complaints.is_due(start + Duration::from_millis(milliseconds));
        assert!(is_due(0), "the first");
        assert!(!is_due(0) && !is_due(999));
        assert!(is_due(1000));
        assert!(!is_due(1001) && !is_due(1999), "a complaint that was not logged puts nothing off");
        assert!(is_due(2000));
        assert!(!is_due(500), "a clock that was read before that");
    }
}
