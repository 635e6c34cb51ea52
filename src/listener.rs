//! Listening sockets, TCP and Unix: bound before the node runs, accepted on by the gateway.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::config::Listen;

/// Connections that the kernel may hold for us; it takes its own `somaxconn` if that is less.
const BACKLOG: i32 = 65_535;

/// A bound socket that is not accepted on yet.
#[derive(Debug)]
pub(crate) enum BoundListener {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener, SocketFile),
}

/// What accepted sockets inherit from their listener.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Inherited {
    /// The kernel's send buffer; `None` lets the kernel tune it.
    pub(crate) send_buffer_bytes: Option<usize>,
    /// How long sent bytes may stay unacknowledged, or find no room, before the connection counts as dead; `None`
    /// leaves it to the heartbeat.
    pub(crate) user_timeout: Option<Duration>,
}

/// A Unix socket's file, removed when the listener goes.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf);

/// A listener on tokio's poller.
pub(crate) enum Listener {
    Tcp(tokio::net::TcpListener),
    /// The file is kept only to be removed with the listener.
    Unix(tokio::net::UnixListener, #[allow(dead_code, reason = "held for its drop")] SocketFile),
}

/// A listener off tokio's poller, for what is left in the backlog; it still doesn't block.
pub(crate) enum LastListener {
    Tcp(std::net::TcpListener),
    /// The file is kept only to be removed with the listener.
    Unix(std::os::unix::net::UnixListener, #[allow(dead_code, reason = "held for its drop")] SocketFile),
}

/// A connection as accepted.
pub(crate) enum Connection {
    Tcp(tokio::net::TcpStream, SocketAddr),
    Unix(tokio::net::UnixStream),
}

impl BoundListener {
    /// Binds and listens; clients may connect from now on and wait to be accepted.
    pub(crate) fn bind(listen: &Listen, inherited: Inherited) -> io::Result<Self> {
        match listen {
            Listen::Tcp(address) => bind_tcp(*address, inherited).map(Self::Tcp),
            Listen::Unix(path) => {
                remove_stale(path)?;
                let listener = std::os::unix::net::UnixListener::bind(path)?;
                listener.set_nonblocking(true)?;
                Ok(Self::Unix(listener, SocketFile(path.clone())))
            }
        }
    }

    /// Returns the real address: the port is the kernel's choice where 0 was asked for.
    pub(crate) fn address(&self) -> io::Result<Listen> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(Listen::Tcp),
            Self::Unix(_, file) => Ok(Listen::Unix(file.0.clone())),
        }
    }

    /// Moves the socket to the runtime that this is called in.
    pub(crate) fn into_listener(self) -> io::Result<Listener> {
        match self {
            Self::Tcp(listener) => tokio::net::TcpListener::from_std(listener).map(Listener::Tcp),
            Self::Unix(listener, file) => {
                tokio::net::UnixListener::from_std(listener).map(|listener| Listener::Unix(listener, file))
            }
        }
    }
}

impl Listener {
    /// Accepts one connection.
    ///
    /// # Cancel safety
    /// No connection is lost when the future is dropped.
    pub(crate) async fn accept(&self) -> io::Result<Connection> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, peer)| Connection::Tcp(stream, peer)),
            Self::Unix(listener, _) => listener.accept().await.map(|(stream, _)| Connection::Unix(stream)),
        }
    }
}

impl Listener {
    /// Takes the listener off tokio's poller.
    pub(crate) fn into_last(self) -> io::Result<LastListener> {
        match self {
            Self::Tcp(listener) => listener.into_std().map(LastListener::Tcp),
            Self::Unix(listener, file) => listener.into_std().map(|listener| LastListener::Unix(listener, file)),
        }
    }
}

impl LastListener {
    /// Accepts one connection, if one is there.
    pub(crate) fn accept(&self) -> io::Result<Connection> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept()?;
                stream.set_nonblocking(true)?;
                tokio::net::TcpStream::from_std(stream).map(|stream| Connection::Tcp(stream, peer))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                tokio::net::UnixStream::from_std(stream).map(Connection::Unix)
            }
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody else's file by now, or gone: nothing to do about either.
        fs::remove_file(&self.0).ok();
    }
}

fn bind_tcp(address: SocketAddr, inherited: Inherited) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // A restarted server must not wait for its predecessor's connections to time out.
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(bytes) = inherited.send_buffer_bytes {
        socket.set_send_buffer_size(bytes)?;
    }
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(inherited.user_timeout)?;
    if address.is_ipv6() {
        // "[::]:1234" and "0.0.0.0:1234" may both be listened on, as they are written.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Removes a socket file that nobody listens on any more.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
        fs::remove_file(path)?;
    }
    Ok(())
}
