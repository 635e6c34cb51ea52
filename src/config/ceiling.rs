//! The ceiling: the most connections that a node can have, and which of three limits it comes from.
//!
//! `connections_max` alone does not say it: its default is more than most machines can hold. The console, `pombo top`, the
//! metrics and the log all take the number from here.

use super::{Config, memory};

/// Memory of an idle connection, in bytes, the kernel's part included: docs/operations.md has the measured figures, 4.6 kB
/// and 15.1 kB, which are rounded up here.
const PLAIN_BYTES: usize = 5 << 10;
const TLS_BYTES: usize = 16 << 10;

/// A limit on the number of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConnectionLimit {
    /// The setting `connections_max`.
    ConnectionsMax,
    /// The process's limit of open files, less those that the node needs for everything else.
    Descriptors,
    /// Idle connections would fill half of the memory that the process may use; the other half is for `memory_bytes_max`.
    /// This limit is a plan: it refuses no connection.
    Memory,
}

impl ConnectionLimit {
    /// The name of the limit, as metrics and the API write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ConnectionsMax => "connections_max",
            Self::Descriptors => "descriptors",
            Self::Memory => "memory",
        }
    }
}

/// What the ceiling is computed from, except for the descriptors, whose limit may change while the node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    connections_max: usize,
    /// Idle connections that half of the memory has room for.
    in_memory: usize,
}

impl ConnectionLimits {
    /// Returns the limits by the settings, and by the memory that the process may use now. Reads files of the kernel.
    pub fn of(config: &Config) -> Self {
        let each = if config.tls_certificate.is_some() { TLS_BYTES } else { PLAIN_BYTES };
        Self { connections_max: config.connections_max, in_memory: memory::half() / each }
    }

    /// Returns how many connections each limit allows, where `descriptors` are left for connections, `None` for no limit.
    pub fn all(&self, descriptors: Option<u64>) -> impl Iterator<Item = (ConnectionLimit, u64)> {
        [
            (ConnectionLimit::ConnectionsMax, Some(self.connections_max as u64)),
            (ConnectionLimit::Descriptors, descriptors),
            (ConnectionLimit::Memory, Some(self.in_memory as u64)),
        ]
        .into_iter()
        .filter_map(|(limit, connections)| Some((limit, connections?)))
    }

    /// Returns the limit that is reached first, and the connections that it allows.
    pub fn ceiling(&self, descriptors: Option<u64>) -> (ConnectionLimit, u64) {
        let least = self.all(descriptors).min_by_key(|(limit, connections)| (*connections, *limit));
        least.expect("connections_max is always there")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ceiling_is_the_least_of_the_three() {
        #[track_caller]
        fn check(connections_max: usize, descriptors: Option<u64>, in_memory: usize, expected: (ConnectionLimit, u64)) {
            let limits = ConnectionLimits { connections_max, in_memory };
            assert_eq!(limits.ceiling(descriptors), expected);
        }
        check(10, Some(1000), 500, (ConnectionLimit::ConnectionsMax, 10));
        check(10, None, 500, (ConnectionLimit::ConnectionsMax, 10));
        check(10_000, Some(1000), 5000, (ConnectionLimit::Descriptors, 1000));
        check(10_000, Some(100_000), 5000, (ConnectionLimit::Memory, 5000));
        check(10_000, None, 5000, (ConnectionLimit::Memory, 5000));
        check(10_000, Some(0), 5000, (ConnectionLimit::Descriptors, 0));
        // Equal ones: the operator's own number is the plainest answer.
        check(1000, Some(1000), 1000, (ConnectionLimit::ConnectionsMax, 1000));
    }

    #[test]
    fn connection_over_tls_needs_more_memory() {
        let plain = Config::default();
        let tls = Config { tls_certificate: Some("chain.pem".into()), ..Config::default() };
        let (plain, tls) = (ConnectionLimits::of(&plain), ConnectionLimits::of(&tls));
        assert!(tls.in_memory > 0 && plain.in_memory > 3 * tls.in_memory, "{plain:?} {tls:?}");
    }
}
