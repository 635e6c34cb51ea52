//! The accept loop of a listener. It accepts until the backlog is empty, ahead of all other work.
//!
//! While no descriptor is free, connections stay in the kernel's backlog until one is. Accepting them with a reserved
//! descriptor, only to close them, would drop clients that can be served a moment later, and all of them would reconnect at
//! once.

use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};

use super::{Client, Gateway, Handshake};
use crate::listener::{Connection, Listener};
use crate::peer::Peer;

/// Pause after accepting failed for lack of descriptors or memory. A descriptor that becomes free is unused for this long at
/// most.
const RETRY: Duration = Duration::from_millis(10);

/// A shortage is over when accepting has not failed for this long. It bounds the rate of the shortage's log lines.
const OVER_AFTER: Duration = Duration::from_secs(1);

/// Time for the upgrade of a connection whose address has reached `address_sessions_max`.
const OVERFULL_TIME: Duration = Duration::from_secs(1);

/// Most connections that are taken out of a backlog at a drain, to be refused. It ends the loop if clients refill the backlog
/// as fast as it is emptied.
const REST_MAX: usize = 65_536;

impl Gateway {
    /// Accepts on `listener` until the node drains; then accepts the rest of the backlog, whose connections are refused.
    pub(super) async fn accept(self: Arc<Self>, listener: Listener, in_progress: mpsc::Sender<()>) {
        let mut draining = pin!(self.drain());
        let mut shortage = Shortage { times: None, count: self.shortages.clone() };
        loop {
            let accepted = tokio::select! {
                biased;
                _ = &mut draining => break,
                accepted = self.accept_one(&listener) => accepted,
                () = shortage.over() => continue,
            };
            match accepted {
                Ok((connection, permit)) => self.spawn_task(connection, permit, &in_progress),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    shortage.note(&error);
                    sleep(RETRY).await;
                }
            }
        }
        self.accept_rest(listener, &in_progress).await;
    }

    async fn accept_one(&self, listener: &Listener) -> io::Result<(Connection, OwnedSemaphorePermit)> {
        let permit = Arc::clone(&self.handshakes).acquire_owned().await.expect("the semaphore is never closed");
        let mut accepting = pin!(listener.accept());
        // Excludes control's accept: otherwise this could take the descriptor that control has just freed for itself.
        let connection = poll_fn(|context| self.reserve.while_not_lending(|| accepting.as_mut().poll(context))).await?;
        Ok((connection, permit))
    }

    /// Accepts until the backlog is empty: closing the listener would reset the connections that wait in it.
    ///
    /// Ends with the drain at the latest, as every task does.
    async fn accept_rest(self: &Arc<Self>, listener: Listener, in_progress: &mpsc::Sender<()>) {
        let Ok(Some(listener)) = listener.into_backlog() else { return };
        for _ in 0..REST_MAX {
            let permit = Arc::clone(&self.handshakes).acquire_owned().await.expect("the semaphore is never closed");
            match self.reserve.while_not_lending(|| listener.accept()) {
                Ok(connection) => self.spawn_task(connection, permit, in_progress),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if is_of_one_connection(&error) => {}
                Err(_) => sleep(RETRY).await,
            }
        }
    }

    fn spawn_task(
        self: &Arc<Self>,
        connection: Connection,
        handshake_permit: OwnedSemaphorePermit,
        in_progress: &mpsc::Sender<()>,
    ) {
        let settings = Arc::clone(&self.settings.borrow());
        let mut permit = self.admission_control.admit(settings.connections_max);
        let peer = match &connection {
            Connection::Tcp(_, peer) => Some(Peer::from(*peer)),
            Connection::Unix(_) => None,
        };
        let (now, address) = (Instant::now(), peer.map(Peer::address));
        let has_room = permit
            .as_mut()
            .is_none_or(|permit| self.admission_control.count_at_accept(address, permit, &settings.admission, now));
        // An address over its limit gets its refusal as the answer to its request. The time for that request is short, or
        // one address could occupy all of `handshakes_max`.
        let time = if has_room { settings.handshake_timeout } else { settings.handshake_timeout.min(OVERFULL_TIME) };
        let handshake = Handshake {
            client: Client { peer, permit },
            deadline: now + time,
            settings,
            _handshake_permit: handshake_permit,
            _in_progress: in_progress.clone(),
        };
        tokio::spawn(Arc::clone(self).serve(connection, handshake));
    }
}

/// Whether an error of accept concerns one connection only, which is gone, and the next may be accepted at once.
///
/// Linux returns pending network errors of the new connection from accept (accept(2), "Error handling"). Every other error
/// counts as a shortage: it may last, and retrying at once would spin.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionReset, HostUnreachable, Interrupted, NetworkDown, NetworkUnreachable, TimedOut,
    };
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionReset
            | HostUnreachable
            | Interrupted
            | NetworkDown
            | NetworkUnreachable
            | TimedOut
    )
}

/// Number of listeners that can't accept now for lack of descriptors or memory. Control reads it for metrics and health.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shortages(Arc<AtomicUsize>);

impl Shortages {
    /// Returns the number.
    pub(crate) fn count(&self) -> usize {
        // Relaxed: nothing else is read because of it.
        self.0.load(Ordering::Relaxed)
    }
}

/// A time in which one listener can't accept; its begin and its end are logged.
struct Shortage {
    /// When accepting failed first and last; `None` while there is no shortage.
    times: Option<(Instant, Instant)>,
    /// Counts this shortage while it lasts.
    count: Shortages,
}

impl Shortage {
    fn note(&mut self, error: &io::Error) {
        let now = Instant::now();
        match &mut self.times {
            Some((_, last)) => *last = now,
            None => {
                self.times = Some((now, now));
                // Relaxed: see `Shortages::count`.
                self.count.0.fetch_add(1, Ordering::Relaxed);
                warn!(error = %error, "cannot accept, connections wait; raise `ulimit -n` or lower connections_max");
            }
        }
    }

    /// Waits until accepting has not failed for [`OVER_AFTER`], then logs the end of the shortage. Waits for ever without one.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    async fn over(&mut self) {
        match self.times {
            Some((since, last)) => {
                sleep_until(last + OVER_AFTER).await;
                self.times = None;
                // Relaxed: see `Shortages::count`.
                self.count.0.fetch_sub(1, Ordering::Relaxed);
                info!(elapsed = ?since.elapsed(), "accepting again");
            }
            None => std::future::pending().await,
        }
    }
}
