//! Settings of admission: which web pages, through which proxies, how many and how fast; and how each is written.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::str::FromStr;

use ipnet::IpNet;
use toml::Value;

use super::form::Form;
use super::{Config, Listen};

/// The settings by which the gateway admits connections; see the fields of the same names in [`Config`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdmissionSettings {
    /// Which web pages may connect; `auto` is resolved already.
    pub origins: Origins,
    /// The proxies that are trusted to name the client.
    pub trusted_proxies: Vec<TrustedProxy>,
    /// Whether connections of trusted proxies begin with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// Most sessions of one address.
    pub address_sessions_max: Option<NonZeroUsize>,
    /// Most logins of one address in a minute.
    pub address_logins_per_minute: Option<NonZeroUsize>,
    /// Most logins of the node in a second.
    pub logins_per_second: Option<NonZeroUsize>,
}

impl AdmissionSettings {
    /// Returns whether the peer at `address`, or on a Unix socket if that is `None`, is a trusted proxy.
    pub fn trusts(&self, address: Option<IpAddr>) -> bool {
        self.trusted_proxies.iter().any(|proxy| proxy.is_at(address))
    }
}

impl Config {
    /// Returns the settings of admission.
    pub(super) fn admission(&self) -> AdmissionSettings {
        AdmissionSettings {
            origins: match &self.origins {
                Origins::Auto if !self.listen.iter().all(Listen::is_local) => Origins::Any,
                // Any site can show a frame whose origin is `null`.
                Origins::Auto | Origins::Loopback if self.logs_in_by_header() => Origins::LoopbackHosts,
                Origins::Auto => Origins::Loopback,
                decided => decided.clone(),
            },
            trusted_proxies: self.trusted_proxies.clone(),
            proxy_protocol: self.proxy_protocol,
            address_sessions_max: self.address_sessions_max,
            address_logins_per_minute: self.address_logins_per_minute,
            logins_per_second: self.logins_per_second,
        }
    }
}

/// Which web pages may connect. Clients that are not browsers send no `Origin`, and need none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// `Loopback` where only this machine can connect, else `Any`.
    Auto,
    /// Every page.
    Any,
    /// Pages of this machine: from a loopback host, or opened from a file.
    Loopback,
    /// Pages from a loopback host only: `Auto` and `Loopback` mean this where a header of the request logs in.
    LoopbackHosts,
    /// Pages of these origins.
    List(Vec<PageOrigin>),
}

impl Origins {
    /// Returns whether a page whose `Origin` header has this value may connect.
    pub fn allow(&self, origin: &str) -> bool {
        match self {
            Self::Any | Self::Auto => true,
            Self::Loopback => origin == NULL || origin.eq_ignore_ascii_case(FILE) || is_loopback(origin),
            Self::LoopbackHosts => is_loopback(origin),
            Self::List(origins) => origins.iter().any(|allowed| allowed.matches(origin)),
        }
    }
}

/// An origin as a browser writes it: `https://example.com:8443`, `null` or `file://`; `https://*.example.com` stands for
/// every name below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageOrigin(String);

/// The error for a text that is not a [`PageOrigin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected an origin such as https://example.com, null or file://")]
pub struct OriginError;

const NULL: &str = "null";

/// The origin that some browsers, such as those in Cordova and Electron, send for a page opened from a file; others send
/// `null`.
const FILE: &str = "file://";

impl PageOrigin {
    fn matches(&self, origin: &str) -> bool {
        let Some((front, below)) = self.0.split_once("://*.") else { return self.0.eq_ignore_ascii_case(origin) };
        let Some((scheme, host)) = origin.split_once("://") else { return false };
        // The wildcard stands for at least one character.
        let suffix = host.len().checked_sub(below.len() + 1).filter(|at| *at > 0).and_then(|at| host.get(at..));
        front.eq_ignore_ascii_case(scheme)
            && suffix.and_then(|suffix| suffix.strip_prefix('.')).is_some_and(|end| end.eq_ignore_ascii_case(below))
    }
}

impl FromStr for PageOrigin {
    type Err = OriginError;

