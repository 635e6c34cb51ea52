//! Listening sockets, TCP and Unix: the server binds them before the node runs, and the gateway and control accept on them.

use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
#[cfg(target_os = "linux")]
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use listenfd::ListenFd;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use crate::config::Listen;
use crate::peer::Peer;

/// The backlog that is asked for; the kernel limits it to its `somaxconn`.
const BACKLOG: i32 = 65_535;

/// A bound socket that is not accepted on yet.
#[derive(Debug)]
pub(crate) enum BoundListener {
    Tcp(std::net::TcpListener, Owner),
    Unix(std::os::unix::net::UnixListener, SocketFile),
}

/// The owner of a listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Node,
    /// The socket stays open when the node ends; the node's successor accepts the connections in its backlog.
    ServiceManager,
}

/// Listening sockets that a service manager opened and passed on, as systemd does (sd_listen_fds(3)).
///
/// They stay open while the node restarts, so that clients wait instead of being refused.
#[derive(Debug, Default)]
pub struct PassedSockets(Vec<(Listen, Passed)>);

#[derive(Debug)]
enum Passed {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl PassedSockets {
    /// Takes the sockets that the variables `LISTEN_FDS` and `LISTEN_PID` describe; none if the variables are not set.
    ///
    /// # Errors
    /// When one of them is not a TCP or Unix stream socket, or does not listen.
    pub fn from_env() -> io::Result<Self> {
        let mut given = ListenFd::from_env();
        let mut sockets = Vec::new();
        for index in 0..given.len() {
            let socket = match given.take_tcp_listener(index) {
                Ok(socket) => socket.map(Passed::Tcp),
                Err(_) => given.take_unix_listener(index)?.map(Passed::Unix),
            };
            let Some(socket) = socket else { continue };
            let address = socket.address()?;
            if !socket.is_listening()? {
                return Err(io::Error::other(format!(
                    "the service manager passed a socket on {address} that does not listen, expected one that does"
                )));
            }
            sockets.push((address, socket));
        }
        Ok(Self(sockets))
    }

    /// Returns the addresses of the sockets that were not taken.
    pub(crate) fn left(&self) -> impl Iterator<Item = &Listen> {
        self.0.iter().map(|(listen, _)| listen)
    }

    fn take(&mut self, listen: &Listen) -> Option<Passed> {
        let place = self.0.iter().position(|(address, _)| address == listen)?;
        Some(self.0.swap_remove(place).1)
    }
}

impl Passed {
    fn address(&self) -> io::Result<Listen> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(Listen::Tcp),
            Self::Unix(listener) => unix_address(&listener.local_addr()?),
        }
    }

    /// Returns whether the socket listens: otherwise accepting would fail for ever. Checked on Linux only.
    #[cfg(target_os = "linux")]
    fn is_listening(&self) -> io::Result<bool> {
        match self {
            Self::Tcp(listener) => SockRef::from(listener).is_listener(),
            Self::Unix(listener) => SockRef::from(listener).is_listener(),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn is_listening(&self) -> io::Result<bool> {
        Ok(true)
    }

    fn into_listener(self, inherited: Inherited) -> io::Result<BoundListener> {
        match self {
            Self::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                set_options(&SockRef::from(&listener), inherited)?;
                Ok(BoundListener::Tcp(listener, Owner::ServiceManager))
            }
            Self::Unix(listener) => {
                listener.set_nonblocking(true)?;
                Ok(BoundListener::Unix(listener, SocketFile::ServiceManagers))
            }
        }
    }
}

/// Options that accepted sockets inherit from their listener.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Inherited {
    /// The kernel's send buffer; `None` lets the kernel tune it.
    pub(crate) send_buffer_bytes: Option<usize>,
    /// `TCP_USER_TIMEOUT`: how long sent bytes may stay unacknowledged, or the peer's window may stay zero, before the
    /// kernel ends the connection; `None` leaves it to the heartbeat.
    pub(crate) user_timeout: Option<Duration>,
}

