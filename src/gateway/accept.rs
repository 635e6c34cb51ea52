//! Accepting: until there is nothing to accept, ahead of everything else; and what to do when nothing can be.
//!
//! Without a free descriptor connections stay where they are, in the kernel's backlog, and are served as soon as one is
//! free. Accepting them with one held in reserve, only to close them, would turn away in silence clients that could be
//! served a moment later, and have them all back at once.

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

/// How long accepting rests after it failed for want of descriptors or memory: so long is a freed one unused at most.
const RETRY: Duration = Duration::from_millis(10);

/// How long accepting must not have failed before the shortage counts as over, so that its log can't be a flood.
const OVER_AFTER: Duration = Duration::from_secs(1);

/// How long a connection may take to ask for its upgrade whose address has all its places taken.
const OVERFULL_TIME: Duration = Duration::from_secs(1);

/// Most connections that are told of a drain out of a backlog; whoever fills it faster is not waited for.
const REST_MAX: usize = 65_536;

impl Gateway {
    /// Accepts on `listener` until the node drains; then what the kernel holds already, to be told so.
    pub(super) async fn accept(self: Arc<Self>, listener: Listener, in_progress: mpsc::Sender<()>) {
        let mut draining = pin!(self.drain());
        let mut shortage = Shortage { times: None, all: self.shortages.clone() };
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
        // Apart from control's accepting, which would lose a descriptor that it has just freed for itself.
        let connection = poll_fn(|context| self.reserve.apart(|| accepting.as_mut().poll(context))).await?;
        Ok((connection, permit))
    }

    /// Accepts until there is nothing to accept: closing the listener would reset who waits there.
    ///
    /// Ends with the drain at the latest, as every task does.
    async fn accept_rest(self: &Arc<Self>, listener: Listener, in_progress: &mpsc::Sender<()>) {
        let Ok(Some(listener)) = listener.into_last() else { return };
        for _ in 0..REST_MAX {
            let permit = Arc::clone(&self.handshakes).acquire_owned().await.expect("the semaphore is never closed");
            match self.reserve.apart(|| listener.accept()) {
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
        // Without room for it it will be told so when it asks, and is to ask soon: one address would fill all places.
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

/// Whether accepting failed for a connection that is gone: the next one is not concerned.
///
/// Linux hands over what went wrong on the new connection's network already (accept(2), "Error handling"). Any error
/// that is not known to be gone with its connection counts as a shortage: it may last, and must not be spun on.
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

/// How many listeners can't accept now for want of descriptors or memory; shared with whoever tells of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shortages(Arc<AtomicUsize>);

impl Shortages {
    /// Returns how many there are.
    pub(crate) fn count(&self) -> usize {
        // Relaxed: nothing else is read because of it.
        self.0.load(Ordering::Relaxed)
    }
}

/// A time without free descriptors, told at its begin and at its end.
struct Shortage {
    /// Since when, and when accepting failed last.
    times: Option<(Instant, Instant)>,
    /// Counts it as long as it lasts.
    all: Shortages,
}

impl Shortage {
    fn note(&mut self, error: &io::Error) {
        let now = Instant::now();
        match &mut self.times {
            Some((_, last)) => *last = now,
            None => {
                self.times = Some((now, now));
                // Relaxed: see `Shortages::count`.
                self.all.0.fetch_add(1, Ordering::Relaxed);
                warn!(error = %error, "cannot accept, connections wait; raise `ulimit -n` or lower connections_max");
            }
        }
    }

    /// Waits until accepting has not failed for a while, if it ever has; then tells so.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    async fn over(&mut self) {
        match self.times {
            Some((since, last)) => {
                sleep_until(last + OVER_AFTER).await;
                self.times = None;
                // Relaxed: see `Shortages::count`.
                self.all.0.fetch_sub(1, Ordering::Relaxed);
                info!(elapsed = ?since.elapsed(), "accepting again");
            }
            None => std::future::pending().await,
        }
    }
}