    /// Accepts origins in the form that browsers send: in lower case, without the scheme's default port.
    fn from_str(text: &str) -> Result<Self, OriginError> {
        if text == NULL {
            return Ok(Self(text.to_owned()));
        }
        if text.eq_ignore_ascii_case(FILE) {
            return Ok(Self(FILE.to_owned()));
        }
        let (scheme, place) = text.split_once("://").ok_or(OriginError)?;
        let name = place.strip_prefix("*.").unwrap_or(place);
        let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        let (host, port) = split_port(name).ok_or(OriginError)?;
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if !is_scheme || !(host.bytes().all(is_host) && !host.is_empty() || is_ipv6(host)) {
            return Err(OriginError);
        }
        let own_port = match scheme.to_ascii_lowercase().as_str() {
            "http" => Some(80),
            "https" => Some(443),
            _ => None,
        };
        let port = port.filter(|port| Some(*port) != own_port).map(|port| format!(":{port}")).unwrap_or_default();
        let star = if name.len() < place.len() { "*." } else { "" };
        Ok(Self(format!("{scheme}://{star}{host}{port}").to_ascii_lowercase()))
    }
}

impl fmt::Display for PageOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns whether a browser's origin is on this machine: `localhost`, a name below it, or a loopback address.
fn is_loopback(origin: &str) -> bool {
    let host = origin.split_once("://").and_then(|(_, place)| split_port(place)).map(|(host, _)| host);
    let Some(host) = host else { return false };
    let address = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(inside) => inside.parse().map(IpAddr::V6),
        None => host.parse().map(IpAddr::V4),
    };
    if let Ok(address) = address {
        return address.to_canonical().is_loopback();
    }
    let host = host.to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}

/// Splits `host[:port]`; the host of an IPv6 address keeps its brackets.
fn split_port(place: &str) -> Option<(&str, Option<u16>)> {
    let bracket = place.rfind(']').map_or(0, |at| at + 1);
    match place[bracket..].find(':') {
        None => (bracket == 0 || bracket == place.len()).then_some((place, None)),
        Some(at) if bracket > 0 && at > 0 => None,
        Some(at) => {
            let port = &place[bracket + at + 1..];
            let is_port = port.bytes().all(|byte| byte.is_ascii_digit());
            port.parse().ok().filter(|_| is_port).map(|port| (&place[..bracket + at], Some(port)))
        }
    }
}

fn is_ipv6(host: &str) -> bool {
    let inside = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    inside.is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok())
}

/// `auto`, `any`, or one or more origins.
pub(super) struct OriginList;

const AUTO: &str = "auto";
const ANY: &str = "any";
const LOOPBACK: &str = "loopback";

impl Form<Origins> for OriginList {
    const MANY: bool = true;
    const PLACEHOLDER: &'static str = "ORIGIN";

    fn read(&self, items: &[String]) -> Option<Origins> {
        let words: Vec<&str> = items.iter().map(String::as_str).collect();
        match words[..] {
            [] => None,
            [AUTO] => Some(Origins::Auto),
            [ANY] => Some(Origins::Any),
            [LOOPBACK] => Some(Origins::Loopback),
            ref words => words.iter().map(|word| word.parse().ok()).collect::<Option<_>>().map(Origins::List),
        }
    }

    fn show(&self, value: &Origins) -> Value {
        match value {
            Origins::Auto => AUTO.into(),
            Origins::Any => ANY.into(),
            Origins::Loopback | Origins::LoopbackHosts => LOOPBACK.into(),
            Origins::List(origins) => origins.iter().map(PageOrigin::to_string).collect::<Vec<_>>().into(),
        }
    }

    fn expected(&self) -> String {
        format!("{AUTO}, {ANY}, {LOOPBACK}, or origins such as https://example.com")
    }
}

/// Proxies that are trusted to name the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrustedProxy {
    /// Every address of this network.
    Network(IpNet),
    /// The peer of a Unix socket.
    Unix,
}

/// The error for a text that is not a [`TrustedProxy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected an address, a network such as 10.0.0.0/8, or unix")]
pub struct TrustedProxyError;

