//! Accepting on the control listeners: a bounded number of connections, each with a place and a task of its own.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::debug;

use super::places::{Place, Places};
use super::reserved::Reserved;
use crate::descriptors::Reserve;
use crate::listener::Listener;

/// How long accepting rests after it failed, as for want of descriptors.
const RETRY: Duration = Duration::from_millis(10);

/// Time that a TLS handshake may take.
const TLS_TIME: Duration = Duration::from_secs(10);

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
    reserve: Reserve,
    open: &watch::Sender<()>,
    mut ending: watch::Receiver<()>,
    serve: impl Fn(Duplex, Option<SocketAddr>, Place) -> F + Clone + Send + 'static,
) {
    reserve.fill();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = ending.changed() => return,
            accepted = listener.accept() => accepted,
        };
        let accepted = match accepted {
            // For want of a descriptor, most likely.
            Err(error) => match reserve.lend(|| listener.accept().now_or_never()) {
                Some(Some(accepted)) => accepted,
                // The client has left.
                Some(None) => continue,
                None => Err(error),
            },
            Ok(connection) => Ok(connection),
        };
        let connection = match accepted {
            Ok(connection) => connection,
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
        let (tls, serve, open) = (tls.clone(), serve.clone(), open.subscribe());
        let connection = Reserved::new(connection, reserve.clone());
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
        });
    }
}

/// Makes the TLS handshake where it is spoken.
async fn secure(
    connection: Reserved,
    tls: Option<watch::Receiver<Arc<ServerConfig>>>,
) -> io::Result<(Duplex, Option<SocketAddr>)> {
    match (connection.peer(), tls) {
        (Some(peer), Some(tls)) => {
            let config = Arc::clone(&tls.borrow());
            let stream = timeout(TLS_TIME, TlsAcceptor::from(config).accept(connection)).await??;
            Ok((Box::pin(stream), Some(peer)))
        }
        (peer, _) => Ok((Box::pin(connection), peer)),
    }
}
