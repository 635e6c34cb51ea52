//! The accept loop of a control listener. Each connection has a slot and a task; the number of slots is bounded.

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

use super::reserved::Reserved;
use super::slots::{Slot, Slots};
use crate::descriptors::Reserve;
use crate::gateway::{Reason, answer_over_http};
use crate::listener::Listener;

/// Pause after accepting failed, as for lack of descriptors.
const RETRY: Duration = Duration::from_millis(10);

/// Time that a TLS handshake may take.
const TLS_TIME: Duration = Duration::from_secs(10);

/// A stream over any transport.
pub(super) type Duplex = Pin<Box<dyn ReadWrite>>;

/// Both directions of a stream.
pub(super) trait ReadWrite: AsyncRead + AsyncWrite + Send {}
impl<S: AsyncRead + AsyncWrite + Send> ReadWrite for S {}

/// Accepts connections, and runs `serve` for each in a slot of `slots`. Other connections may be evicted for it; see [`Slots`].
///
/// Ends when the sender of `ending` is dropped. Each connection holds a receiver of `open` from its accept on, so that the
/// node waits for it at its end, even if its task has not begun.
pub(super) async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: Listener,
    tls: Option<watch::Receiver<Arc<ServerConfig>>>,
    slots: Slots,
    reserve: Reserve,
    open: &watch::Sender<()>,
    mut ending: watch::Receiver<()>,
    serve: impl Fn(Duplex, Option<SocketAddr>, Slot) -> F + Clone + Send + 'static,
) {
    reserve.fill();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = ending.changed() => return,
            accepted = listener.accept() => accepted,
        };
        let accepted = match accepted {
            // Most likely no descriptor is free.
            Err(error) => match reserve.lend(|| listener.accept().now_or_never()) {
                Some(Some(accepted)) => accepted,
                // The client has left.
                Some(None) => continue,
                // Control's own connections hold all of the reserve.
                None => {
                    slots.evict_for_descriptor();
                    Err(error)
                }
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
        let slot = tokio::select! {
            biased;
            _ = ending.changed() => return,
            slot = slots.enter() => slot,
        };
        let (tls, serve, open) = (tls.clone(), serve.clone(), open.subscribe());
        let connection = Reserved::new(connection, reserve.clone());
        tokio::spawn(async move {
            let _open = open;
            let slot_of_task = slot.clone();
            let served = async move {
                match secure(connection, tls).await {
                    Ok((stream, peer)) => serve(stream, peer, slot_of_task).await,
                    Err(error) => debug!(error = %error, "control connection lost"),
                }
            };
            tokio::select! {
                biased;
                () = slot.evicted() => debug!("control connection closed, it waited longest and another needs its slot"),
                () = served => {}
            }
        });
    }
}

/// Makes the TLS handshake, if the listener has TLS.
async fn secure(
    mut connection: Reserved,
    tls: Option<watch::Receiver<Arc<ServerConfig>>>,
) -> io::Result<(Duplex, Option<SocketAddr>)> {
    match (connection.peer(), tls) {
        (Some(peer), Some(tls)) => {
            let config = Arc::clone(&tls.borrow());
            let handshake = async {
                // As at the gateway: no TLS record begins with a capital letter, and an HTTP client can't read an alert.
                if connection.peek().await?.is_some_and(|first| first.is_ascii_uppercase()) {
                    answer_over_http(&mut connection, Reason::PlainHttp).await?;
                    return Err(io::Error::other(Reason::PlainHttp.text()));
                }
                TlsAcceptor::from(config).accept(connection).await
            };
            let stream = timeout(TLS_TIME, handshake).await??;
            Ok((Box::pin(stream), Some(peer)))
        }
        (peer, _) => Ok((Box::pin(connection), peer)),
    }
}
