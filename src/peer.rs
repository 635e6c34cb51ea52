//! The other end of a connection: its address, in canonical form, and its port if that is known.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The other end of a connection.
///
/// An IPv4 address in an IPv6 one (`::ffff:192.0.2.1`), which a dual-stack socket reports, becomes the IPv4 address. A proxy
/// may report an address without a port.
///
/// ```
/// use std::net::{IpAddr, SocketAddr};
/// use pombo::Peer;
///
/// let mapped: SocketAddr = "[::ffff:192.0.2.1]:443".parse()?;
/// assert_eq!(Peer::from(mapped).to_string(), "192.0.2.1:443");
/// let address: IpAddr = "2001:db8::1".parse()?;
/// assert_eq!(Peer::from(address).to_string(), "2001:db8::1");
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Port 0, which no connection has, means that the port is unknown.
    address: SocketAddr,
}

impl Peer {
    /// Returns its address.
    pub fn address(self) -> IpAddr {
        self.address.ip()
    }

    /// Returns its address and port; the port is 0 where it is not known.
    pub(crate) fn socket_address(self) -> SocketAddr {
        self.address
    }

    /// Returns its port, if it is known.
    pub fn port(self) -> Option<u16> {
        Some(self.address.port()).filter(|port| *port > 0)
    }
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        match address.ip().to_canonical() {
            IpAddr::V4(v4) => Self { address: SocketAddr::new(v4.into(), address.port()) },
            // Keeps the scope of a link-local address.
            IpAddr::V6(_) => Self { address },
        }
    }
}

impl From<IpAddr> for Peer {
    fn from(address: IpAddr) -> Self {
        SocketAddr::new(address, 0).into()
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port() {
            Some(_) => self.address.fmt(f),
            None => self.address.ip().fmt(f),
        }
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_as_people_know_it() {
        for (address, shown) in [
            ("192.0.2.1:7", "192.0.2.1:7"),
            ("192.0.2.1:0", "192.0.2.1"),
            ("[::ffff:127.0.0.1]:7", "127.0.0.1:7"),
            ("[::ffff:127.0.0.1]:0", "127.0.0.1"),
            ("[::1]:7", "[::1]:7"),
            ("[2001:db8::1]:0", "2001:db8::1"),
            ("[fe80::1%3]:7", "[fe80::1%3]:7"),
        ] {
            let peer = Peer::from(address.parse::<SocketAddr>().expect("an address"));
            assert_eq!((peer.to_string(), format!("{peer:?}")), (shown.to_owned(), shown.to_owned()));
        }
        let peer = Peer::from("::ffff:192.0.2.1".parse::<IpAddr>().expect("an address"));
        assert_eq!((peer.address().is_ipv4(), peer.port()), (true, None));
        assert_eq!(size_of::<Option<Peer>>(), size_of::<SocketAddr>(), "each session has one");
    }
}