impl TrustedProxy {
    fn is_at(&self, address: Option<IpAddr>) -> bool {
        match (self, address) {
            (Self::Network(network), Some(address)) => network.contains(&address.to_canonical()),
            (Self::Unix, None) => true,
            (Self::Network(_), None) | (Self::Unix, Some(_)) => false,
        }
    }
}

impl FromStr for TrustedProxy {
    type Err = TrustedProxyError;

    fn from_str(text: &str) -> Result<Self, TrustedProxyError> {
        if text == "unix" {
            return Ok(Self::Unix);
        }
        let address = || text.parse::<IpAddr>().map(|address| IpNet::from(address.to_canonical()));
        text.parse().or_else(|_| address()).map(Self::Network).map_err(|_| TrustedProxyError)
    }
}

impl fmt::Display for TrustedProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(network) if network.prefix_len() == network.max_prefix_len() => network.addr().fmt(f),
            Self::Network(network) => network.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// `none`, or one or more proxies.
pub(super) struct Proxies;

const NONE: &str = "none";

impl Form<Vec<TrustedProxy>> for Proxies {
    const MANY: bool = true;
    const PLACEHOLDER: &'static str = "NETWORK";

    fn read(&self, items: &[String]) -> Option<Vec<TrustedProxy>> {
        match items {
            [] => None,
            [none] if none == NONE => Some(Vec::new()),
            items => items.iter().map(|item| item.parse().ok()).collect(),
        }
    }

    fn show(&self, value: &Vec<TrustedProxy>) -> Value {
        if value.is_empty() {
            return NONE.into();
        }
        value.iter().map(TrustedProxy::to_string).collect::<Vec<_>>().into()
    }

