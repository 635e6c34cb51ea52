//! Accepting on the control listeners: a bounded number of connections, each with a place and a task of its own.

use std::fs::File;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::debug;

use super::places::{Place, Places};
use crate::listener::{Connection, Listener};

/// How long accepting rests after it failed, as for want of descriptors.
const RETRY: Duration = Duration::from_millis(10);

/// Time that a TLS handshake may take.
const TLS_TIME: Duration = Duration::from_secs(10);

/// Descriptors that control keeps for connections.
const SPARES: usize = 6;

/// A stream as it comes to a task, whatever it runs over.
pub(super) type Duplex = Pin<Box<dyn ReadWrite>>;

/// Both directions of a stream.
pub(super) trait ReadWrite: AsyncRead + AsyncWrite + Send {}
impl<S: AsyncRead + AsyncWrite + Send> ReadWrite for S {}

/// Accepts connections, and runs `serve` for each that has one of `places`; others give way to it, see [`Places`].
///
/// Ends when the sender of `ending` is dropped. Each connection is told of by a receiver of `open` from the moment it is
/// accepted, so that none is cut before its task has begun.
pub(super) async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: Listener,
    tls: Option<watch::Receiver<Arc<ServerConfig>>>,
    places: Places,
    spares: Spares,
    open: &watch::Sender<()>,
    mut ending: watch::Receiver<()>,
    serve: impl Fn(Duplex, Option<SocketAddr>, Place) -> F + Clone + Send + 'static,
) {
    spares.fill();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = ending.changed() => return,
            accepted = listener.accept() => accepted,
        };
        let connection = match accepted {
            Ok(connection) => connection,
            Err(_) if spares.give() => continue,
            Err(error) => {
                debug!(error = %error, "cannot accept on a control listener");
                sleep(RETRY).await;
                continue;
            }
        };
        let place = tokio::select! {
            biased;
            _ = ending.changed() => return,
            place = places.enter() => place,
        };
        let (tls, serve, spares, open) = (tls.clone(), serve.clone(), spares.clone(), open.subscribe());
        tokio::spawn(async move {
            let _open = open;
            let served_in = place.clone();
            let served = async move {
                match secure(connection, tls).await {
                    Ok((stream, peer)) => serve(stream, peer, served_in).await,
                    Err(error) => debug!(error = %error, "control connection lost"),
                }
            };
            tokio::select! {
                biased;
                () = place.cut() => debug!("control connection closed, it waited longest and another needs its place"),
                () = served => {}
            }
            // Its descriptor is free in this moment, and the gateway may be waiting for one.
            spares.fill();
        });
    }
}

/// Descriptors held for when clients have all others, so that the node can still be asked what is wrong with it.
#[derive(Clone, Default)]
pub(crate) struct Spares(Arc<Mutex<Vec<File>>>);

impl Spares {
    /// Takes as many as are free, up to [`SPARES`].
    pub(super) fn fill(&self) {
        let mut spares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while spares.len() < SPARES {
            // Without one, or without `/dev/null`, there is no help in a shortage.
            let Ok(spare) = File::open("/dev/null") else { return };
            spares.push(spare);
        }
    }

    /// Gives one up, for somebody else to have; tells whether there was one.
    pub(super) fn give(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().is_some()
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
