//! An address to listen on: TCP or a Unix socket, written as one word.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// An address to accept connections on.
///
/// Written `127.0.0.1:1234`, `[::1]:1234`, `localhost:1234` (which is 127.0.0.1), `unix:/run/pombo.sock` or `unix:@pombo`.
/// Other host names are not resolved: the addresses of a node should not depend on a name server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Listen {
    /// A TCP address; port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// A Unix stream socket at this path.
    Unix(PathBuf),
    /// An abstract Unix stream socket of this name (unix(7)): it has no file, and no permissions. Only Linux has them.
    Abstract(String),
}

/// The error for a text that is not a [`Listen`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address to listen on, expected {form}", form = Listen::FORM)]
pub struct ListenError(String);

impl Listen {
    /// The default address of a node.
    pub const LOOPBACK: Self = Self::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1234));

    /// The default address of the control listener.
    pub const CONTROL: Self = Self::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1235));

    /// How an address is written.
    pub const FORM: &str = "IP:PORT, localhost:PORT, unix:/PATH or, on Linux, unix:@NAME";

    /// Returns whether only this machine can connect to it.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) | Self::Abstract(_) => true,
        }
    }
}

impl Listen {
    /// Returns whether only one of both addresses can be listened on.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            // With port 0 the kernel chooses a free one. [::] is IPv6 only.
            (Self::Tcp(one), Self::Tcp(other)) => {
                let is_all = one.ip().is_unspecified() || other.ip().is_unspecified();
                let same_ip = one.ip() == other.ip() || is_all && one.is_ipv4() == other.is_ipv4();
                one.port() != 0 && one.port() == other.port() && same_ip
            }
            _ => self == other,
        }
    }
}

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        let refused = || ListenError(text.to_owned());
        if let Some(name) = text.strip_prefix("unix:@") {
            // The kernel's bound on a socket's path, less the zero byte that an abstract name begins with.
            let fits = cfg!(target_os = "linux") && (1..=107).contains(&name.len()) && !name.contains('\0');
            return if fits { Ok(Self::Abstract(name.to_owned())) } else { Err(refused()) };
        }
        if let Some(path) = text.strip_prefix("unix:") {
            // The kernel's bound on a socket's path, less the zero byte at its end.
            let path_bytes_max = if cfg!(target_os = "linux") { 107 } else { 103 };
            let fits = (1..=path_bytes_max).contains(&path.len()) && !path.contains('\0');
            return if fits { Ok(Self::Unix(path.into())) } else { Err(refused()) };
        }
        if let Some(port) = text.strip_prefix("localhost:") {
            let port = port.parse().map_err(|_| refused())?;
            return Ok(Self::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port))));
        }
        text.parse().map(Self::Tcp).map_err(|_| refused())
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Abstract(name) => write!(f, "unix:@{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, shown: &str) {
        let listen: Listen = text.parse().expect(text);
        assert_eq!(listen.to_string(), shown);
        assert_eq!(shown.parse(), Ok(listen));
    }

    #[track_caller]
    fn refuse(text: &str) {
        assert_eq!(text.parse::<Listen>(), Err(ListenError(text.to_owned())));
    }

    #[test]
    fn reads_addresses() {
        check("127.0.0.1:1234", "127.0.0.1:1234");
        check("0.0.0.0:0", "0.0.0.0:0");
        check("[::1]:0", "[::1]:0");
        check("localhost:80", "127.0.0.1:80");
        check("unix:/run/pombo.sock", "unix:/run/pombo.sock");
        check("unix:relative.sock", "unix:relative.sock");
        check(&format!("unix:/{}", "x".repeat(102)), &format!("unix:/{}", "x".repeat(102)));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn reads_abstract_names() {
        check("unix:@pombo", "unix:@pombo");
        check("unix:@/a b", "unix:@/a b");
        check(&format!("unix:@{}", "x".repeat(107)), &format!("unix:@{}", "x".repeat(107)));
        assert!(Listen::Abstract("pombo".to_owned()).is_local());
    }

    #[test]
    fn refuses_the_rest() {
        for text in ["", ":1234", "1234", "127.0.0.1", "localhost", "localhost:", "localhost:65536", "host:1234"] {
            refuse(text);
        }
        refuse(&format!("unix:@{}", "x".repeat(108)));
        for text in
            ["unix:", "unix:@", "unix:@a\0b", "unix:/a\0b", "[::1]", "::1:0", "tcp:127.0.0.1:1", " 127.0.0.1:1234"]
        {
            refuse(text);
        }
        refuse(&format!("unix:/{}", "x".repeat(107)));
    }

    #[test]
    fn knows_what_is_local() {
        for (text, local) in [
            ("127.0.0.1:1", true),
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("unix:/x", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("192.168.0.1:1", false),
        ] {
            assert_eq!(text.parse::<Listen>().map(|l| l.is_local()), Ok(local), "{text}");
        }
    }

    #[test]
    fn knows_which_addresses_exclude_each_other() {
        for (one, other, overlap) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "localhost:1", true),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("[::]:1", "[::1]:1", true),
            ("unix:/x", "unix:/x", true),
            ("127.0.0.1:1", "127.0.0.1:2", false),
            ("127.0.0.1:1", "127.0.0.2:1", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("[::]:1", "0.0.0.0:1", false),
            ("[::1]:1", "127.0.0.1:1", false),
            ("unix:/x", "unix:/y", false),
            ("unix:/x", "127.0.0.1:1", false),
        ] {
            let listen = |text: &str| text.parse::<Listen>().expect("an address");
            assert_eq!(listen(one).overlaps(&listen(other)), overlap, "{one} {other}");
            assert_eq!(listen(other).overlaps(&listen(one)), overlap, "{other} {one}");
        }
    }
}
