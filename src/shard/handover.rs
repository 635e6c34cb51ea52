//! The way in: a logged-in connection on its way to its shard, its place on the node, and its number among logins.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::SystemTime;

use crate::peer::Peer;
use crate::protocol::Protocol;
use crate::rights::Rights;
use crate::uid::Uid;

/// A logged-in connection on its way from the gateway to the shard that owns its uid; one value, nothing left behind.
#[derive(Debug)]
pub struct Handover<S> {
    /// The connected stream, non-blocking.
    pub socket: S,
    /// Every byte received behind the login frame.
    pub unread: Vec<u8>,
    /// Who logged in.
    pub uid: Uid,
    /// What the client speaks.
    pub protocol: Protocol,
    /// What the client may do.
    pub rights: Rights,
    /// When the session ends for want of a newer credential, by the wall clock; `None` if it may last.
    pub expires: Option<SystemTime>,
    /// When the login frame was read, relative to others, or the request that held the credential.
    pub login: LoginNumber,
    /// The peer's address; `None` for a Unix socket.
    pub peer: Option<Peer>,
    /// The place that admission gave; given back when the session is dropped.
    pub permit: Permit,
}

/// Order in which login frames were read on this node; a lower one never replaces a higher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LoginNumber(u64);

impl fmt::Display for LoginNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where login numbers are drawn; shared by the gateway's threads.
#[derive(Clone, Debug, Default)]
pub struct LoginNumbers(Arc<AtomicU64>);

impl LoginNumbers {
    /// Draws the next number.
    pub fn draw(&self) -> LoginNumber {
        // Relaxed: only the counter's own order matters.
        LoginNumber(self.0.fetch_add(1, Ordering::Relaxed))
    }

    /// Returns how many were drawn.
    pub fn count(&self) -> u64 {
        // Relaxed: a statistic.
        self.0.load(Ordering::Relaxed)
    }
}

/// Connections on the node, against a bound; shared by the gateway's threads.
#[derive(Clone, Debug, Default)]
pub struct Admission(Arc<Places>);

/// Connections of one address, a part of the node's.
#[derive(Debug)]
pub struct Share(Arc<Places>);

/// A connection's place on the node, and in its address's share if it was given one; dropping it gives all back.
///
/// One pointer, whatever is counted: an idle session carries it. Dropping it is an atomic decrement or two, so that a
/// shard never waits for it.
#[derive(Debug)]
pub struct Permit(Option<Arc<Places>>);

/// A count of connections.
#[derive(Debug, Default)]
struct Places {
    taken: AtomicUsize,
    /// What these are a part of.
    whole: Option<Arc<Places>>,
}

impl Admission {
    /// Returns how many places are taken.
    pub fn count(&self) -> usize {
        // Relaxed: a statistic.
        self.0.taken.load(Ordering::Relaxed)
    }

    /// Takes a place if fewer than `connections_max` are taken.
    pub fn admit(&self, connections_max: usize) -> Option<Permit> {
        self.0.take(connections_max).then(|| Permit(Some(Arc::clone(&self.0))))
    }

    /// Makes a share for one address, with no place taken.
    pub fn share(&self) -> Share {
        Share(Arc::new(Places { taken: AtomicUsize::new(0), whole: Some(Arc::clone(&self.0)) }))
    }
}

impl Share {
    /// Counts a place that `permit` has on the node in this share, too, if fewer than `sessions_max` are taken.
    pub fn admit(&self, permit: &mut Permit, sessions_max: usize) -> bool {
        let is_admitted = self.0.take(sessions_max);
        if is_admitted {
            // The node's place is now given back by way of the share.
            permit.0 = Some(Arc::clone(&self.0));
        }
        is_admitted
    }

    /// Tells whether no permit stands for a place in this share; only its owner makes new ones.
    pub fn is_empty(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

impl Permit {
    /// Tells whether its place is counted in the share of an address.
    pub fn has_share(&self) -> bool {
        self.0.as_ref().is_some_and(|places| places.whole.is_some())
    }
}

impl Places {
    fn take(&self, most: usize) -> bool {
        // Relaxed: a count; nothing else is ordered by it.
        let is_taken = self.taken.fetch_add(1, Ordering::Relaxed) < most;
        if !is_taken {
            // Relaxed, as above.
            self.taken.fetch_sub(1, Ordering::Relaxed);
        }
        is_taken
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut places = self.0.as_deref();
        while let Some(taken) = places {
            // Relaxed, as in `take`.
            taken.taken.fetch_sub(1, Ordering::Relaxed);
            places = taken.whole.as_deref();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_gives_back_all_that_it_stands_for() {
        let node = Admission::default();
        let share = node.share();
        let mut permits = [node.admit(3), node.admit(3), node.admit(3)].map(|permit| permit.expect("there is room"));
        assert!(node.admit(3).is_none());
        assert_eq!(node.count(), 3);
        let [first, second, third] = &mut permits;
        assert!(share.admit(first, 2) && share.admit(second, 2) && !share.admit(third, 2));
        assert_eq!(node.count(), 3, "a share is a part of the node's count");
        drop(permits);
        assert_eq!(node.count(), 0);
        assert!(share.is_empty());
        assert_eq!(size_of::<Permit>(), size_of::<usize>());
    }
}
