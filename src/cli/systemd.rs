//! Reports the node's state to the service manager, by the protocol of sd_notify(3), if there is one.
//!
//! ```text
//!   serve, the watchdog's task ──▶ queue ──▶ a task ──▶ the socket that NOTIFY_SOCKET names
//! ```
//! While the service manager is busy, sending a datagram to it blocks; only the task waits for that. The crate sd-notify
//! provides the messages, but not the sending: its own would block, and can't use abstract sockets.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram as StdDatagram};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::net::UnixDatagram;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tracing::error;

use crate::server::Handle;

/// Messages that may wait for the service manager.
const MESSAGES_MAX: usize = 8;

/// How long the service manager may take to receive a message. It must not be short: the service manager ends a service
/// whose messages don't come.
const SEND_TIME: Duration = Duration::from_secs(60);

/// The queue to the service manager's socket, if there is one.
#[derive(Clone)]
pub(super) struct NotifySocket(Option<mpsc::Sender<Entry>>);

enum Entry {
    Message(String),
    /// The task drops it when all messages before it are sent or given up.
    Settle(#[expect(dead_code, reason = "its end is the message")] oneshot::Sender<Infallible>),
}

impl NotifySocket {
    /// Finds the service manager that `variables` name; call it inside a runtime, which runs the task.
    pub(super) fn find(variables: &[(OsString, OsString)]) -> Self {
        let Some((_, name)) = variables.iter().find(|(name, value)| name == "NOTIFY_SOCKET" && !value.is_empty())
        else {
            return Self(None);
        };
        match address(name) {
            Ok(address) => {
                let (sender, messages) = mpsc::channel(MESSAGES_MAX);
                tokio::spawn(deliver(address, messages));
                Self(Some(sender))
            }
            Err(error) => {
                error!(variable = ?name, error = %error, "cannot tell the service manager, see NOTIFY_SOCKET");
                Self(None)
            }
        }
    }

    /// Reports that the node runs.
    pub(super) fn ready(&self) {
        self.notify(&[NotifyState::Ready]);
    }

    /// Reports that a reload has begun; [`NotifySocket::ready`] reports its end.
    pub(super) fn reloading(&self) {
        let now = NotifyState::monotonic_usec_now();
        self.notify(&[NotifyState::Reloading, now.unwrap_or(NotifyState::Custom(""))]);
    }

    /// Reports that the node drains.
    pub(super) fn stopping(&self) {
        self.notify(&[NotifyState::Stopping]);
    }

    /// Waits until all earlier messages are sent, at most `time`.
    pub(super) async fn settle(&self, time: Duration) {
        let Some(sender) = &self.0 else { return };
        let (settle, settled) = oneshot::channel();
        let settling = async {
            if sender.send(Entry::Settle(settle)).await.is_ok() {
                // Nothing is ever sent.
                settled.await.ok();
            }
        };
        timeout(time, settling).await.ok();
    }

    /// Feeds the watchdog, if there is one, for ever, but only while every shard answers.
    pub(super) async fn feed_watchdog(self, handle: Handle) {
        let Some(patience) = sd_notify::watchdog_enabled() else { return };
        // Twice per watchdog interval, as sd_watchdog_enabled(3) recommends, but not without a pause.
        let interval = (patience / 2).max(Duration::from_millis(10));
        loop {
            match timeout(interval, handle.stats()).await {
                Ok(_) => self.notify(&[NotifyState::Watchdog]),
                Err(_) => error!(patience = ?interval, "a shard does not answer, the watchdog is not fed"),
            }
            sleep(interval).await;
        }
    }

    fn notify(&self, states: &[NotifyState<'_>]) {
        let Some(sender) = &self.0 else { return };
        let message = states.iter().map(|state| format!("{state}\n")).collect();
        if sender.try_send(Entry::Message(message)).is_err() {
            error!(states = ?states, "the service manager is not told, it does not take what was said before");
        }
    }
}

/// Sends messages one after the other, until all senders of the queue are dropped.
async fn deliver(address: SocketAddr, mut entries: mpsc::Receiver<Entry>) {
    while let Some(entry) = entries.recv().await {
        // Dropping a `Settle` entry tells its sender that the messages before it are done.
        let Entry::Message(message) = entry else { continue };
        match timeout(SEND_TIME, send(&address, &message)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => error!(error = %error, "cannot tell the service manager"),
            Err(_) => error!(time = ?SEND_TIME, "the service manager takes no message"),
        }
    }
}

/// Sends one message by a new socket: the service manager may have been restarted.
async fn send(address: &SocketAddr, message: &str) -> io::Result<()> {
    let socket = StdDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(address)?;
    UnixDatagram::from_std(socket)?.send(message.as_bytes()).await.map(|_| ())
}

/// Reads `NOTIFY_SOCKET`: a path, or the name of an abstract socket behind an `@`.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'/', ..] => SocketAddr::from_pathname(name),
        [b'@', name @ ..] => abstract_address(name),
        _ => Err(io::Error::other("expected a path or, on Linux, @NAME")),
    }
}

#[cfg(target_os = "linux")]
fn abstract_address(name: &[u8]) -> io::Result<SocketAddr> {
    <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name)
}

#[cfg(not(target_os = "linux"))]
fn abstract_address(_name: &[u8]) -> io::Result<SocketAddr> {
    Err(io::Error::other("expected a path, only Linux has abstract sockets"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_where_the_service_manager_is() {
        let read = |name: &str| address(OsStr::new(name));
        assert_eq!(read("/run/n").expect("a path").as_pathname(), Some(std::path::Path::new("/run/n")));
        #[cfg(target_os = "linux")]
        {
            use std::os::linux::net::SocketAddrExt as _;
            assert_eq!(read("@n").expect("a name").as_abstract_name(), Some(&b"n"[..]));
        }
        for wrong in ["n", "vsock:2:1", &format!("/{}", "x".repeat(108)), &format!("@{}", "x".repeat(108))] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
