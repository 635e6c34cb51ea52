//! Accepting on the control listeners: a bounded number of connections, each on a task of its own.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::debug;

use crate::listener::{Connection, Listener};

/// How long accepting rests after it failed, as for want of descriptors.
const RETRY: Duration = Duration::from_millis(10);

/// Time that a TLS handshake may take.
const TLS_TIME: Duration = Duration::from_secs(10);

/// A stream as it comes to a task, whatever it runs over.
pub(super) type Duplex = Pin<Box<dyn ReadWrite>>;

/// Both directions of a stream.
pub(super) trait ReadWrite: AsyncRead + AsyncWrite + Send {}
impl<S: AsyncRead + AsyncWrite + Send> ReadWrite for S {}

/// Accepts connections, `connections_max` at a time, and runs `serve` for each; more wait in the kernel's backlog.
///
/// Ends when the sender of `ending` is dropped. Each connection is told of by a receiver of `open` from the moment it is
/// accepted, so that none is cut before its task has begun.
pub(super) async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: Listener,
    tls: Option<watch::Receiver<Arc<ServerConfig>>>,
    connections_max: usize,
    open: &watch::Sender<()>,
    mut ending: watch::Receiver<()>,
    serve: impl Fn(Duplex, Option<SocketAddr>) -> F + Clone + Send + 'static,
) {
    let places = Arc::new(Semaphore::new(connections_max));
    loop {
        let place = tokio::select! {
            biased;
            _ = ending.changed() => return,
            place = Arc::clone(&places).acquire_owned() => place.expect("the semaphore is never closed"),
        };
        let accepted = tokio::select! {
            biased;
            _ = ending.changed() => return,
            accepted = listener.accept() => accepted,
        };
        let connection = match accepted {
            Ok(connection) => connection,
            Err(error) => {
                debug!(error = %error, "cannot accept on a control listener");
                sleep(RETRY).await;
                continue;
            }
        };
        let (tls, serve, open) = (tls.clone(), serve.clone(), open.subscribe());
        tokio::spawn(async move {
            let _held = (place, open);
            match secure(connection, tls).await {
                Ok((stream, peer)) => serve(stream, peer).await,
                Err(error) => debug!(error = %error, "control connection lost"),
            }
        });
    }
}

/// Makes the TLS handshake where it is spoken.
async fn secure(
    connection: Connection,
    tls: Option<watch::Receiver<Arc<ServerConfig>>>,
) -> io::Result<(Duplex, Option<SocketAddr>)> {
    match (connection, tls) {
        (Connection::Unix(stream), _) => Ok((Box::pin(stream), None)),
        (Connection::Tcp(stream, peer), None) => Ok((Box::pin(stream), Some(peer))),
        (Connection::Tcp(stream, peer), Some(tls)) => {
            let config = Arc::clone(&tls.borrow());
            let stream = timeout(TLS_TIME, TlsAcceptor::from(config).accept(stream)).await??;
            Ok((Box::pin(stream), Some(peer)))
        }
    }
}