/// The file of a Unix socket, and who removes it.
#[derive(Debug)]
pub(crate) enum SocketFile {
    /// The service manager's: it stays when the node ends, and the node's successor accepts the connections in the backlog.
    ServiceManagers,
    /// None: the socket is abstract.
    Absent,
    /// The node's: removed when the listener is dropped.
    Own(PathBuf),
}

/// A listener on tokio's poller.
pub(crate) enum Listener {
    Tcp(tokio::net::TcpListener, Owner),
    /// The file is kept only to be removed with the listener.
    Unix(tokio::net::UnixListener, #[allow(dead_code, reason = "held for its drop")] SocketFile),
}

/// A non-blocking listener outside of tokio's poller, to accept the connections that are left in the backlog.
pub(crate) enum BacklogListener {
    Tcp(std::net::TcpListener),
    /// The file is kept only to be removed with the listener.
    Unix(std::os::unix::net::UnixListener, #[allow(dead_code, reason = "held for its drop")] SocketFile),
}

/// An accepted connection.
pub(crate) enum Connection {
    /// With the peer's address, in the canonical form of [`Peer`].
    Tcp(tokio::net::TcpStream, SocketAddr),
    Unix(tokio::net::UnixStream),
}

impl Connection {
    fn tcp(stream: tokio::net::TcpStream, peer: SocketAddr) -> Self {
        Self::Tcp(stream, Peer::from(peer).socket_address())
    }
}

impl BoundListener {
    /// Takes the socket that was passed for this address, or binds one and listens; clients can connect from now on, and
    /// wait in the backlog.
    ///
    /// `unix_mode` sets the permissions of a Unix socket's file that is made here; without it the umask decides.
    pub(crate) fn open(
        listen: &Listen,
        inherited: Inherited,
        unix_mode: Option<u32>,
        passed: &mut PassedSockets,
    ) -> io::Result<Self> {
        match passed.take(listen) {
            Some(socket) => socket.into_listener(inherited),
            None => Self::bind(listen, inherited, unix_mode),
        }
    }

    fn bind(listen: &Listen, inherited: Inherited, unix_mode: Option<u32>) -> io::Result<Self> {
        match listen {
            Listen::Tcp(address) => bind_tcp(*address, inherited).map(|listener| Self::Tcp(listener, Owner::Node)),
            Listen::Unix(path) => {
                remove_stale(path)?;
                let socket = unix_socket()?;
                socket.bind(&SockAddr::unix(path)?)?;
                let file = SocketFile::Own(path.clone());
                if let Some(mode) = unix_mode {
                    fs::set_permissions(path, Permissions::from_mode(mode))?;
                }
                // After setting the permissions, so that no client connects by those of the umask.
                socket.listen(BACKLOG)?;
                Ok(Self::Unix(socket.into(), file))
            }
            Listen::Abstract(name) => {
                let socket = unix_socket()?;
                socket.bind(&SockAddr::unix(format!("\0{name}"))?)?;
                socket.listen(BACKLOG)?;
                Ok(Self::Unix(socket.into(), SocketFile::Absent))
            }
        }
    }

    /// Returns the real address: for port 0, with the port that the kernel has chosen.
    pub(crate) fn address(&self) -> io::Result<Listen> {
        match self {
            Self::Tcp(listener, _) => listener.local_addr().map(Listen::Tcp),
            Self::Unix(listener, _) => unix_address(&listener.local_addr()?),
        }
    }

