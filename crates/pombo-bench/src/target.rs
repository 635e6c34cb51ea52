//! The server's address, and each client's uid and source address.

use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::secure::Identity;

/// Connections from one loopback address. The kernel has 28,232 ephemeral ports by default, and searches long once they
/// are scarce.
const CONNECTIONS_PER_SOURCE: u16 = 8_000;

/// First port of the further loopback addresses: named, since the kernel takes ever longer to find one for an address
/// that is bound, and below those that it gives to others.
const SOURCE_PORT: u16 = 20_000;

/// The server's address, and the uids of clients.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    /// The `Host` header.
    pub(super) authority: String,
    pub(super) path: String,
    /// The identity that the server must prove; `None` without TLS.
    pub(super) secure: Option<Identity>,
    /// What the uids of this run begin with.
    pub(super) uid_prefix: String,
    /// The first connections' uids, if they were chosen; all others have the prefix and their number.
    pub(super) uids: Vec<String>,
    /// Whether the server is in this very process.
    pub(super) is_inside: bool,
}

impl Target {
    pub(super) fn uid(&self, index: u32) -> String {
        self.uids.get(index as usize).cloned().unwrap_or_else(|| format!("{}{index}", self.uid_prefix))
    }

    /// The address that a client connects from, where it matters.
    pub(super) fn source(&self, index: u32) -> Option<SocketAddr> {
        let (block, place) =
            (index / u32::from(CONNECTIONS_PER_SOURCE), (index % u32::from(CONNECTIONS_PER_SOURCE)) as u16);
        let spread = block > 0 && self.address.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST);
        let source = Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + block);
        spread.then(|| SocketAddr::from((source, SOURCE_PORT + place)))
    }
}

/// A prefix for uids that no other run has, and no user: a login under a uid that is in use would end that user's session.
pub(super) fn fresh_prefix() -> String {
    const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    // The keys of a `RandomState` are random in each process, and differ within one.
    let mut random = RandomState::new().hash_one(std::process::id());
    let letters = (0..6).map(|_| {
        let letter = LETTERS[(random % 36) as usize];
        random /= 36;
        char::from(letter)
    });
    format!("bench-{}-", letters.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_prefixes_differ() {
        let (one, other) = (fresh_prefix(), fresh_prefix());
        assert_ne!(one, other);
        let random = one.strip_prefix("bench-").and_then(|rest| rest.strip_suffix('-')).expect("a name between dashes");
        assert!(random.len() == 6 && random.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{one}");
    }

    #[track_caller]
    fn check_source(address: &str, index: u32, expected: Option<&str>) {
        let target = Target {
            address: address.parse().expect("an address"),
            authority: String::new(),
            path: String::new(),
            secure: None,
            uid_prefix: "u".into(),
            uids: Vec::new(),
            is_inside: false,
        };
        assert_eq!(target.source(index).map(|source| source.to_string()).as_deref(), expected);
    }

    #[test]
    fn sources_spread_on_loopback() {
        check_source("127.0.0.1:1234", 0, None);
        check_source("127.0.0.1:1234", 7_999, None);
        check_source("127.0.0.1:1234", 8_000, Some("127.0.0.2:20000"));
        check_source("127.0.0.1:1234", 16_003, Some("127.0.0.3:20003"));
        check_source("192.0.2.1:1234", 40_000, None);
        check_source("[::1]:1234", 40_000, None);
    }
}
