//! The address of a node's control listener, from the caller: the forms of the setting `control`, and host names and TLS.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

use hyper::Uri;

/// An address to call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// Over TCP.
    Tcp {
        /// Name or address to resolve, without the brackets of an IPv6 address.
        host: String,
        port: u16,
        scheme: Scheme,
    },
    /// A Unix socket at this path.
    Unix(PathBuf),
    /// An abstract Unix socket of this name, on Linux.
    Abstract(String),
}

/// Whether TLS is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    /// Not given: the node's own settings decide.
    Unsaid,
    Http,
    Https,
}

/// A text that is no [`Address`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected HOST:PORT, http://HOST:PORT, https://HOST:PORT, unix:/PATH or, on Linux, unix:@NAME")]
pub(super) struct AddressError;

impl Address {
    /// Returns the value for the request's `Host`.
    pub(super) fn host(&self) -> String {
        match self {
            Self::Tcp { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            Self::Tcp { host, port, .. } => format!("{host}:{port}"),
            Self::Unix(_) | Self::Abstract(_) => "localhost".to_owned(),
        }
    }

    /// Returns whether the address leaves it to the node's settings whether TLS is spoken.
    pub(super) fn is_without_scheme(&self) -> bool {
        matches!(self, Self::Tcp { scheme: Scheme::Unsaid, .. })
    }

    /// Chooses TLS if the scheme was not given.
    pub(super) fn or_secure(self) -> Self {
        match self {
            Self::Tcp { host, port, scheme: Scheme::Unsaid } => Self::Tcp { host, port, scheme: Scheme::Https },
            other => other,
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(name) = text.strip_prefix("unix:@") {
            let is_sound = cfg!(target_os = "linux") && !name.is_empty() && !name.contains('\0');
            return if is_sound { Ok(Self::Abstract(name.to_owned())) } else { Err(AddressError) };
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(AddressError) } else { Ok(Self::Unix(path.into())) };
        }
        let (scheme, rest) = match text.split_once("://") {
            None => (Scheme::Unsaid, text),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (Scheme::Http, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (Scheme::Https, rest),
            Some(_) => return Err(AddressError),
        };
        let uri: Uri = format!("http://{rest}").parse().map_err(|_| AddressError)?;
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or(AddressError)?;
        // A path would be ignored silently, and the node's own settings have none.
        if !matches!(uri.path_and_query().map(|path| path.as_str()), None | Some("/")) {
            return Err(AddressError);
        }
        let port_given = authority.as_str().len() > authority.host().len();
        let port = match (authority.port_u16(), scheme) {
            (Some(port), _) => port,
            (None, Scheme::Http) if !port_given => 80,
            (None, Scheme::Https) if !port_given => 443,
            _ => return Err(AddressError),
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        // A node that listens on every address is called on loopback.
        let host = match host.parse() {
            Ok(IpAddr::V4(Ipv4Addr::UNSPECIFIED)) => Ipv4Addr::LOCALHOST.to_string(),
            Ok(IpAddr::V6(Ipv6Addr::UNSPECIFIED)) => Ipv6Addr::LOCALHOST.to_string(),
            _ => host.to_owned(),
        };
        if host.is_empty() { Err(AddressError) } else { Ok(Self::Tcp { host, port, scheme }) }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { .. } => f.write_str(&self.host()),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Abstract(name) => write!(f, "unix:@{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, host: &str, port: u16, scheme: Scheme) {
        assert_eq!(text.parse(), Ok(Address::Tcp { host: host.to_owned(), port, scheme }), "{text}");
    }

    #[test]
    fn takes_what_a_node_listens_on_and_names() {
        check("127.0.0.1:1235", "127.0.0.1", 1235, Scheme::Unsaid);
        check("localhost:1235", "localhost", 1235, Scheme::Unsaid);
        check("[::1]:1235", "::1", 1235, Scheme::Unsaid);
        check("http://push.example.org:80/", "push.example.org", 80, Scheme::Http);
        check("http://push.example.org", "push.example.org", 80, Scheme::Http);
        check("HTTPS://push.example.org", "push.example.org", 443, Scheme::Https);
        check("https://[::1]:8443", "::1", 8443, Scheme::Https);
        check("0.0.0.0:1235", "127.0.0.1", 1235, Scheme::Unsaid);
        check("[::]:1235", "::1", 1235, Scheme::Unsaid);
        assert_eq!("unix:/run/p.sock".parse(), Ok(Address::Unix("/run/p.sock".into())));
        #[cfg(target_os = "linux")]
        assert_eq!("unix:@p".parse(), Ok(Address::Abstract("p".to_owned())));
    }

    #[test]
    fn refuses_the_rest() {
        for text in ["", "off", "unix:", "unix:@", "localhost", ":1235", "localhost:", "localhost:x", "localhost:65536"]
        {
            assert_eq!(text.parse::<Address>(), Err(AddressError), "{text}");
        }
        for text in ["ws://localhost:1", "http://", "http://a@b:1", "http://b:1/v1", "b:1/?x", "http://b:", "a b:1"] {
            assert_eq!(text.parse::<Address>(), Err(AddressError), "{text}");
        }
    }

    #[test]
    fn knows_itself_as_a_host() {
        for (text, host) in [("[::1]:7", "[::1]:7"), ("https://a", "a:443"), ("unix:/x", "localhost")] {
            assert_eq!(text.parse().map(|address: Address| address.host()).as_deref(), Ok(host));
        }
    }

    #[test]
    fn speaks_tls_where_the_node_does_and_nobody_said() {
        let secure = |text: &str| text.parse().map(Address::or_secure);
        assert_eq!(secure("a:1"), "https://a:1".parse());
        assert_eq!(secure("http://a:1"), "http://a:1".parse());
        assert_eq!(secure("unix:/x"), "unix:/x".parse());
    }
}