    fn expected(&self) -> String {
        format!("{NONE}, or addresses, networks such as 10.0.0.0/8, or unix")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check<T, F: Form<T>>(form: &F, items: &[&str], shown: Option<&str>) {
        let read = |items: &[String]| form.read(items).map(|value| form.show(&value));
        let value = read(&items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>());
        assert_eq!(value.as_ref().map(Value::to_string).as_deref(), shown, "{items:?}");
        let again = value.as_ref().and_then(|value| read(&super::super::form::items(value)));
        assert_eq!(again, value, "{items:?} read, shown and read again");
    }

    #[test]
    fn origins_are_written_as_browsers_send_them() {
        check(&OriginList, &["auto"], Some("\"auto\""));
        check(&OriginList, &["any"], Some("\"any\""));
        check(&OriginList, &["loopback"], Some("\"loopback\""));
        check(&OriginList, &["https://Example.COM:443", "null"], Some("[\"https://example.com\", \"null\"]"));
        check(&OriginList, &["http://x:80"], Some("[\"http://x\"]"));
        check(&OriginList, &["http://[::1]:8080"], Some("[\"http://[::1]:8080\"]"));
        check(&OriginList, &["https://*.example.com:8443"], Some("[\"https://*.example.com:8443\"]"));
        check(&OriginList, &["app://local"], Some("[\"app://local\"]"));
        check(&OriginList, &["File://", "null"], Some("[\"file://\", \"null\"]"));
        for bad in ["file:", "file:///", "file://*", "app://"] {
            check(&OriginList, &[bad], None);
        }
        for bad in
            ["", "example.com", "https://", "https://x/", "https://x/path", "https://x?q", "https://a b", "https://*"]
        {
            check(&OriginList, &[bad], None);
        }
        for bad in
            ["https://u@x", "https://x:", "https://x:+1", "https://x:65536", "://x", "1x://x", "https://[::1", "*"]
        {
            check(&OriginList, &[bad], None);
        }
        check(&OriginList, &[], None);
        check(&OriginList, &["auto", "https://x"], None);
    }

    #[test]
    fn proxies_are_networks() {
        check(&Proxies, &["none"], Some("\"none\""));
        check(&Proxies, &["127.0.0.1", "10.0.0.0/8"], Some("[\"127.0.0.1\", \"10.0.0.0/8\"]"));
        check(&Proxies, &["::1", "fd00::/8", "unix"], Some("[\"::1\", \"fd00::/8\", \"unix\"]"));
        for bad in ["", "localhost", "10.0.0.0/33", "10.0.0/8", "none,unix", "fd00::/129"] {
            check(&Proxies, &[bad], None);
        }
        check(&Proxies, &[], None);
    }

    #[track_caller]
    fn allows(origins: &Origins, origin: &str, expected: bool) {
        assert_eq!(origins.allow(origin), expected, "{origin:?} by {origins:?}");
    }

    #[test]
    fn loopback_is_this_machine_by_any_name() {
        for origin in [
            "null",
            "file://",
            "File://",
            "http://localhost",
            "http://localhost:1234",
            "https://LOCALHOST",
            "http://127.0.0.1:1234",
            "http://127.9.9.9",
            "http://[::1]:1234",
            "http://app.localhost:3000",
        ] {
            allows(&Origins::Loopback, origin, true);
        }
        for origin in [
            "",
            "localhost",
            "https://example.com",
            "http://localhost.example.com",
            "http://127.0.0.1.example.com",
            "http://example.com:127",
            "http://notlocalhost",
            "http://localhost@example.com",
            "http://example.com#localhost",
            "http://[::1].example.com",
            "http://[127.0.0.1]",
            "http://::1",
            "http://0.0.0.0",
            "http://128.0.0.1",
            "http://localhost http://example.com",
            "null ",
            "NULL",
            "file:///",
            "file://example.com",
            "app://",
        ] {
            allows(&Origins::Loopback, origin, false);
        }
    }

    #[test]
    fn a_list_holds_what_it_says() {
        let list = |items: &[&str]| Origins::List(items.iter().map(|item| item.parse().expect(item)).collect());
        let origins = list(&["https://example.com", "https://*.example.org:8443"]);
        for origin in
            ["https://example.com", "HTTPS://Example.com", "https://a.example.org:8443", "https://a.b.example.org:8443"]
        {
            allows(&origins, origin, true);
        }
        for origin in [
            "http://example.com",
            "https://example.com:8443",
            "https://www.example.com",
            "https://example.com.evil.net",
            "https://evilexample.com",
            "https://example.org:8443",
            "https://.example.org:8443",
            "https://evilexample.org:8443",
            "https://a.example.org",
            "https://ä.example.org",
            "null",
            "",
        ] {
            allows(&origins, origin, false);
        }
        allows(&list(&["null"]), "null", true);
        allows(&list(&["null"]), "file://", false);
        allows(&list(&["file://"]), "FILE://", true);
        allows(&list(&["file://"]), "null", false);
        allows(&Origins::Any, "whatever", true);
    }

    #[test]
    fn auto_is_decided_by_who_can_connect() {
        let decided = |listen: &[&str]| {
            let listen = listen.iter().map(|text| text.parse().expect("an address")).collect();
            Config { listen, ..Config::default() }.admission().origins
        };
        assert_eq!(decided(&["127.0.0.1:0", "[::1]:0", "unix:/x"]), Origins::Loopback);
        assert_eq!(decided(&["127.0.0.1:0", "0.0.0.0:0"]), Origins::Any);
    }

    #[test]
    fn trust_is_by_network() {
        let trusts = |proxies: &[&str], address: Option<&str>| {
            let trusted_proxies = proxies.iter().map(|proxy| proxy.parse().expect(proxy)).collect();
            let config = Config { trusted_proxies, ..Config::default() };
            config.admission().trusts(address.map(|address| address.parse().expect(address)))
        };
        assert!(trusts(&["10.0.0.0/8"], Some("10.9.9.9")));
        assert!(trusts(&["10.0.0.0/8"], Some("::ffff:10.9.9.9")));
        assert!(trusts(&["fd00::/8", "127.0.0.1"], Some("127.0.0.1")));
        assert!(trusts(&["unix"], None));
        assert!(!trusts(&["10.0.0.0/8"], Some("11.0.0.1")));
        assert!(!trusts(&["10.0.0.0/8"], None));
        assert!(!trusts(&["unix"], Some("127.0.0.1")));
        assert!(!trusts(&[], Some("127.0.0.1")));
    }
}