    /// Registers the socket with the current tokio runtime.
    pub(crate) fn into_listener(self) -> io::Result<Listener> {
        match self {
            Self::Tcp(listener, owner) => {
                tokio::net::TcpListener::from_std(listener).map(|listener| Listener::Tcp(listener, owner))
            }
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
            Self::Tcp(listener, _) => listener.accept().await.map(|(stream, peer)| Connection::tcp(stream, peer)),
            Self::Unix(listener, _) => listener.accept().await.map(|(stream, _)| Connection::Unix(stream)),
        }
    }
}

impl Listener {
    /// Takes the listener off tokio's poller; `None` if the service manager owns the socket, and with it the backlog.
    pub(crate) fn into_backlog(self) -> io::Result<Option<BacklogListener>> {
        match self {
            Self::Tcp(_, Owner::ServiceManager) | Self::Unix(_, SocketFile::ServiceManagers) => Ok(None),
            Self::Tcp(listener, Owner::Node) => {
                listener.into_std().map(|listener| Some(BacklogListener::Tcp(listener)))
            }
            Self::Unix(listener, file) => {
                listener.into_std().map(|listener| Some(BacklogListener::Unix(listener, file)))
            }
        }
    }
}

impl BacklogListener {
    /// Accepts one connection, if one is there.
    pub(crate) fn accept(&self) -> io::Result<Connection> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept()?;
                stream.set_nonblocking(true)?;
                tokio::net::TcpStream::from_std(stream).map(|stream| Connection::tcp(stream, peer))
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
        if let Self::Own(path) = self {
            // Fails if the file has gone, or is another user's by now; there is nothing to do then.
            fs::remove_file(path).ok();
        }
    }
}

fn unix_socket() -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Returns a Unix socket's address in the form of the settings.
fn unix_address(address: &std::os::unix::net::SocketAddr) -> io::Result<Listen> {
    if let Some(path) = address.as_pathname() {
        return Ok(Listen::Unix(path.to_owned()));
    }
    #[cfg(target_os = "linux")]
    if let Some(name) = address.as_abstract_name() {
        let name = std::str::from_utf8(name).map_err(|_| io::Error::other("the name of a socket is not UTF-8"))?;
        return Ok(Listen::Abstract(name.to_owned()));
    }
    Err(io::Error::other("a Unix socket has neither a path nor a name"))
}

fn bind_tcp(address: SocketAddr, inherited: Inherited) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // A restarted server must not wait until its predecessor's connections have left TIME_WAIT.
    socket.set_reuse_address(true)?;
    set_options(&SockRef::from(&socket), inherited)?;
    if address.is_ipv6() {
        // So that "[::]:1234" and "0.0.0.0:1234" can both be listened on.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Sets the options that accepted sockets inherit.
fn set_options(socket: &SockRef<'_>, inherited: Inherited) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    if let Some(bytes) = inherited.send_buffer_bytes {
        socket.set_send_buffer_size(bytes)?;
    }
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(inherited.user_timeout)?;
    Ok(())
}

/// Removes the file of a socket that no process listens on any more.
///
/// # Errors
/// `AlreadyExists` for a file that is no socket, and what the kernel said about removing one that is.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(file) if file.file_type().is_socket() => {}
        Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
        // Binding the socket says what is wrong, if anything is.
        Err(_) => return Ok(()),
    }
    match unix_socket()?.connect(&SockAddr::unix(path)?) {
        Ok(()) => Ok(()),
        // A process listens, and its backlog is full: a blocking connect would wait.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(_) => fs::remove_file(path),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpStream};

    use super::*;

    /// Regression: service managers pass such sockets by default, and all their IPv4 clients had addresses `::ffff:…`.
    #[tokio::test]
    async fn ipv4_clients_of_a_socket_of_both_versions_have_ipv4_addresses() {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP)).expect("a socket");
        socket.set_only_v6(false).expect("it can be of both");
        let mapped = SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), 0));
        socket.bind(&mapped.into()).expect("a port is free");
        socket.listen(2).expect("it can listen");
        socket.set_nonblocking(true).expect("a socket can do that");
        let listener = std::net::TcpListener::from(socket);
        let port = listener.local_addr().expect("it is bound").port();
        let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it listens");
        let check = |connection: Connection, client: &TcpStream| match connection {
            Connection::Tcp(_, peer) => assert_eq!(peer, client.local_addr().expect("it is connected")),
            Connection::Unix(_) => panic!("it came over TCP"),
        };
        let listener = tokio::net::TcpListener::from_std(listener).expect("there is a runtime");
        let listener = Listener::Tcp(listener, Owner::Node);
        let client = connect();
        check(listener.accept().await.expect("it connects"), &client);
        let client = connect();
        let last = listener.into_backlog().expect("it leaves the poller").expect("it is ours");
        check(last.accept().expect("it has connected"), &client);
    }
}
